"""Writes the README's tables of speed from the newest figures in bench/results.

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
    return f"{before}{BEGIN}{tables()}{END}{after}"


def newest(kind: str) -> list[dict]:
    """The lines of a kind, those of each provider of an op or model from the newest folder that has
    them.

    Folders begin with their date, so the last by name is the newest.
    """
    found: dict[tuple[str, str], list[dict]] = {}
    for folder in sorted((ROOT / "bench" / "results").iterdir(), reverse=True):
        of_folder: dict[tuple[str, str], list[dict]] = {}
        for line in _of_kind(kind, lines_of(folder)):
            subject = line.get("op") or line.get("step") or line["model"], line["provider"]
            of_folder.setdefault(subject, []).append({**line, "folder": folder.relative_to(ROOT)})
        found = {**of_folder, **found}
    order = list(dict.fromkeys(provider for _, provider in found))
    subjects = sorted(found, key=lambda subject: (subject[0], order.index(subject[1])))
    return [line for subject in subjects for line in found[subject]]


def lines_of(folder: Path) -> list[dict]:
    files = sorted(folder.glob("*.jsonl"))
    return [json.loads(text) for file in files for text in file.read_text().splitlines()]


def tables() -> str:
    lines, host, steps = newest("op"), newest("host"), newest("train_step")
    speed = min(line["copy_gb_per_s"] for line in lines)
    parts = [
        f"{lines[0]['device']}, bfloat16 where a case names no dtype. Milliseconds of forward +\n"
        "backward; the floor is the bytes that must move over the run's own copy bandwidth\n"
        f"({speed:.0f} GB/s or more), "
        "or for linear losses their matrix products. `–`: not measured. A peer that the newest\n"
        "run left out is from the run before. From\n"
        f"{_sources(lines)}.\n",
        _table(lines, "case", _case, "forward_backward_ms", _digits, floor=True),
        "Microseconds of the host for forward + backward of a small call:\n",
        _table(host, "op", _op, "forward_backward_us", _digits),
    ]
    if any("forward_backward_one_thread_us" in line for line in host):
        parts.append(
            "The same without the hand-over to the engine's own thread, which a\n"
            "backward of any length pays once:\n"
        )
        parts.append(_table(host, "op", _op, "forward_backward_one_thread_us", _digits))
    if steps:
        batch, tokens = steps[0]["batch"], steps[0]["tokens"]
        parts.append(f"Whole training steps of {batch} × {tokens} tokens, tokens/s, from\n")
        parts[-1] += f"{_sources(steps)}:\n"
        parts.append(_table(steps, "model", _model, "tokens_per_s", "{:,.0f}".format))
        for title, figure, form in (
            ("their peak memory, GiB:\n", "peak_gib", "{:.1f}"),
            ("the first step with an empty cache, s:\n", "first_step_empty_cache_s", "{:.1f}"),
            ("and with a filled one, s:\n", "first_step_filled_cache_s", "{:.1f}"),
        ):
            parts.append(title)
            parts.append(_table(steps, "model", _model, figure, form.format))
    post_training = newest("post_training")
    if post_training:
        parts.append(f"Whole steps of post-training, tokens/s, from\n{_sources(post_training)}:\n")
        parts.append(_table(post_training, "step", _step, "tokens_per_s", "{:,.0f}".format))
        parts.append("their peak memory, GiB:\n")
        parts.append(_table(post_training, "step", _step, "peak_gib", "{:.1f}".format))
    return "\n" + "\n".join(parts) + "\n"


def _sources(lines: list[dict]) -> str:
    """Links to the folders of these lines, with the commits that were measured."""
    commits = {line["folder"]: line["commit"] for line in lines}
    return ",\n".join(
        f"[{folder}]({folder}) (commit {commit})" for folder, commit in sorted(commits.items())
    )


def _of_kind(kind: str, lines: list[dict]) -> list[dict]:
    return [line for line in lines if line.get("kind") == kind]


def _case(line: dict) -> str:
    dtype = "" if line["dtype"] == "bf16" else f", {line['dtype']}"
    return f"{_op(line)}, {line['rows']} × {line['case']}{dtype}"


def _op(line: dict) -> str:
    return line["op"].replace("_", " ")


def _model(line: dict) -> str:
    if not line.get("checkpointing"):
        return line["model"]
    return f"{line['model']}, {line['batch']} × {line['tokens']}, checkpointed"


def _step(line: dict) -> str:
    beside = f" beside {line['beside']}" if "beside" in line else ""
    sizes = f"{line['sequences']} × ({line['prompt']} + {line['completion']})"
    return f"{line['step']}, {line['model']}{beside}, {sizes}"


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
        if figure not in line:
            continue
        row = rows.setdefault(subject(line), {})
        row[line["provider"]] = line[figure]
        if floor:  # ours come first, and they are of the newest run
            row.setdefault("floor", line[f"floor_{figure}"])
    columns = [*(["floor"] if floor else []), *providers]
    text = [f"| {title} | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for name, row in rows.items():
        cells = [form(row[column]) if column in row else "–" for column in columns]
        text.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    main()
