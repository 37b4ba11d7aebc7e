"""`cache export` and `cache import`: many entries as one file for another machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import __version__, library, patch
from . import UsageError
from .model import add_step, compile_for, model_of
from .output import console, notes, print_json, print_table, size_text


def add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--arch", help="only entries of these targets: sm_90a,gfx90a,cpu")
    parser.add_argument("--kernel", help="only kernels with this in the name")


def add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="kernels.ljb")
    parser.add_argument("--config", help="all that this model needs: a config.json or its folder")
    add_filters(parser)
    add_step(parser)
    parser.add_argument("--date", default="", help="noted in the file; left out, nothing is")


def export_bundle(asked: argparse.Namespace) -> int:
    """Writes entries as one file: those of the cache, or all that a model needs.

    With --config, what is missing is compiled first, for any target and with no GPU. The same
    entries give the same bytes; `sha256` in the answer names them. Exit code 1 if a kernel does
    not compile; then no file is written.
    """
    told = {"liger_jit": __version__, "date": asked.date}
    if asked.config:
        names, failed, settings = _names_of_model(asked)
        told |= settings
    else:
        names, failed = [file["name"] for file in listed(asked)["files"] if file["ok"]], []
        if not names:
            raise UsageError("the cache has no such entry; see `liger-jit cache ls`")
    if failed:
        notes.out(failed[0], highlight=False)
        return 1
    lines = "".join(f"{name}={value}\n" for name, value in told.items())
    path = str(Path(asked.output).absolute())
    answer = library.ask("_cache_export", path, names, lines)
    if asked.json:
        print_json(answer)
    else:
        _tell(answer, f"{size_text(answer['bytes'])} from {size_text(answer['entries_bytes'])}")
    return 0


def import_bundle(asked: argparse.Namespace) -> int:
    """Adds the entries of such a file to the cache; what is there stays as it is.

    All of the file is verified before anything is written: exit code 1, and nothing written, if
    there is something wrong with it. A kernel is code, so take files only from who may run code
    here. To leave the cache alone, name the file in LIGER_JIT_CACHE_READONLY instead.
    """
    answer = library.ask("_cache_import", asked.file)
    if asked.json:
        print_json(answer)
    elif answer["problem"]:
        notes.out(f"{asked.file} is not imported: {answer['problem']}", highlight=False)
    else:
        _tell(answer, f"{answer['written']} written, {answer['existed']} were there")
        if answer["failed"]:
            notes.out(f"{answer['failed']} could not be written", highlight=False)
    return 1 if answer["problem"] or answer["failed"] else 0


def listed(asked: argparse.Namespace) -> dict:
    """The cache's files that the filters let through."""
    answer = library.ask("_cache", "ls")
    arches = asked.arch.split(",") if asked.arch else []
    answer["files"] = [
        file
        for file in answer["files"]
        if (not arches or _is_for(file, arches))
        and (not asked.kernel or asked.kernel.lower() in kernel_name(file).lower())
    ]
    return answer


def kernel_name(file: dict) -> str:
    return file["kernel"] if file["ok"] else "(bad)"


def _is_for(file: dict, arches: list[str]) -> bool:
    # `cpu` stands for this machine's level, which has a name of its own in a key.
    return file.get("arch") in arches or ("cpu" in arches and file.get("backend") == "cpu")


def _names_of_model(asked: argparse.Namespace) -> tuple[list[str], list[str], dict]:
    """Entries that the model needs, errors of compilers, and what the file is to say of it."""
    if not asked.arch:
        raise UsageError("--config needs --arch: sm_90a,gfx90a,cpu")
    if asked.kernel:
        raise UsageError("--kernel goes with what the cache has; leave it or --config away")
    if not library.ask("_environment")["cache"]["folder"]:
        raise UsageError("there is no cache folder to compile into; set LIGER_JIT_CACHE")
    model = model_of(asked)
    replay = patch(model).meta_calls(asked.batch, asked.tokens)
    arches = asked.arch.split(",")
    names, failed = set(), []
    for arch in arches:
        result = compile_for(arch, replay, asked.json)
        names |= set(library.native()._prepared())
        failed += result["failed"]
    # A tune record is known by its family, for its key has the silicon that it was measured on.
    records = [
        file["name"]
        for file in library.ask("_cache", "ls")["files"]
        if file["ok"] and file.get("fields", {}).get("family") in names and _is_for(file, arches)
    ]
    artifacts = [name for name in names if name.startswith("a/")]
    settings = {
        "model": model.config.model_type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "batch": asked.batch,
        "tokens": asked.tokens,
        "autotune": _variable("LIGER_JIT_AUTOTUNE"),
    }
    return artifacts + records, failed, settings


def _variable(name: str) -> str:
    """What this process goes by: with tuning off, a bundle has the first candidates only."""
    for variable in library.ask("_environment")["variables"]:
        if variable["name"] == name:
            return variable["value"] or variable["default"]
    raise KeyError(name)


def _tell(answer: dict, how_much: str) -> None:
    rows = [line.split("=", 1) for line in answer["provenance"].splitlines()]
    rows += [["sha256", answer["sha256"]]]
    title = f"{answer['file']}: {answer['entries']} entries, {how_much}"
    print_table(title, ["what", "value"], rows)
    if answer.get("folder"):
        console.print(f"cache: {answer['folder']}", highlight=False)
