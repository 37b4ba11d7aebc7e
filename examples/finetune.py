"""Fine-tunes a causal language model twice, as it is and patched by liger_jit, and compares.

Both runs start from the same weights and see the same batches, which are source text of Python's
standard library. Each is a fresh process. The result is a table, OUTPUT/demo.json and a picture,
OUTPUT/demo.png.

    python examples/finetune.py                          SmolLM2-135M, on the GPU if there is one
    python examples/finetune.py --model PATH_OR_HUB_ID   any causal language model

Exit codes: 0 the losses agree; 1 they do not, or a run failed; 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from comparison import Comparison, Run
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

ROOT = Path(__file__).resolve().parent.parent
RUNS = ("unpatched", "patched")
# Steps, sequences in a batch, tokens in a sequence: two minutes on two cores, one on a GPU.
SIZES = {"cpu": (10, 2, 512), "cuda": (30, 8, 1024)}
console = Console()


class RunFailed(Exception):
    pass


def arguments() -> argparse.Namespace:
    title = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser(description=title, epilog="sizes not given suit the device")
    parser.add_argument("--model", default="SmolLM2-135M", help="a folder, a .gguf or a hub's name")
    parser.add_argument("--device", choices=list(SIZES), help="a GPU if there is one, else the CPU")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int, help="sequences in a step")
    parser.add_argument("--tokens", type=int, help="in a sequence")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "demo", help="a folder")
    asked = parser.parse_args()
    asked.device = asked.device or ("cuda" if has_gpu() else "cpu")
    for name, size in zip(("steps", "batch", "tokens"), SIZES[asked.device], strict=True):
        value = getattr(asked, name)
        if value is None:
            setattr(asked, name, size)
        elif value < (2 if name == "tokens" else 1):
            parser.error(f"--{name} {value} is too small")
    return asked


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def child(part: str, job: dict, work: Path):
    """Runs a part in a process of its own and yields what it tells; its stderr goes to a file."""
    script = Path(__file__).with_name("training_run.py")
    log = work / f"{part}.log"
    with open(log, "w") as errors:
        command = [sys.executable, str(script), part, json.dumps(job), str(work)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        error = None
        try:
            for line in process.stdout:
                if line.startswith("{"):
                    told = json.loads(line)
                    error = told.get("error", error)
                    yield told
            if process.wait() != 0:
                why = error or f"it ended with exit code {process.returncode}"
                raise RunFailed(f"{part}: {why}\n(all it said is in {log})")
        finally:
            process.kill()
            process.wait()


def prepare(job: dict, work: Path) -> str:
    with console.status("loading") as status:
        for told in child("prepare", job, work):
            if "status" in told:
                status.update(told["status"])
            weights = told.get("weights")
    return weights


def train(name: str, job: dict, work: Path, progress: Progress) -> Run:
    run = Run(tokens_in_a_step=job["batch"] * job["tokens"])
    task = progress.add_task(f"{name:>9}", total=job["steps"], note="loading")
    for told in child(name, job, work):
        if "status" in told:
            progress.update(task, note=told["status"])
        if "loss" in told:
            run.losses.append(told["loss"])
            run.seconds.append(told["seconds"])
            note = f"loss {told['loss']:.4f}, {told['seconds']:.2f} s"
            progress.update(task, advance=1, note=note)
        run.peak_memory_mib = told.get("peak_memory_mib", run.peak_memory_mib)
        run.kernels = told.get("kernels", run.kernels)
        run.modules = told.get("modules", run.modules)
    return run


def main() -> int:
    asked = arguments()
    asked.output.mkdir(parents=True, exist_ok=True)
    job = {name: getattr(asked, name) for name in ("model", "device", "steps", "batch", "tokens")}
    console.print(
        f"fine-tuning {asked.model} on {asked.device}: {asked.steps} steps of "
        f"{asked.batch} x {asked.tokens} tokens, twice"
    )
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        job["weights"] = prepare(job, asked.output)
        with Progress(*columns, "{task.fields[note]}", console=console) as progress:
            runs = {name: train(name, job, asked.output, progress) for name in RUNS}
    except RunFailed as failure:
        console.print(f"the demo did not finish. {failure}", style="bold", markup=False)
        return 1
    compared = Comparison(asked.model, asked.device, **runs)
    compared.write(asked.output)
    console.print(compared.table())
    replaced = ", ".join(f"{number} {role}" for role, number in runs["patched"].modules.items())
    console.print(f"replaced: {replaced}")
    console.print(f"written: {asked.output / 'demo.json'}, {asked.output / 'demo.png'}")
    console.print(compared.verdict())
    return 0 if compared.agrees else 1


if __name__ == "__main__":
    sys.exit(main())
