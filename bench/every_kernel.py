"""Launches every kernel of every op once, forward and backward, at awkward small sizes.

For compute-sanitizer, which proves what the host build cannot (races, barriers, bounds):

    compute-sanitizer --tool racecheck python bench/every_kernel.py [OP ...]

An op may be an internal one: cross_entropy_chunk_ is what fused linear losses launch between their
products.

With LIGER_JIT_AUTOTUNE=first-run the tuner launches all candidates of each kernel as well.
"""

import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "tests" / "ops")]

from liger_jit import functional  # noqa: E402
from liger_jit.library import native  # noqa: E402
from samples import PUBLIC, arguments, differentiable_inputs, operator, results  # noqa: E402

# (rows, size, inner): a ragged pack, several warps, a row that no block holds in registers.
EXTENTS = [(5, 40, 8), (3, 1001, 4), (2, 4096, 2), (2, 20000, 2)]
# Rows of logits that take a cluster: one that starts anywhere, one of which registers hold a part.
CLUSTERED = [(3, 70001, 2), (3, 128256, 2)]
LOSS_OPTIONS = [
    {"label_smoothing": 0.1, "lse_square_scale": 1e-3, "softcap": 5.0},
    {"reduction": "none", "return_token_accuracy": True},
    {"reduction": "sum", "token_scaling": True},
]


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    runs = 0
    for op in sys.argv[1:] or PUBLIC:
        for rows, size, inner in EXTENTS + (CLUSTERED if "cross_entropy" in op else []):
            if op.removesuffix("_backward") in ("rope", "qk_norm_rope", "full_qk_norm_rope"):
                size = min(size, 256) // 2 * 2
            for dtype in ("bf16", "f32"):
                values = arguments(op, device, dtype, rows=rows, size=size, inner=inner)
                if op in PUBLIC:
                    results(operator(op), values, differentiable_inputs(op, values))
                else:
                    operator(op)(**values)
                runs += 1
    if not sys.argv[1:] or "cross_entropy" in sys.argv[1:]:
        runs += losses(device)
    if device == "cuda":
        torch.cuda.synchronize()
    native()._check()
    print(f"{runs} runs of {len(sys.argv[1:] or PUBLIC)} ops on {device}")


def losses(device: str) -> int:
    """Every option of the losses, whose kernels differ by them."""
    runs = 0
    for dtype in (torch.bfloat16, torch.float32):
        x = torch.randn(6, 1003, device=device, dtype=dtype, requires_grad=True)
        hidden = torch.randn(6, 16, device=device, dtype=dtype, requires_grad=True)
        head = torch.randn(1003, 16, device=device, dtype=dtype, requires_grad=True)
        target = torch.randint(1003, (6,), device=device)
        weight = torch.rand(1003, device=device)
        for options in LOSS_OPTIONS:
            for loss in (
                functional.cross_entropy(x, target, weight, **options),
                functional.fused_linear_cross_entropy(
                    hidden, head, target, None, weight, **options
                ),
            ):
                getattr(loss, "loss", loss).sum().mul(2).backward()
                runs += 1
    return runs


if __name__ == "__main__":
    main()
