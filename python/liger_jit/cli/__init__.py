"""The command line `liger-jit`. Each command is a file of this folder with `add` and `run`.

Exit codes: 0 done; 1 a problem was found, or a kernel did not compile; 2 wrong usage.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

COMMANDS = ("list", "show", "compile", "tune", "cache", "doctor", "env", "bench")


class UsageError(Exception):
    """What was asked for makes no sense: exit code 2."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="liger-jit",
        description="Shows, compiles, keeps and times kernels. No command needs a GPU.",
        epilog="example: liger-jit show rms_norm --dtype bf16 --size 4096 --arch sm_90a",
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    runners = {}
    for name in COMMANDS:
        command = import_module(f"{__name__}.{name}")
        lines = command.__doc__.strip().splitlines()
        subparser = subparsers.add_parser(
            name,
            help=lines[0],
            description=lines[0],
            epilog="\n".join(lines[2:]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            conflict_handler="resolve",  # bench's --json names a file
        )
        subparser.add_argument("--json", action="store_true", help="print JSON and nothing else")
        command.add(subparser)
        runners[name] = command.run
    asked = parser.parse_args(arguments)
    try:
        return runners[asked.command](asked)
    except (UsageError, ValueError) as trouble:  # the library's errors on arguments are ValueErrors
        print(f"liger-jit {asked.command}: {_message(trouble)}", file=sys.stderr)
        return 2
    except (ImportError, RuntimeError) as trouble:
        print(f"liger-jit {asked.command}: {_message(trouble)}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `liger-jit list | head`
        sys.stderr.close()
        return 0


def _message(trouble: Exception) -> str:
    # torch puts its C++ stack under the message.
    return str(trouble).split("\nException raised from")[0]
