"""Looks after the cache of compiled kernels and tuning results; carries it to other machines.

examples:
  liger-jit cache ls --arch sm_90a
  liger-jit cache verify --repair
  liger-jit cache prune --max-size 500M
  liger-jit cache export --config model/config.json --arch sm_90a,gfx90a -o kernels.ljb
  liger-jit cache import kernels.ljb
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict

from .. import library
from . import UsageError, bundle
from .output import console, print_json, print_table, size_text

MOST_TEXT = 120  # of a key's field, shown to people


def add(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    of_entries = _action(actions, ls, "liger-jit cache ls --arch sm_90a --kernel Rms")
    bundle.add_filters(of_entries)
    one = _action(actions, show, "liger-jit cache show 56c55d16")
    one.add_argument("key", help="the start of an entry's name, as ls prints it")
    bundle.add_filters(_action(actions, stats, "liger-jit cache stats --json"))
    check = _action(actions, verify, "liger-jit cache verify && echo sound")
    check.add_argument("--repair", action="store_true", help="move bad entries out of the way")
    less = _action(actions, prune, "liger-jit cache prune --max-size 500M")
    less.add_argument("--max-size", default="", help="500M, 2G (LIGER_JIT_CACHE_SIZE)")
    bundle.add_export(
        _action(
            actions,
            bundle.export_bundle,
            "liger-jit cache export --arch sm_90a -o kernels.ljb",
            "liger-jit cache export --config model --arch sm_90a,gfx90a -o kernels.ljb",
        )
    )
    taken = _action(actions, bundle.import_bundle, "liger-jit cache import kernels.ljb")
    taken.add_argument("file", help="what `cache export` wrote, from somebody you trust")
    _action(actions, clear, "liger-jit cache clear")


def run(asked: argparse.Namespace) -> int:
    return asked.act(asked)


def _action(actions, act, *examples: str) -> argparse.ArgumentParser:
    """A subcommand whose help is the function's docstring."""
    lines = act.__doc__.strip().splitlines()
    title = "example" if len(examples) == 1 else "examples"
    parser = actions.add_parser(
        act.__name__.removesuffix("_bundle"),
        help=lines[0],
        description="\n".join(line.removeprefix("    ") for line in lines),
        epilog="\n  ".join([f"{title}:", *examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # `cache --json ls` is taken too, so this must not overwrite it.
    parser.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="print JSON and nothing else"
    )
    parser.set_defaults(act=act)
    return parser


def ls(asked: argparse.Namespace) -> int:
    """Every entry, those of read-only folders and bundles too."""
    answer = bundle.listed(asked)
    if asked.json:
        print_json(answer)
        return 0
    rows = [
        [
            file["name"],
            bundle.kernel_name(file),
            file.get("arch", ""),
            size_text(file["size_bytes"]),
            time.strftime("%Y-%m-%d", time.localtime(file["modified_seconds"])),
            "" if file["layer"] == answer["folder"] else file["layer"],
        ]
        for file in answer["files"]
    ]
    columns = ["name", "kernel", "arch", "size", "last used", "read-only layer"]
    print_table(_title(answer), columns, rows)
    return 0


def show(asked: argparse.Namespace) -> int:
    """All that one entry says of itself: its key, its resources or times, where it is.

    Exit code 1 if there is none of that name.
    """
    entries = library.ask("_cache_entries", asked.key)["entries"]
    if not entries:
        raise RuntimeError(f"no entry's name starts with {asked.key!r}; `liger-jit cache ls`")
    if len({entry["name"] for entry in entries}) > 1:
        raise UsageError(f"{len(entries)} entries start with {asked.key!r}; give more of the name")
    if asked.json:
        print_json(entries)
        return 0
    for entry in entries:
        rows = [["file", entry["path"]], ["bytes", f"{entry['size_bytes']:,}"]]
        rows += [[f"key: {name}", _short(value)] for name, value in entry.get("fields", {}).items()]
        rows += list(entry.get("meta", {}).items())
        rows += [["times", entry["times"]]] if "times" in entry else []
        rows += [] if entry["ok"] else [["state", "damaged: `liger-jit cache verify --repair`"]]
        print_table(entry["name"], ["what", "value"], rows)
    return 0


def stats(asked: argparse.Namespace) -> int:
    """Number and size of the entries by target and kernel."""
    answer = bundle.listed(asked)
    groups: dict[tuple, list[int]] = defaultdict(list)
    for file in answer["files"]:
        group = file["kind"], file.get("arch", ""), bundle.kernel_name(file)
        groups[group].append(file["size_bytes"])
    rows = [
        {"kind": kind, "arch": arch, "kernel": kernel, "entries": len(sizes), "bytes": sum(sizes)}
        for (kind, arch, kernel), sizes in sorted(groups.items())
    ]
    total = sum(file["size_bytes"] for file in answer["files"])
    most = library.ask("_environment")["cache"]["most_bytes"]
    if asked.json:
        print_json(
            {
                "folder": answer["folder"],
                "entries": len(answer["files"]),
                "bytes": total,
                "most_bytes": most,
                "groups": rows,
            }
        )
        return 0
    table = [[*list(row.values())[:-1], size_text(row["bytes"])] for row in rows]
    limit = f"pruned to {size_text(most)}" if most else "never pruned"
    title = f"{_title(answer)}, {size_text(total)}, {limit}"
    print_table(title, ["kind", "arch", "kernel", "entries", "size"], table)
    return 0


def verify(asked: argparse.Namespace) -> int:
    """Reads every entry of every layer and checks it; exit code 1 if a bad one stays.

    A bad entry is never used: it is compiled anew. With --repair those of the user's folder are
    moved to its `v1/q/`, and temporaries of killed writers are removed.
    """
    answer = library.ask("_cache", "ls")
    bad = [file["path"] for file in answer["files"] if not file["ok"]]
    moved = library.ask("_cache", "repair")["moved"] if asked.repair else []
    swept = library.ask("_cache", "sweep")["removed"] if asked.repair else 0
    stay = [path for path in bad if path not in moved]
    if asked.json:
        found = {"folder": answer["folder"], "entries": len(answer["files"]), "bad": bad}
        print_json({**found, "moved": moved, "swept": swept})
    else:
        console.print(f"{_title(answer)}: {len(answer['files']) - len(bad)} sound, {len(bad)} bad")
        for path in bad:
            console.print(f"  {'moved' if path in moved else 'bad'}: {path}", highlight=False)
        if stay and not asked.repair:
            console.print("mend: liger-jit cache verify --repair", highlight=False)
    return 1 if stay else 0


def prune(asked: argparse.Namespace) -> int:
    """Removes the longest unused entries until the folder is below a size.

    A process that writes to the cache does the same by itself, at most once a day for a folder,
    with LIGER_JIT_CACHE_SIZE. Read-only layers are never touched, and who reads is not disturbed.
    """
    answer = library.ask("_cache_prune", asked.max_size)
    if asked.json:
        print_json(answer)
    elif answer["problem"]:
        raise RuntimeError(f"the cache cannot be written: {answer['problem']}")
    elif not answer["elected"]:
        console.print("another process prunes this folder just now")
    else:
        console.print(
            f"removed {answer['removed']} files of {size_text(answer['removed_bytes'])}; "
            f"{size_text(answer['kept_bytes'])} stay"
        )
    return 0


def clear(asked: argparse.Namespace) -> int:
    """Removes every entry of the user's folder."""
    removed = library.ask("_cache", "clear")["removed"]
    if asked.json:
        print_json({"removed": removed})
    else:
        console.print(f"removed {removed} files")
    return 0


def _short(text: str) -> str:
    return text if len(text) <= MOST_TEXT else f"({len(text):,} characters; --json has them)"


def _title(answer: dict) -> str:
    folder = answer["folder"]
    return f"{folder}, {len(answer['files'])} entries" if folder else "no folder: memory only"
