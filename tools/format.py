"""Puts the code into its form, or with --check only says what is not: exit code 1."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
MADE = ("build", "dist", "shared")


def cpp_files() -> list[str]:
    own = (one for one in ROOT.iterdir() if one.is_dir() and one.name not in MADE)
    found = (path for one in own if not one.name.startswith(".") for path in one.rglob("*"))
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
