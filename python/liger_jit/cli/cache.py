"""Looks after the cache of compiled kernels and tuning results.

  ls      every entry
  stats   number and size of the entries by target and kernel
  verify  reads every entry and checks it; exit code 1 if one is bad (it will be compiled anew)
  clear   removes every entry of the user's folder

examples:
  liger-jit cache ls --arch sm_90a
  liger-jit cache verify && echo sound
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict

from .. import library
from .output import console, print_json, print_table, size_text


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["ls", "stats", "verify", "clear"])
    parser.add_argument("--arch", help="with ls and stats: only entries of this target")
    parser.add_argument("--kernel", help="with ls and stats: only kernels with this in the name")


def run(asked: argparse.Namespace) -> int:
    return {"ls": ls, "stats": stats, "verify": verify, "clear": clear}[asked.action](asked)


def ls(asked: argparse.Namespace) -> int:
    answer = _listed(asked)
    if asked.json:
        print_json(answer)
        return 0
    rows = [
        [
            file["shelf"],
            _name(file),
            file.get("arch", ""),
            size_text(file["size_bytes"]),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(file["modified_seconds"])),
            file["path"].rsplit("/", 1)[-1],
        ]
        for file in answer["files"]
    ]
    print_table(_title(answer), ["shelf", "kernel", "arch", "size", "written", "file"], rows)
    return 0


def stats(asked: argparse.Namespace) -> int:
    answer = _listed(asked)
    groups: dict[tuple, list[int]] = defaultdict(list)
    for file in answer["files"]:
        groups[file["shelf"], file.get("arch", ""), _name(file)].append(file["size_bytes"])
    rows = [
        {"shelf": shelf, "arch": arch, "kernel": kernel, "entries": len(sizes), "bytes": sum(sizes)}
        for (shelf, arch, kernel), sizes in sorted(groups.items())
    ]
    total = sum(file["size_bytes"] for file in answer["files"])
    if asked.json:
        print_json(
            {
                "folder": answer["folder"],
                "entries": len(answer["files"]),
                "bytes": total,
                "groups": rows,
            }
        )
        return 0
    table = [[*list(row.values())[:-1], size_text(row["bytes"])] for row in rows]
    title = f"{_title(answer)}, {size_text(total)}"
    print_table(title, ["shelf", "arch", "kernel", "entries", "size"], table)
    return 0


def verify(asked: argparse.Namespace) -> int:
    answer = library.ask("_cache", "verify")
    bad = [file["path"] for file in answer["files"] if not file["ok"]]
    if asked.json:
        print_json({"folder": answer["folder"], "entries": len(answer["files"]), "bad": bad})
    else:
        console.print(f"{_title(answer)}: {len(answer['files']) - len(bad)} sound, {len(bad)} bad")
        for path in bad:
            console.print(f"  bad: {path}", highlight=False)
    return 1 if bad else 0


def clear(asked: argparse.Namespace) -> int:
    removed = library.ask("_cache", "clear")["removed"]
    if asked.json:
        print_json({"removed": removed})
    else:
        console.print(f"removed {removed} files")
    return 0


def _listed(asked: argparse.Namespace) -> dict:
    answer = library.ask("_cache", "ls")
    answer["files"] = [
        file
        for file in answer["files"]
        if (not asked.arch or file.get("arch") == asked.arch)
        and (not asked.kernel or asked.kernel.lower() in _name(file).lower())
    ]
    return answer


def _name(file: dict) -> str:
    if not file["ok"]:
        return "(bad)"
    return file.get("kernel") or file.get("fields", {}).get("family", "")


def _title(answer: dict) -> str:
    folder = answer["folder"]
    return f"{folder}, {len(answer['files'])} entries" if folder else "no folder: memory only"
