"""Draws the peak memory of linear losses against tokens, a panel for each loss, from lines of
`liger-jit bench --memory`: of the files named, or else the newest in bench/results.

python bench/memory_plot.py [FILE...] [--to docs/pictures/memory_of_linear_losses.png]
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import matplotlib
from liger_jit.bench.memory import BOUND_MIB, KIND
from liger_jit.bench.results import LEAST_MEMORY, OURS, read
from readme_table import ROOT, newest

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

PICTURE = ROOT / "docs" / "pictures" / "memory_of_linear_losses.png"
COLOURS = {
    OURS: "#1667a8",
    LEAST_MEMORY: "#6baed6",
    "eager": "#b5b5b5",
    "compile": "#7a5195",
    "liger": "#ef5675",
}
COLUMNS = 4


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--to", type=Path, default=PICTURE)
    asked = parser.parse_args()
    lines = [line for file in asked.files for line in read(file) if line["kind"] == KIND]
    draw(lines or newest(KIND), asked.to)


def draw(lines: list[dict], picture: Path) -> None:
    """A panel for each loss, with the line that ours is to stay below."""
    panels = panels_of(lines)
    rows = math.ceil(len(panels) / COLUMNS)
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "font.size": 9})
    size = (3.2 * COLUMNS, 2.6 * rows + 0.6)
    figure, grid = plt.subplots(
        rows, COLUMNS, figsize=size, squeeze=False, sharey=True, layout="constrained"
    )
    about = lines[0]
    figure.suptitle(
        f"Peak MiB above the inputs, forward + backward, against tokens: {about['case']}, "
        f"{about['dtype']}, {about['device']}"
    )
    for axes, (op, of_op) in zip(grid.flat, panels.items()):
        axes.set_title(op.removeprefix("fused_linear_").replace("_", " "), fontsize=10)
        _draw_op(axes, of_op)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    handles = {}
    for axes in grid.flat:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels())))
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(picture, dpi=90)
    plt.close(figure)


def panels_of(lines: list[dict]) -> dict[str, list[dict]]:
    """{loss: its lines that were measured}, of providers that have a colour. Raises ValueError
    where there is none."""
    panels: dict[str, list[dict]] = {}
    for line in lines:
        if line["provider"] in COLOURS and "forward_backward_peak_mib" in line:
            panels.setdefault(line["op"], []).append(line)
    if not panels:
        raise ValueError("no line of these is from `liger-jit bench --memory` with a figure")
    return panels


def _draw_op(axes, lines: list[dict]) -> None:
    for provider, colour in COLOURS.items():
        of_provider = [line for line in lines if line["provider"] == provider]
        memory = [line["forward_backward_peak_mib"] for line in of_provider]
        if memory:
            axes.plot(
                [*map(_tokens, of_provider)],
                memory,
                "o-",
                color=colour,
                label=provider,
                markersize=3,
            )
    bound = {_tokens(line): line["gradients_mib"] + BOUND_MIB for line in lines}
    label = f"gradients + {BOUND_MIB} MiB"
    axes.plot([*bound], [*bound.values()], "--", color="#2f9e44", linewidth=1, label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks([*bound], [f"{tokens // 1024}k" for tokens in bound], minor=False)
    axes.set_xticks([], minor=True)


def _tokens(line: dict) -> int:
    return line["rows"] * line.get("sequences", 1)


if __name__ == "__main__":
    main()
