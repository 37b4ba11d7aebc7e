"""How answers are printed: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

# A file or a pipe has no width; 80 columns would fold names that somebody greps for.
console = Console(width=None if sys.stdout.isatty() else 160)
notes = Console(stderr=True)


def print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")


def print_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Numbers stand on the right. Nothing in a cell is taken for markup. The first column is not
    folded."""
    rows = [list(row) for row in rows]
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD)
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], (int, float)) for row in rows)
        justify = "right" if numeric else "left"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=index == 0)
    for row in rows:
        table.add_row(*(escape(f"{cell:,}" if type(cell) is int else str(cell)) for cell in row))
    console.print(table)


def size_text(size_bytes: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} GiB"
