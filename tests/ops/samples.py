"""Arguments for any op, from the example that its declaration gives."""

import json

import torch
from liger_jit.library import native, ops

OPS = {op["name"]: op for op in ops()}
# What users call, and of that what has a gradient; the rest are gradients of these and parts of
# composites.
CALLED = [name for name, op in OPS.items() if not op["internal"]]
PUBLIC = [name for name in CALLED if OPS[name]["differentiable"]]
DTYPES = {
    "f64": torch.float64,
    "f32": torch.float32,
    "bf16": torch.bfloat16,
    "f16": torch.float16,
    "i64": torch.int64,
    "i32": torch.int32,
    "i8": torch.int8,
    "u8": torch.uint8,
}


def operator(op):
    return getattr(native(), op).default


# No two alike.
SIZES = {"rows": 5, "size": 16, "inner": 8}


def arguments(op, device, dtype="f32", **sizes):
    """{argument: value}; what is not named is small, or what the op's declaration says."""
    example = json.loads(native()._example(op, dtype, SIZES | sizes))
    return {argument["name"]: _value(argument, device) for argument in example}


def _value(argument, device):
    kind = argument["kind"]
    if kind == "none":
        return None
    if kind != "tensor":
        return argument["value"]
    shape, dtype = argument["shape"], DTYPES[argument["dtype"]]
    if not dtype.is_floating_point:
        return torch.randint(argument["below"], shape, device=device, dtype=dtype)
    if argument["heads_second"]:
        batch, heads, tokens, size = shape
        return torch.randn(batch, tokens, heads, size, device=device).to(dtype).transpose(1, 2)
    # A single number is a count or a scale: kept away from zero.
    value = torch.randn(shape, device=device) if shape else torch.rand(shape, device=device) + 2
    return (value.softmax(-1) if argument["probabilities"] else value).to(dtype)


def with_leaves(values, names):
    """The same, every tensor a leaf of its own; those named require a gradient."""
    return {
        name: value.detach().clone().requires_grad_(name in names)
        if isinstance(value, torch.Tensor)
        else value
        for name, value in values.items()
    }


def differentiable_inputs(op, values):
    """The inputs that have a gradient: an op refuses to be asked for that of any other."""
    found = []
    for name, value in values.items():
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            continue
        try:
            operator(op)(**with_leaves(values, [name]))
            found.append(name)
        except NotImplementedError:
            pass
    return found


def tensors_of(outputs):
    return outputs if isinstance(outputs, tuple) else (outputs,)


def results(function, values, names):
    """{name: tensor} of the outputs, and of the gradients of the inputs named."""
    leaves = with_leaves(values, names)
    outputs = tensors_of(function(**leaves))
    result = {f"output {i}": output.detach().clone() for i, output in enumerate(outputs)}
    total = 0
    for output in outputs:
        if output.requires_grad:
            # Weights that differ from entry to entry, and are the same each time.
            weight = torch.linspace(1, 2, output.numel(), device=output.device)
            total = total + (output * weight.view(output.shape)).sum()
    total.backward()
    result.update({f"gradient of {name}": leaves[name].grad for name in names})
    return result


def assert_same_bits(mine, wanted):
    assert mine.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(mine[name].nan_to_num(7.0), value.nan_to_num(7.0)), name
