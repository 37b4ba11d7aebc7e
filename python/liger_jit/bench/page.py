"""One page of HTML from lines: bars for each case, memory against tokens, training steps."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from itertools import groupby

from .results import OURS, subject_of

STYLE = """
body { font: 14px system-ui, sans-serif; max-width: 60em; margin: 2em auto; color: #222 }
h3 { margin: 1.2em 0 0.2em; font-size: 1em }
.row { display: flex; align-items: center; gap: 0.6em }
.row > :first-child { width: 12em; text-align: right }
.row > :nth-child(2) { width: 26em }
.bar { height: 0.9em; background: #b5b5b5 }
.ours .bar { background: #1667a8 }
.absent { color: #888 }
"""
COLOURS = ("#1667a8", "#5aa7dd", "#b5b5b5", "#7a5195", "#ef5675", "#ffa600", "#2f9e44")


def page(lines: list[dict]) -> str:
    first = lines[0]
    about = ", ".join(f"{name} {first[name]}" for name in ("torch", "liger_jit", "commit", "date"))
    parts = [
        f"<!doctype html><meta charset=utf-8><title>liger_jit bench</title><style>{STYLE}</style>",
        f"<h1>liger_jit bench: {escape(first['device'])}</h1><p>{escape(about)}</p>",
    ]
    of_kind = {kind: [line for line in lines if line["kind"] == kind] for kind in _SECTIONS}
    parts += [section(of_kind[kind]) for kind, section in _SECTIONS.items() if of_kind[kind]]
    return "\n".join(parts) + "\n"


def _ops(lines: list[dict]) -> str:
    def text(line):
        both, floor = line["forward_backward_ms"], line["floor_forward_backward_ms"]
        memory = line["forward_backward_peak_mib"]
        speed = f"{both:.4g} ms, {floor / both:.0%} of the floor's speed"
        return floor / both, f"{speed}, {memory:,.0f} MiB"

    title = "<h2>Forward + backward, beside the least time that the memory or cuBLAS needs</h2>"
    return title + _bars(lines, lambda line: f"{line['op']}, {line['case']}", text)


def _host(lines: list[dict]) -> str:
    longest = max(line.get("forward_backward_us", 0) for line in lines) or 1

    def text(line):
        forward, both = line["forward_us"], line["forward_backward_us"]
        return both / longest, f"{forward:.1f} µs forward, {both:.1f} µs forward + backward"

    return "<h2>Host, a call on a small tensor</h2>" + _bars(lines, lambda line: line["op"], text)


def _train_steps(lines: list[dict]) -> str:
    fastest = max(line.get("tokens_per_s", 0) for line in lines) or 1

    def text(line):
        speed = line["tokens_per_s"]
        return speed / fastest, (
            f"{speed:,.0f} tokens/s, {line['peak_gib']:.1f} GiB, first step "
            f"{line['first_step_empty_cache_s']:.2f} s, with a filled cache "
            f"{line['first_step_filled_cache_s']:.2f} s"
        )

    return "<h2>Training steps</h2>" + _bars(lines, lambda line: line["model"], text)


def _post_training(lines: list[dict]) -> str:
    fastest = {}
    for line in lines:
        step, speed = line["step"], line.get("tokens_per_s", 0)
        fastest[step] = max(speed, fastest.get(step, 1))

    def text(line):
        speed = line["tokens_per_s"]
        return speed / fastest[line["step"]], f"{speed:,.0f} tokens/s, {line['peak_gib']:.1f} GiB"

    return "<h2>Whole steps of post-training</h2>" + _bars(lines, subject_of, text)


def _bars(lines: list[dict], subject, text) -> str:
    parts = []
    for title, group in groupby(lines, subject):
        parts.append(f"<h3>{escape(title)}</h3>")
        for line in group:
            name = escape(line["provider"])
            why = line.get("absent") or line.get("failed")
            if why:
                parts.append(
                    f"<div class='row absent'><div>{name}</div><div>{escape(why)}</div></div>"
                )
                continue
            share, figures = text(line)
            ours = " ours" if line["provider"].startswith(OURS) else ""
            bar = f"<div class=bar style='width:{min(share, 1):.1%}'></div>"
            cells = f"<div>{name}</div><div>{bar}</div><div>{figures}</div>"
            parts.append(f"<div class='row{ours}'>{cells}</div>")
    return "\n".join(parts)


def _memory(lines: list[dict]) -> str:
    measured = [line for line in lines if "forward_backward_peak_mib" in line]
    by_op = groupby(measured, lambda line: f"{line['op']}, {line['case']}")
    charts = [f"<h3>{escape(title)}</h3>{_chart(list(group))}" for title, group in by_op]
    return "<h2>Memory above the inputs against tokens, forward + backward</h2>" + "".join(charts)


def _chart(lines: list[dict]) -> str:
    """A curve for each provider, its name at its end."""
    width, height, left = 600, 300, 70
    most_tokens = max(map(_tokens, lines))
    most_mib = max(line["forward_backward_peak_mib"] for line in lines) or 1
    parts = [f"<svg viewBox='0 0 {left + width + 160} {height + 40}'>"]
    names = dict.fromkeys(line["provider"] for line in lines)
    for colour, name in zip(COLOURS, names):
        points = [
            (
                left + width * _tokens(line) / most_tokens,
                10 + height * (1 - line["forward_backward_peak_mib"] / most_mib),
            )
            for line in lines
            if line["provider"] == name
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        x, y = points[-1]
        parts.append(f"<polyline points='{path}' fill=none stroke='{colour}' stroke-width=2 />")
        parts.append(f"<text x={x + 6:.0f} y={y + 4:.0f} fill='{colour}'>{escape(name)}</text>")
    parts += _axis(lines, left, width, height, most_tokens, most_mib)
    return "".join([*parts, "</svg>"])


def _tokens(line: dict) -> int:
    return line["rows"] * line.get("sequences", 1)


def _axis(lines, left, width, height, most_tokens, most_mib) -> Iterable[str]:
    for tokens in sorted(set(map(_tokens, lines))):
        x = left + width * tokens / most_tokens
        yield f"<text x={x:.0f} y={height + 30} text-anchor=middle>{tokens:,}</text>"
    for share in (0, 0.5, 1):
        y = 14 + height * (1 - share)
        yield f"<text x={left - 8} y={y:.0f} text-anchor=end>{share * most_mib:,.0f} MiB</text>"


_SECTIONS = {
    "op": _ops,
    "memory": _memory,
    "memory_by_tokens": _memory,
    "host": _host,
    "train_step": _train_steps,
    "post_training": _post_training,
}
