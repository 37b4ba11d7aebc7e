"""Times every op of the registry over the cases that it declares, beside eager PyTorch.

    python bench/ops.py [OP ...] [--device cuda|cpu] [--dtype bf16] [--json FILE]

One JSON line for each case: milliseconds of forward and of forward + backward for liger_jit and
for eager, the floor (the bytes that must move over the copy bandwidth measured in the same run; for
fused linear losses their three matrix products, measured as well), the fraction of the floor
reached, and what the compiler says of each kernel. Medians; on a GPU with a cold L2 cache.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "tests" / "ops")]

from liger_jit import functional  # noqa: E402
from liger_jit.library import native, ops  # noqa: E402
from samples import with_leaves  # noqa: E402

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32, "i64": torch.int64}


def eager_of(name: str):
    """The reference that the op's test compares with, in plain torch."""
    if name == "cross_entropy":
        return lambda logits, target: torch.nn.functional.cross_entropy(logits.float(), target)
    if name == "fused_linear_cross_entropy":
        return lambda input, weight, target: torch.nn.functional.cross_entropy(
            (input @ weight.T).float(), target
        )
    return importlib.import_module(f"{name}_test").reference


def median_ms(work, device: str) -> float:
    if device == "cuda":
        from triton.testing import do_bench

        return do_bench(work, warmup=25, rep=150, return_mode="median")
    samples = []
    for _ in range(9):
        begin = time.perf_counter()
        work()
        samples.append((time.perf_counter() - begin) * 1e3)
    return sorted(samples)[len(samples) // 2]


def copy_bytes_per_ms(device: str) -> float:
    source = torch.empty(2**30 if device == "cuda" else 2**27, dtype=torch.uint8, device=device)
    source.random_()
    target = torch.empty_like(source)
    return 2 * source.numel() / median_ms(lambda: target.copy_(source), device)


def arguments(op: dict, case: dict, dtype: str, device: str) -> dict:
    example = native()._example(op["name"], dtype, case["rows"], case["size"], case["inner"])
    found = {}
    for one in json.loads(example):
        if one["kind"] != "tensor":
            continue
        shape, kind = one["shape"], DTYPES[one["dtype"]]
        if kind == torch.int64:
            found[one["name"]] = torch.randint(one["below"], shape, device=device)
        else:
            found[one["name"]] = torch.randn(shape, device=device, dtype=kind)
    if "weight" in found and found["weight"].dim() == 2:
        found["weight"] *= found["weight"].shape[1] ** -0.5  # logits of a trained model's size
    return found


def tensors_of(value) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def size_bytes(tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def floors_ms(op: dict, values: dict, outputs, names, bandwidth: float, device: str):
    """(forward, forward + backward)."""
    if op["composite"]:
        x, weight = values["input"], values["weight"]
        logits = torch.empty(x.shape[0], weight.shape[0], dtype=x.dtype, device=device)
        products = [
            median_ms(lambda: torch.mm(x, weight.T, out=logits), device),
            median_ms(lambda: logits @ weight, device),
            median_ms(lambda: logits.T @ x, device),
        ]
        return products[0], sum(products)
    inputs = size_bytes(values.values())
    gradients = size_bytes(values[name] for name in names)
    if len(outputs) == 1 and outputs[0].dim() == 0:  # a loss makes its gradient as it reads
        return inputs / bandwidth, (inputs + gradients) / bandwidth
    forward = inputs + size_bytes(outputs)
    backward = size_bytes(outputs) + inputs + gradients
    if op["name"] == "rope":
        backward = size_bytes(outputs) + gradients
    if op["name"] == "fused_add_rms_norm":  # reads the sum instead of x and residual, writes one dx
        backward -= 2 * size_bytes([values["x"]])
    return forward / bandwidth, (forward + backward) / bandwidth


def time_case(op: dict, case: dict, dtype: str, device: str, bandwidth: float) -> dict:
    values = arguments(op, case, dtype, device)
    names = [
        name
        for name, value in values.items()
        if value.is_floating_point() and name not in ("cos", "sin")
    ]
    ours, eager = getattr(functional, op["name"]), eager_of(op["name"])
    leaves = with_leaves(values, names)
    outputs = tensors_of(ours(**leaves))
    upstream = [torch.ones_like(output) for output in outputs]

    def forward(function):
        def work():
            with torch.no_grad():
                function(**leaves)

        return work

    def both(function):
        def work():
            made = tensors_of(function(**leaves))
            given = [one.to(output.dtype) for one, output in zip(upstream, made)]
            torch.autograd.grad(made, [leaves[name] for name in names], given)

        return work

    floor_forward, floor_both = floors_ms(op, values, outputs, names, bandwidth, device)
    row = {
        "op": op["name"],
        "case": case["name"],
        "dtype": dtype,
        **{k: case[k] for k in ("rows", "size", "inner")},
    }
    row["forward_ms"] = median_ms(forward(ours), device)
    row["forward_backward_ms"] = median_ms(both(ours), device)
    row["eager_forward_ms"] = median_ms(forward(eager), device)
    row["eager_forward_backward_ms"] = median_ms(both(eager), device)
    row["floor_forward_ms"], row["floor_forward_backward_ms"] = floor_forward, floor_both
    row["fraction_of_floor"] = floor_both / row["forward_backward_ms"]
    row["times_eager"] = row["eager_forward_backward_ms"] / row["forward_backward_ms"]
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}


def kernels_of(op: dict, case: dict, dtype: str, target: str) -> list[dict]:
    """Registers and spills of the op's kernels and its backward's, with the knobs before tuning."""
    found = []
    names = {op["name"], op["backward"]}
    if op["composite"]:
        names = {"cross_entropy_chunk_", "cross_entropy_totals_", "cross_entropy_mean_"}
    for name in sorted(filter(None, names)):
        shown = json.loads(
            native()._show(name, dtype, case["rows"], case["size"], case["inner"], target, True)
        )
        for kernel in shown["kernels"]:
            found.append(
                {k: kernel[k] for k in ("kernel", "registers", "spill_bytes", "compile_ms")}
            )
    return found


def machine(device: str, bandwidth: float) -> dict:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or "cpu"
    return {
        "device": name,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit,
        "copy_gb_per_s": round(bandwidth / 1e6, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ops", nargs="*", metavar="OP", help="all, where none is named")
    parser.add_argument("--device", choices=["cuda", "cpu"])
    parser.add_argument("--dtype", choices=["bf16", "f16", "f32"], default="bf16")
    parser.add_argument("--rows", type=int, help="instead of the case's own, for slow devices")
    parser.add_argument("--commit", help="of the code, where it is not a checkout")
    parser.add_argument("--json", type=Path, help="append one line for each case to this file")
    asked = parser.parse_args()
    device = asked.device or ("cuda" if torch.cuda.is_available() else "cpu")
    bandwidth = copy_bytes_per_ms(device)
    about = machine(device, bandwidth)
    about["commit"] = asked.commit or about["commit"]
    target = "device:cuda:0" if device == "cuda" else "cpu"
    print(f"{about['device']}, copy {about['copy_gb_per_s']} GB/s")
    print(
        f"{'op':28}{'case':20}{'fwd':>9}{'fwd+bwd':>9}{'floor':>9}{'share':>7}{'eager':>9}{'spill':>7}"
    )
    for op in ops():
        if op["internal"] or (asked.ops and op["name"] not in asked.ops):
            continue
        for case in op["cases"]:
            case = {**case, "rows": asked.rows or case["rows"]}
            row = time_case(op, case, asked.dtype, device, bandwidth)
            row["kernels"] = kernels_of(op, case, asked.dtype, target)
            spill = max((kernel["spill_bytes"] for kernel in row["kernels"]), default=0)
            print(
                f"{row['op']:28}{row['case']:20}{row['forward_ms']:9.4f}"
                f"{row['forward_backward_ms']:9.4f}{row['floor_forward_backward_ms']:9.4f}"
                f"{row['fraction_of_floor']:7.2f}{row['eager_forward_backward_ms']:9.4f}{spill:7}",
                flush=True,
            )
            if asked.json:
                with asked.json.open("a") as file:
                    file.write(json.dumps({**row, **about}) + "\n")


if __name__ == "__main__":
    main()
