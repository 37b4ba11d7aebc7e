"""`make matrix`: the core tests from the wheel, for each pair of torch and transformers.

One clean environment at a time, in build/matrix; what a pair gave with this wheel is kept there,
and such a pair is not run again. Every torch meets the newest transformers, and every transformers
the oldest and the newest torch. `--write` puts all that is kept into docs/compatibility.md, each
row with the digest of the wheel that gave it.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import runpy
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from core_tests import core_command
from run_tests import environment
from test_summary import Summary

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "matrix"
DOCUMENT = ROOT / "docs" / "compatibility.md"
TABLE = ("<!-- matrix -->", "<!-- end of matrix -->")
TRIED = runpy.run_path(str(ROOT / "python" / "liger_jit" / "tried.py"))
# The oldest pair with the oldest Python; the newest of either ask for 3.11.
OLDEST_PYTHON = "3.10"
PYTHONS = ("3.11", "3.12", "3.13")
# Beside torch and transformers, of any release that goes with them.
PACKAGES = ("pytest", "pytest-timeout", "pytest-xdist", "accelerate", "peft", "matplotlib")


def pairs() -> list[tuple[str, str]]:
    """(torch, transformers), both by minor release."""
    torches, transformers = TRIED["TORCH"], TRIED["TRANSFORMERS"]
    of_torch = [(torch, transformers[-1]) for torch in torches]
    ends = (torches[0], torches[-1])
    return list(dict.fromkeys(of_torch + [(t, one) for t in ends for one in transformers]))


def python_of(pair: tuple[str, str]) -> str:
    if pair == (TRIED["TORCH"][0], TRIED["TRANSFORMERS"][0]):
        return OLDEST_PYTHON
    return PYTHONS[pairs().index(pair) % len(PYTHONS)]


def result_file(pair: tuple[str, str]) -> Path:
    return FOLDER / f"torch{pair[0]}-transformers{pair[1]}.json"


def kept(pair: tuple[str, str]) -> dict | None:
    try:
        return json.loads(result_file(pair).read_text())
    except FileNotFoundError:
        return None


def digest_of(wheel: Path) -> str:
    """Of what is in it, not of when it was packed."""
    whole = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            whole.update(name.encode() + hashlib.sha256(archive.read(name)).digest())
    return whole.hexdigest()[:16]


def make_environment(uv: str, python: str, wheel: Path, pair: tuple[str, str]) -> Path:
    folder = FOLDER / "environment"
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([uv, "venv", "--quiet", "--python", python, folder], check=True)
    exact = [f"torch=={pair[0]}.*", f"transformers=={pair[1]}.*", str(wheel), *PACKAGES]
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", folder / "bin" / "python", *exact], check=True
    )
    return folder / "bin" / "python"


def versions(python: Path) -> dict[str, str]:
    code = (
        "import json, platform, importlib.metadata as m; print(json.dumps({'python': "
        "platform.python_version()} | {n: m.version(n) for n in ('torch', 'transformers')}))"
    )
    return json.loads(subprocess.run([python, "-c", code], check=True, capture_output=True).stdout)


def run_pair(uv: str, wheel: Path, digest: str, pair: tuple[str, str], python: str) -> dict:
    made = make_environment(uv, python, wheel, pair)
    results = result_file(pair).with_suffix(".xml")
    results.unlink(missing_ok=True)
    # The package of the wheel and not the one that lies here.
    options = ("-o", "pythonpath=", "-p", "no:cacheprovider")
    log = result_file(pair).with_suffix(".log")
    with log.open("w") as output, tempfile.TemporaryDirectory(prefix="liger_jit_") as folder:
        variables = environment(folder) | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
        command = core_command(made, results, *options)
        ended = subprocess.run(command, cwd=ROOT, env=variables, stdout=output, stderr=output)
    summary = Summary()
    summary.add_xml("core tests", results, ended.returncode)
    record = versions(made) | {
        "date": datetime.date.today().isoformat(),
        "wheel": digest,
        "passed": summary.passed,
        "failed": summary.failures,
        "skipped": sum(summary.skips.values()),
    }
    result_file(pair).write_text(json.dumps(record, indent=1) + "\n")
    return record


def row_of(pair: tuple[str, str]) -> str:
    record = kept(pair)
    if record is None:
        return f"| {pair[0]} | {pair[1]} | – | not run | | | | |"
    return (
        f"| {record['torch'].split('+')[0]} | {record['transformers']} | {record['python']} "
        f"| {record['date']} | `{record['wheel'][:8]}` "
        f"| {record['passed']} | {len(record['failed'])} | {record['skipped']} |"
    )


def write() -> None:
    head = [
        "| torch | transformers | Python | run on | wheel | passed | failed | skipped |",
        "|---|---|---|---|---|--:|--:|--:|",
    ]
    table = "\n".join([TABLE[0], *head, *(row_of(pair) for pair in pairs()), TABLE[1]])
    text = DOCUMENT.read_text()
    before, rest = text.split(TABLE[0])
    DOCUMENT.write_text(before + table + rest.split(TABLE[1])[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="only write the table of what was run")
    parser.add_argument("--only", nargs=2, metavar=("TORCH", "TRANSFORMERS"), help="one pair, anew")
    parser.add_argument(
        "--python", help="of all environments; else 3.11 to 3.13 take turns, 3.10 with the oldest"
    )
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    wheel = max((ROOT / "dist").glob("*.whl"), key=lambda path: path.stat().st_mtime)
    digest = digest_of(wheel)
    if options.write:
        write()
        return 0
    uv = str(Path(sys.executable).with_name("uv"))
    failed = 0
    for pair in [tuple(options.only)] if options.only else pairs():
        record = kept(pair)
        if options.only or record is None or record["wheel"] != digest:
            try:
                record = run_pair(uv, wheel, digest, pair, options.python or python_of(pair))
            except subprocess.CalledProcessError as trouble:
                print(f"torch {pair[0]}, transformers {pair[1]}: no environment: {trouble}")
                failed += 1
                continue
        failed += bool(record["failed"])
        print(row_of(pair), *record["failed"], sep="\n  ", flush=True)
    write()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
