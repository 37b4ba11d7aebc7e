"""Two training runs beside each other: as a table, as JSON and as a picture."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from rich import box
from rich.table import Table

# Largest difference of a step's loss. fp32 on the CPU differs in the last bits, which training
# amplifies; on a GPU weights are bf16, whose every step rounds to 3 digits.
TOLERANCE = {"cpu": 1e-3, "cuda": 5e-2}
COLOURS = {"unpatched": "#b5b5b5", "patched": "#1667a8"}


@dataclass
class Run:
    tokens_in_a_step: int
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    peak_memory_mib: float = 0.0
    kernels: dict[str, int] = field(default_factory=dict)
    modules: dict[str, int] = field(default_factory=dict)

    @property
    def step_s(self) -> float:
        """Median of the steps after the first, which has compiling and first touches in it."""
        return statistics.median(self.seconds[1:] or self.seconds)

    @property
    def tokens_per_s(self) -> float:
        return self.tokens_in_a_step / self.step_s

    def as_json(self) -> dict:
        return {
            "losses": self.losses,
            "tokens_per_s": self.tokens_per_s,
            "peak_memory_mib": self.peak_memory_mib,
            "first_step_s": self.seconds[0],
        }


@dataclass
class Comparison:
    model: str
    device: str
    unpatched: Run
    patched: Run

    @property
    def max_abs_loss_diff(self) -> float:
        differences = [
            abs(new - old)
            for old, new in zip(self.unpatched.losses, self.patched.losses, strict=True)
        ]
        return math.nan if any(map(math.isnan, differences)) else max(differences)

    @property
    def agrees(self) -> bool:
        return self.max_abs_loss_diff <= TOLERANCE[self.device]

    def verdict(self) -> str:
        largest, tolerance = self.max_abs_loss_diff, TOLERANCE[self.device]
        if self.agrees:
            return f"the losses agree: they differ by {largest:.1e} at most ({tolerance:g} allowed)"
        return (
            f"the losses DIFFER by {largest:.1e}; {tolerance:g} is allowed on {self.device}. "
            "This is a bug of liger_jit: please report it with demo.json"
        )

    def write(self, folder: Path) -> None:
        result = {
            "model": self.model,
            "device": self.device,
            "unpatched": self.unpatched.as_json(),
            "patched": self.patched.as_json(),
            "max_abs_loss_diff": self.max_abs_loss_diff,
            "kernels": self.patched.kernels,
        }
        (folder / "demo.json").write_text(json.dumps(result, indent=2) + "\n")
        self.draw(folder / "demo.png")

    def table(self) -> Table:
        old, new = self.unpatched, self.patched
        where = "allocated on the GPU" if self.device == "cuda" else "above the loaded model"
        table = Table(title=f"{self.model} on {self.device}", box=box.SIMPLE_HEAD)
        table.add_column("")
        for title in ("unpatched", "patched", "difference"):
            table.add_column(title, justify="right")
        for step, (a, b) in enumerate(zip(old.losses, new.losses, strict=True), 1):
            table.add_row(f"loss of step {step}", f"{a:.6f}", f"{b:.6f}", f"{b - a:+.1e}")
        table.add_section()
        table.add_row("largest difference", "", "", f"{self.max_abs_loss_diff:.1e}")
        rows = (
            ("tokens/s after the first step", "tokens_per_s", ".1f"),
            (f"peak memory, MiB {where}", "peak_memory_mib", ".0f"),
            ("time to first step, s", "first_step_s", ".2f"),
        )
        for title, name, style in rows:
            a, b = old.as_json()[name], new.as_json()[name]
            change = f"{100 * (b - a) / a:+.1f} %" if a else ""
            table.add_row(title, format(a, style), format(b, style), change)
        for name, title in (
            ("compiled", "kernels compiled"),
            ("tuned", "kernels tuned"),
            ("from_cache", "kernels taken from the cache"),
        ):
            table.add_row(title, "", str(new.kernels[name]), "")
        return table

    def draw(self, path: Path) -> None:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
        figure, (losses, times, memory) = plt.subplots(
            1, 3, figsize=(13, 4.2), width_ratios=[2, 1.2, 0.8], layout="constrained"
        )
        where = "GPU, bfloat16" if self.device == "cuda" else "CPU, float32"
        figure.suptitle(f"Fine-tuning {self.model}, unpatched and patched by liger_jit ({where})")
        runs = {"unpatched": self.unpatched, "patched": self.patched}

        steps = range(1, len(self.unpatched.losses) + 1)
        # One lies on the other, so the lower one is drawn wide.
        losses.plot(
            steps, self.unpatched.losses, color=COLOURS["unpatched"], linewidth=6, label="unpatched"
        )
        losses.plot(
            steps,
            self.patched.losses,
            "o-",
            color=COLOURS["patched"],
            markersize=4,
            label="patched",
        )
        losses.set(xlabel="step", ylabel="loss")
        losses.set_title(f"loss: largest difference {self.max_abs_loss_diff:.1e}", fontsize=11)
        losses.xaxis.get_major_locator().set_params(integer=True)
        losses.legend(frameon=False)

        for index, (name, run) in enumerate(runs.items()):
            seconds = (run.seconds[0], run.step_s)
            places = [group + 0.4 * index for group in (0, 1)]
            bars = times.bar(places, seconds, width=0.38, color=COLOURS[name], label=name)
            times.bar_label(bars, fmt="%.2f", padding=2, fontsize=9)
        times.set_xticks([0.2, 1.2], ["to first step", "each later step"])
        times.set_title("seconds", fontsize=11)
        times.legend(frameon=False)

        values = [run.peak_memory_mib for run in runs.values()]
        bars = memory.bar(list(runs), values, width=0.6, color=list(COLOURS.values()))
        memory.bar_label(bars, fmt="%.0f", padding=2, fontsize=9)
        memory.set_title("peak memory, MiB", fontsize=11)
        for axes in (times, memory):
            axes.margins(y=0.15)
        figure.savefig(path, dpi=120)
        plt.close(figure)
