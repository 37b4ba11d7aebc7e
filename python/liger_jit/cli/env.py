"""Says what was found and where: compilers, devices, cache, environment variables, versions.

Exit code 1 if no compiler was found at all. Paste it into a bug report.

example:
  liger-jit env --json
"""

from __future__ import annotations

import argparse
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from .. import __version__, library
from .output import console, print_json, print_table


def add(parser: argparse.ArgumentParser) -> None:
    pass


def run(asked: argparse.Namespace) -> int:
    answer = {"versions": _versions(), "library": str(library.LIBRARY)}
    answer["binding"] = str(library.BINDING)
    answer |= library.ask("_environment")
    none_found = not any(compiler["found"] for compiler in answer["compilers"])
    if asked.json:
        print_json(answer)
        return 1 if none_found else 0
    versions = [[name, text] for name, text in answer["versions"].items()]
    versions += [[name, answer[name]] for name in ("library", "binding")]
    print_table("versions", ["package", "version"], versions)
    compilers = [
        [
            compiler["backend"],
            "yes" if compiler["found"] else "no",
            compiler["version"],
            compiler["path"] or compiler["problem"],
        ]
        for compiler in answer["compilers"]
    ]
    print_table("compilers", ["backend", "found", "version", "where, or why not"], compilers)
    devices = [
        [
            device["backend"] if device["problem"] else f"{device['backend']}:{device['ordinal']}",
            device["arch"],
            device["name"] or device["problem"],
        ]
        for device in answer["devices"]
    ]
    print_table("devices", ["device", "arch", "name, or why not"], devices)
    cache = answer["cache"]
    console.print(f"cache: {cache['folder'] or 'memory only'} {cache['why_memory_only']}".rstrip())
    for layer in cache["readonly"]:
        console.print(f"read-only {layer['kind']}: {layer['path']} {layer['problem']}".rstrip())
    if cache["remote"]:
        console.print(f"shared cache: {cache['remote']}", highlight=False)
    variables = [
        [variable["name"], variable["value"], variable["default"], variable["meaning"]]
        for variable in answer["variables"]
    ]
    print_table("environment", ["variable", "set to", "default", "meaning"], variables)
    return 1 if none_found else 0


def _versions() -> dict[str, str]:
    found = {
        "liger_jit": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }
    for name in ("transformers", "nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
