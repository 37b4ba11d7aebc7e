"""Puts the code into its form, or with --check only says what is not: exit code 1."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
FOLDERS = (
    *("base", "cache", "runtime", "autotune", "ops", "templates", "torch_bindings"),
    *("tests", "bench"),
)


def cpp_files() -> list[str]:
    found = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))
    return sorted(str(path) for path in found if path.suffix in (".h", ".cpp"))


def main() -> int:
    check = "--check" in sys.argv[1:]
    clang = ["--dry-run", "-Werror"] if check else ["-i"]
    commands = [
        [BIN / "clang-format", *clang, *cpp_files()],
        [BIN / "ruff", "format", *(["--check"] if check else []), "."],
    ]
    if check:
        commands.append([BIN / "ruff", "check", "."])
    return max([subprocess.run(command, cwd=ROOT).returncode for command in commands])


if __name__ == "__main__":
    sys.exit(main())
