"""Makes a library to link against that has only the symbols of an old release of the real one.

    old_symbols.py LIBRARY OUTPUT COMPILER --most GLIBC_2.28 --most GLIBCXX_3.4.24 …

What is linked with it asks for nothing newer, and a function that has no old version is an error of
the linker. The result has the real library's soname, so the real one is loaded at run time.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROW = re.compile(
    r"^\s*\d+: (?P<address>[0-9a-f]+) +(?P<size>\d+|0x[0-9a-f]+) (?P<kind>\w+) +"
    r"(?P<binding>GLOBAL|WEAK|UNIQUE) +\w+ +(?P<section>\w+) "
    r"(?P<name>[^@ ]+)(?P<at>@@?)(?P<version>[\w.]+)"
)


@dataclass
class Symbol:
    address: str
    size: int
    kind: str
    is_weak: bool
    name: str
    is_default: bool
    version: str


def numbers(version: str) -> tuple[str, tuple[int, ...] | None]:
    """("GLIBC", (2, 28)); no numbers for one of a single release, such as CXXABI_FLOAT128."""
    family, _, rest = version.rpartition("_")
    return family, tuple(map(int, rest.split("."))) if re.fullmatch(r"[\d.]+", rest) else None


def readelf(option: str, library: Path) -> str:
    command = ["readelf", "--wide", option, str(library)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def read(library: Path) -> list[Symbol]:
    symbols = []
    for row in filter(None, map(ROW.match, readelf("--dyn-syms", library).splitlines())):
        if row["section"] in ("UND", "ABS"):  # those of others, and names of versions
            continue
        size = int(row["size"], 0)
        default = row["at"] == "@@"
        symbols.append(
            Symbol(
                row["address"],
                size,
                row["kind"],
                row["binding"] == "WEAK",
                row["name"],
                default,
                row["version"],
            )
        )
    return symbols


def is_allowed(version: str, most: dict[str, tuple[int, ...]]) -> bool:
    family, number = numbers(version)
    return version != "GLIBC_PRIVATE" and (
        number is None or family not in most or number <= most[family]
    )


def of_old_release(symbols: list[Symbol], most: dict[str, tuple[int, ...]]) -> list[Symbol]:
    """Those of allowed versions. Where the default is newer, the newest of them was the default."""
    names: dict[str, list[Symbol]] = {}
    for symbol in symbols:
        names.setdefault(symbol.name, []).append(symbol)
    kept = []
    for versions in names.values():
        allowed = [one for one in versions if is_allowed(one.version, most)]
        has_newer = any(one.is_default and one not in allowed for one in versions)
        if allowed and has_newer:
            max(allowed, key=lambda one: numbers(one.version)[1] or ()).is_default = True
        kept += allowed
    return kept


def assembly(symbols: list[Symbol]) -> str:
    """Names of one address stay together: a program that copies one copies all."""
    places: dict[tuple[str, str], list[Symbol]] = {}
    for symbol in symbols:
        kind = {"OBJECT": "object", "TLS": "tls_object"}.get(symbol.kind, "function")
        places.setdefault((kind, symbol.address), []).append(symbol)
    sections = {
        "object": ".data",
        "tls_object": '.section .tbss,"awT",@nobits',
        "function": ".text",
    }
    lines, count = [], 0
    for (kind, _), group in sorted(places.items()):
        lines += [sections[kind], ".balign 32"]
        for symbol in group:
            label = f"old_symbol_{count}"
            count += 1
            at = "@@" if symbol.is_default else "@"
            lines += [
                f"{'.weak' if symbol.is_weak else '.globl'} {label}",
                f".type {label}, @{kind}",
                f".size {label}, {symbol.size}",
                f".symver {label}, {symbol.name}{at}{symbol.version}, remove",
                f"{label}:",
            ]
        lines.append(f".zero {max(max(symbol.size for symbol in group), 1)}")
    return "\n".join([*lines, '.section .note.GNU-stack,"",@progbits', ""])


def soname(library: Path) -> str:
    return re.search(r"Library soname: \[(.+)\]", readelf("--dynamic", library))[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("compiler")
    parser.add_argument("--most", action="append", required=True)
    asked = parser.parse_args()
    symbols = of_old_release(read(asked.library), dict(map(numbers, asked.most)))
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    source, script = (asked.output.with_name(asked.output.name + end) for end in (".s", ".map"))
    source.write_text(assembly(symbols))
    script.write_text("".join(f"{one} {{}};\n" for one in sorted({s.version for s in symbols})))
    linked = [f"-Wl,-soname,{soname(asked.library)}", f"-Wl,--version-script,{script}"]
    command = [asked.compiler, "-shared", "-nostdlib", *linked, source, "-o", asked.output]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
