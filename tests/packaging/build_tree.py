"""The build that the library under test lies in: how its parts are compiled and linked."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from liger_jit import library

ROOT = Path(__file__).resolve().parents[2]
BUILD = library.LIBRARY.resolve().parent
CORE, BINDING = library.LIBRARY.name, library.BINDING.name


def needs_build():
    """Skips the whole file where the library came without one."""
    if not (BUILD / "CMakeCache.txt").is_file():
        why = "the library lies in no build that could be linked anew"
        pytest.skip(why, allow_module_level=True)


def cmake():
    return re.search(r"CMAKE_COMMAND:\w+=(.+)", (BUILD / "CMakeCache.txt").read_text())[1]


def link_command(part):
    """The words that the build links this library with."""
    settings = (BUILD / "CMakeCache.txt").read_text()
    ninja = re.search(r"CMAKE_MAKE_PROGRAM:\w+=(.+)", settings)[1]
    told = subprocess.run(
        [ninja, "-C", BUILD, "-t", "commands", part],
        capture_output=True,
        text=True,
        check=True,
    )
    (link,) = [part for part in told.stdout.splitlines()[-1].split(" && ") if " -shared " in part]
    # shlex leaves the backslash of "\\$ORIGIN", which a shell takes away.
    return [word.replace("\\$", "$") for word in shlex.split(link)]


def compile_command(source):
    """The words that the build compiles a source of the core or of the binding with."""
    parts = ("liger_core.dir", f"{BINDING.removeprefix('lib').removesuffix('.so')}.dir")
    for one in json.loads((BUILD / "compile_commands.json").read_text()):
        if one["file"] == str(source) and any(part in one["output"] for part in parts):
            return shlex.split(one["command"])
    raise LookupError(source)
