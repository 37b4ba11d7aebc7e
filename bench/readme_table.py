"""Writes the README's tables of speed from the newest folder of bench/results with figures of ops.

python bench/readme_table.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
BEGIN = "<!-- made by bench/readme_table.py -->\n"
END = "<!-- end of what it made -->\n"


def main() -> None:
    README.write_text(with_tables(README.read_text()))


def with_tables(readme: str) -> str:
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}{tables(newest())}{END}{after}"


def newest() -> Path:
    """Folders begin with their date, so the last by name is the newest."""
    folders = sorted((ROOT / "bench" / "results").iterdir(), reverse=True)
    return next(folder for folder in folders if any(_of_kind("op", lines_of(folder))))


def lines_of(folder: Path) -> list[dict]:
    files = sorted(folder.glob("*.jsonl"))
    return [json.loads(text) for file in files for text in file.read_text().splitlines()]


def tables(folder: Path) -> str:
    lines = lines_of(folder)
    first = _of_kind("op", lines)[0]
    link = folder.relative_to(ROOT)
    parts = [
        f"[{link}]({link}):\n{first['device']}, bfloat16, commit {first['commit']}. Milliseconds "
        "of forward + backward; the floor is\nthe bytes that must move over the copy bandwidth of "
        f"the same run ({first['copy_gb_per_s']:.0f} GB/s), or for linear\nlosses their matrix "
        "products. `–`: not measured, the lines there say why.\n",
        _table(_of_kind("op", lines), "case", _case, "forward_backward_ms", _digits, floor=True),
    ]
    host = _of_kind("host", lines)
    if host:
        parts.append("Microseconds of the host for forward + backward of a small call:\n")
        parts.append(_table(host, "op", _op, "forward_backward_us", _digits))
        if any("forward_backward_one_thread_us" in line for line in host):
            parts.append(
                "The same without the hand-over to the engine's own thread, which a\n"
                "backward of any length pays once:\n"
            )
            parts.append(_table(host, "op", _op, "forward_backward_one_thread_us", _digits))
    steps = _of_kind("train_step", lines)
    if steps:
        batch, tokens = steps[0]["batch"], steps[0]["tokens"]
        parts.append(f"Whole training steps of {batch} × {tokens} tokens, tokens/s:\n")
        parts.append(_table(steps, "model", _model, "tokens_per_s", "{:,.0f}".format))
        parts.append("and their peak memory, GiB:\n")
        parts.append(_table(steps, "model", _model, "peak_gib", "{:.1f}".format))
    return "\n" + "\n".join(parts) + "\n"


def _of_kind(kind: str, lines: list[dict]) -> list[dict]:
    return [line for line in lines if line.get("kind") == kind]


def _case(line: dict) -> str:
    return f"{_op(line)}, {line['rows']} × {line['case']}"


def _op(line: dict) -> str:
    return line["op"].replace("_", " ")


def _model(line: dict) -> str:
    return line["model"]


def _digits(value: float) -> str:
    return f"{value:#.3g}".rstrip(".")


def _table(
    lines: list[dict],
    title: str,
    subject: Callable[[dict], str],
    figure: str,
    form: Callable[[float], str],
    floor: bool = False,
) -> str:
    """A row for each subject, a column for each provider that has a figure anywhere."""
    providers = list(dict.fromkeys(line["provider"] for line in lines if figure in line))
    rows: dict[str, dict[str, float]] = {}
    for line in lines:
        row = rows.setdefault(subject(line), {})
        if figure in line:
            row[line["provider"]] = line[figure]
            if floor:
                row["floor"] = line[f"floor_{figure}"]
    columns = [*(["floor"] if floor else []), *providers]
    text = [f"| {title} | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for name, row in rows.items():
        cells = [form(row[column]) if column in row else "–" for column in columns]
        text.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    main()
