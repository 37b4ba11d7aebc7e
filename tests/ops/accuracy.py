"""The rule that every op is held to: no further from float64 than eager PyTorch is.

An op and a reference in plain torch are given the same tensors. The reference in float64 is the
truth; the reference in the tensors' own dtype is eager PyTorch. Errors are ratios of norms.
"""

import re
from dataclasses import dataclass

import pytest
import torch

HALVES = [torch.bfloat16, torch.float16]
DTYPES = [torch.float32, *HALVES]


@dataclass(frozen=True)
class Tolerance:
    """What is allowed beyond `factor` times eager's error, relative to the norm of the truth."""

    slack: float  # two sums of the same numbers in another order
    scalar_slack: float  # eager may hit a few numbers by luck, so this is one rounding
    factor: float = 1.05


TOLERANCE = {
    torch.float64: Tolerance(slack=2e-15, scalar_slack=1e-14),
    torch.float32: Tolerance(slack=5e-8, scalar_slack=3e-7),
    torch.float16: Tolerance(slack=2e-5, scalar_slack=5e-4),
    torch.bfloat16: Tolerance(slack=1e-4, scalar_slack=4e-3),
}


def dtypes_of(device):
    """Every dtype an op takes on that device; float64 is for the CPU."""
    return [*DTYPES, torch.float64] if device == "cpu" else DTYPES


def relative_error(value, truth):
    """Norm of the difference over the norm of the truth; the plain norm where the truth is zero."""
    assert value.shape == truth.shape, f"shape {tuple(value.shape)}, not {tuple(truth.shape)}"
    difference = (value.double() - truth.double()).norm().item()
    size = truth.double().norm().item()
    return difference / size if size > 0 else difference


def cast(inputs, dtype):
    """The inputs with their floating-point tensors in another dtype."""
    return {name: value.to(dtype) if is_float(value) else value for name, value in inputs.items()}


def is_float(value):
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def run(function, inputs, wrt=(), grad_output=None):
    """{name: tensor} of the outputs and of the gradients of those named in wrt.

    Leaves keep the strides and offset of the inputs. grad_output holds the gradient of each
    output, or is None for ones.
    """
    leaves = {
        name: value.detach().requires_grad_(name in wrt) if is_float(value) else value
        for name, value in inputs.items()
    }
    outputs = function(**leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    result = {f"output {i}": output.detach() for i, output in enumerate(outputs)}
    if wrt:
        if grad_output is None:
            grad_output = [torch.ones_like(output) for output in outputs]
        # An output that depends on nothing in wrt is a constant.
        pairs = [pair for pair in zip(outputs, grad_output, strict=True) if pair[0].requires_grad]
        gradients = torch.autograd.grad(
            [output for output, _ in pairs],
            [leaves[name] for name in wrt],
            [gradient.to(output.dtype) for output, gradient in pairs],
        )
        for name, gradient in zip(wrt, gradients, strict=True):
            assert gradient.dtype == leaves[name].dtype
            result[f"gradient of {name}"] = gradient
    return result


def assert_as_exact_as_eager(
    ours, reference, inputs, wrt=(), grad_output="random", eager=None, slack_of_products=0.0
):
    """Runs both on the inputs (a dict of keyword arguments) and compares all outputs and gradients.

    grad_output: "random" gradients for the outputs, or "ones". eager: the reference in the
    inputs' own dtypes, if it is not the reference itself. slack_of_products: what matrix products
    in another order may differ by, for an op that makes them in other pieces than eager does.
    """
    truth_of_outputs = run(reference, cast(inputs, torch.float64))
    dtype = next(value.dtype for value in inputs.values() if is_float(value))
    grads = None
    if grad_output == "random":
        # Rounded to the dtype under test, so that all three runs get the same numbers.
        grads = [torch.randn_like(output).to(dtype) for output in truth_of_outputs.values()]
    truth = run(reference, cast(inputs, torch.float64), wrt, grads)
    theirs = run(eager or reference, inputs, wrt, grads)
    mine = run(ours, inputs, wrt, grads)
    for name, exact in truth.items():
        value = mine[name]
        assert value.isfinite().all(), f"{name} is not finite"
        limit = TOLERANCE[value.dtype]
        few = exact.numel() < 16
        slack = max(limit.scalar_slack if few else limit.slack, slack_of_products)
        # A single number out of half-precision inputs carries their rounding, whatever its dtype.
        slack = max(slack, TOLERANCE[dtype].scalar_slack) if exact.numel() == 1 else slack
        error, eager_error = relative_error(value, exact), relative_error(theirs[name], exact)
        # The truth rounded once is as good as any result of that dtype can be, but for luck.
        eager_error = max(eager_error, relative_error(exact.to(value.dtype), exact))
        assert error <= limit.factor * eager_error + slack, (
            f"{name}: error {error:.3e}, eager {eager_error:.3e}, dtype {value.dtype}"
        )
    return mine


def assert_same_specials(value, eager):
    """inf and NaN stand where eager has them; what is finite agrees to the dtype's precision."""
    assert torch.equal(value.isnan(), eager.isnan())
    assert torch.equal(value.isposinf(), eager.isposinf())
    assert torch.equal(value.isneginf(), eager.isneginf())
    finite = eager.isfinite()
    torch.testing.assert_close(value[finite], eager[finite].to(value.dtype))


def assert_refused(call, *words):
    """The call raises, and its message has each of these (regular expressions)."""
    with pytest.raises((RuntimeError, ValueError, TypeError, IndexError)) as caught:
        call()
    message = str(caught.value)
    for word in words:
        assert re.search(word, message), f"{word!r} is not in: {message}"


def strided_forms(x):
    """(name, view) of tensors with x's values that are not simply contiguous."""
    width = x.shape[-1]
    wide = x.new_zeros(*x.shape[:-1], width + 24)
    wide[..., 8 : 8 + width] = x
    odd = x.new_zeros(*x.shape[:-1], width + 1)
    odd[..., 1:] = x
    transposed = x.transpose(0, -1).contiguous().transpose(0, -1)
    every_second = torch.stack((x, x)).transpose(0, 1).contiguous()[:, 0]
    return [
        ("a slice of wider rows", wide[..., 8 : 8 + width]),
        ("rows that start one element past alignment", odd[..., 1:]),
        ("columns outermost", transposed),
        ("every second row", every_second),
    ]
