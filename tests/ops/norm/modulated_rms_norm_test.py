"""RMSNorm with a scale and a shift per row, per sequence or whole, against float64."""

from functools import partial

import pytest
import torch
from accuracy import (
    HALVES,
    assert_as_exact_as_eager,
    assert_refused,
    assert_same_specials,
    dtypes_of,
    run,
    strided_forms,
)
from liger_jit import transformers as liger
from liger_jit.functional import modulated_rms_norm, rms_norm
from liger_jit.transformers.functional import liger_modulated_rms_norm

WRT = ("x", "scale", "shift", "weight")


def spread(modulation, x):
    """One row for each of x: rows of a modulation follow one another."""
    rows = modulation.reshape(-1, x.shape[-1])
    count = x[..., 0].numel()
    return rows.repeat_interleave(count // len(rows), 0).view(x.shape) if count else x


def reference(x, scale, shift=None, weight=None, eps=1e-6, offset=0.0, casting_mode="llama"):
    wide = torch.promote_types(x.dtype, torch.float32)
    v = x.to(wide)
    v = v * torch.rsqrt(v.pow(2).mean(-1, keepdim=True) + eps)
    if casting_mode == "llama":
        v = v.to(x.dtype)
    v = v if weight is None else ((offset + weight.to(v.dtype)) * v).to(x.dtype)
    v = v.to(x.dtype) * (1 + spread(scale, x))
    return (v if shift is None else v + spread(shift, x)).to(x.dtype)


def check(inputs, wrt=WRT, **options):
    return assert_as_exact_as_eager(
        partial(modulated_rms_norm, **options), partial(reference, **options), inputs, wrt
    )


def tensors(x, modulation, dtype, device):
    """Of x and of its scale and shift the shapes are given."""
    return {
        "x": torch.randn(x, device=device).to(dtype),
        "scale": (0.5 * torch.randn(modulation, device=device)).to(dtype),
        "shift": torch.randn(modulation, device=device).to(dtype),
        "weight": (1 + 0.3 * torch.randn(x[-1], device=device)).to(dtype),
    }


SHAPES = {
    "whole": ((2, 5, 48), (48,)),
    "whole, as a row": ((2, 5, 48), (1, 48)),
    "whole, of all dims": ((2, 5, 48), (1, 1, 48)),
    "per sequence": ((3, 5, 48), (3, 48)),
    "per sequence, of all dims": ((3, 5, 48), (3, 1, 48)),
    "per frame": ((2, 3, 5, 48), (2, 3, 1, 48)),
    "per row": ((3, 5, 48), (3, 5, 48)),
    "per row, as a list": ((3, 5, 48), (15, 48)),
    "halves of sequences": ((3, 4, 48), (6, 48)),
    "of a list of rows": ((12, 48), (4, 48)),
    "many short sequences": ((70, 3, 48), (70, 1, 48)),
    "one long sequence among short calls": ((1, 300, 48), (1, 48)),
}
every_shape = pytest.mark.parametrize("shape", SHAPES)


@every_shape
def test_every_shape_of_a_modulation_is_as_exact_as_eager(device, shape):
    for dtype in dtypes_of(device):
        result = check(tensors(*SHAPES[shape], dtype, device))
        assert result["gradient of scale"].shape == torch.Size(SHAPES[shape][1])


@every_shape
def test_a_modulation_of_zero_is_the_norm(device, shape):
    inputs = tensors(*SHAPES[shape], torch.bfloat16, device)
    still = {**inputs, "scale": 0 * inputs["scale"], "shift": 0 * inputs["shift"]}
    assert torch.equal(modulated_rms_norm(**still), rms_norm(inputs["x"], inputs["weight"]))


# 7: no vector load fits; 1023, 1025: a ragged block; 4096: the usual; 20000: longer than any block.
@pytest.mark.parametrize("modulation", [(1, 1), (2, 1), (2, 9)])
@pytest.mark.parametrize("size", [1, 7, 1023, 1025, 4096, 20000])
def test_every_size_is_as_exact_as_eager_in_bfloat16(device, size, modulation):
    check(tensors((2, 9, size), (*modulation, size), torch.bfloat16, device))


@pytest.mark.parametrize("modulation", [(1, 1, 64), (3, 1, 64), (3, 5, 64)])
@pytest.mark.parametrize("casting_mode", ["gemma", "none"])
def test_every_casting_mode_rounds_where_the_module_does(device, casting_mode, modulation):
    for dtype in HALVES:
        inputs = tensors((3, 5, 64), modulation, dtype, device)
        check(inputs, offset=1.0, casting_mode=casting_mode, eps=1e-3)


@pytest.mark.parametrize("modulation", [(1, 1, 64), (3, 1, 64), (3, 5, 64)])
def test_shift_and_weight_may_be_absent(device, modulation):
    inputs = tensors((3, 5, 64), modulation, torch.bfloat16, device)
    for names in (("x", "scale"), ("x", "scale", "shift"), ("x", "scale", "weight")):
        check({name: inputs[name] for name in names}, names)


@pytest.mark.parametrize("modulation", [(3, 1, 64), (3, 5, 64)])
def test_a_modulation_and_a_weight_may_have_dtypes_of_their_own(device, modulation):
    inputs = tensors((3, 5, 64), modulation, torch.float32, device)
    inputs["x"] = inputs["x"].bfloat16()
    result = run(modulated_rms_norm, inputs, WRT)
    wanted = run(modulated_rms_norm, {name: value.float() for name, value in inputs.items()}, WRT)
    for name, value in wanted.items():
        torch.testing.assert_close(result[name].float(), value, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("modulation", [(1, 1, 64), (3, 1, 64), (3, 5, 64)])
@pytest.mark.parametrize(
    "wrt", [("x",), ("scale",), ("shift",), ("weight",), ("scale", "weight"), ("x", "shift")]
)
def test_only_what_requires_a_gradient_gets_one(device, wrt, modulation):
    inputs = tensors((3, 5, 64), modulation, torch.float32, device)
    every = run(modulated_rms_norm, inputs, WRT)
    result = run(modulated_rms_norm, inputs, wrt)
    for name in wrt:
        assert torch.equal(result[f"gradient of {name}"], every[f"gradient of {name}"])


def test_the_gradient_of_a_shift_for_each_row_is_what_arrives(device):
    inputs = tensors((3, 5, 64), (3, 5, 64), torch.bfloat16, device)
    arrives = torch.randn(3, 5, 64, device=device).bfloat16()
    for shift, is_it in ((inputs["shift"], True), (inputs["shift"].float(), False)):
        given = {
            **inputs,
            "scale": inputs["scale"].to(shift.dtype),
            "shift": shift.requires_grad_(),
        }
        (gradient,) = torch.autograd.grad(modulated_rms_norm(**given), [shift], arrives)
        assert (gradient.data_ptr() == arrives.data_ptr()) is is_it
        assert gradient.dtype == shift.dtype and torch.equal(gradient, arrives.to(shift.dtype))


def test_a_number_of_rows_that_is_known_only_when_it_runs(device):
    inputs = tensors((9, 64), (64,), torch.float32, device)
    names = ("scale", "shift")

    @torch.compile(fullgraph=True, backend="aot_eager")
    def some_rows(x, scale, shift):
        return modulated_rms_norm(x[x[:, 0] > 0], scale, shift).sum(0)

    given = {name: inputs[name].clone().requires_grad_() for name in names}
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        found = torch.autograd.grad(some_rows(inputs["x"], **given)[3], list(given.values()))
    rows = inputs["x"][inputs["x"][:, 0] > 0]
    wanted = torch.autograd.grad(modulated_rms_norm(rows, **given).sum(0)[3], list(given.values()))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("modulation", [(1, 1, 64), (2, 1, 64), (2, 300, 64)])
def test_a_second_run_gives_the_same_bits(device, modulation):
    inputs = tensors((2, 300, 64), modulation, torch.bfloat16, device)
    first = run(modulated_rms_norm, inputs, WRT)
    for name, value in run(modulated_rms_norm, inputs, WRT).items():
        assert torch.equal(value, first[name]), name


def test_views_and_no_rows_agree_with_the_plain_case(device):
    inputs = tensors((16, 64), (16, 64), torch.bfloat16, device)
    wanted = run(modulated_rms_norm, inputs, WRT)
    views = zip(strided_forms(inputs["x"]), strided_forms(inputs["scale"])[::-1], strict=True)
    for (name, x), (other, scale) in views:
        result = run(modulated_rms_norm, {**inputs, "x": x, "scale": scale}, WRT)
        for key, value in wanted.items():
            assert torch.equal(result[key], value), f"{key} of {name} and {other}"
    for x, scale in (((0, 5, 64), (0, 64)), ((2, 0, 64), (2, 64)), ((0, 64), (64,))):
        empty = tensors(x, scale, torch.bfloat16, device)
        result = run(modulated_rms_norm, empty, WRT)
        assert result["output 0"].shape == x
        for name in WRT:
            assert torch.equal(result[f"gradient of {name}"], torch.zeros_like(empty[name]))


def test_a_single_row_needs_no_other_dimension(device):
    inputs = tensors((9, 1000), (9, 1000), torch.bfloat16, device)
    row = {name: value[3] if value.dim() == 2 else value for name, value in inputs.items()}
    alone, among = run(modulated_rms_norm, row, WRT), run(modulated_rms_norm, inputs, WRT)
    for name, value in alone.items():
        assert torch.equal(value, among[name][3]) or name == "gradient of weight", name


def test_parts_of_one_projection_are_read_in_place(device):
    """As a transformer makes them: scale and shift side by side in a row."""
    inputs = tensors((3, 5, 64), (3, 64), torch.bfloat16, device)
    both = torch.cat((inputs["scale"], inputs["shift"]), -1)
    scale, shift = both.chunk(2, -1)
    wanted = run(modulated_rms_norm, inputs, WRT)
    result = run(modulated_rms_norm, {**inputs, "scale": scale, "shift": shift}, WRT)
    assert all(torch.equal(result[name], value) for name, value in wanted.items())


def test_special_values_give_what_eager_gives(device):
    inputs = tensors((2, 3, 64), (2, 64), torch.bfloat16, device)
    inputs["x"][0, 0, 3] = float("inf")
    inputs["x"][0, 1] = 0.0
    inputs["scale"][1, 5] = float("nan")
    inputs["shift"].zero_()  # it would cancel, and then roundings count
    inputs["shift"][1, 9] = float("-inf")
    assert_same_specials(modulated_rms_norm(**inputs), reference(**inputs))


def test_inputs_are_left_as_they_were(device):
    inputs = tensors((3, 5, 64), (3, 64), torch.bfloat16, device)
    before = {name: value.clone() for name, value in inputs.items()}
    run(modulated_rms_norm, inputs, WRT)
    assert all(torch.equal(inputs[name], value) for name, value in before.items())


def test_ligers_names(device):
    x, scale, shift, weight = tensors((3, 5, 64), (3, 64), torch.float32, device).values()
    module = liger.LigerModulatedRMSNorm(64, eps=1e-5, offset=1.0, init_fn="zeros").to(device)
    with torch.no_grad():
        module.weight.copy_(weight)
    wanted = reference(x, scale, shift, weight, 1e-5, 1.0)
    torch.testing.assert_close(module(x, scale, shift), wanted)
    found = liger_modulated_rms_norm(x, weight, scale, shift, 1e-5, 1.0, in_place=False)
    torch.testing.assert_close(found, wanted)
    bare = liger.LigerModulatedRMSNorm(64, elementwise_affine=False)
    assert not list(bare.parameters())
    torch.testing.assert_close(bare(x, scale), reference(x, scale))


def test_errors_name_the_argument_and_its_value(device):
    x, scale, shift, weight = tensors((3, 4, 64), (3, 64), torch.float32, device).values()
    op = "modulated_rms_norm"
    call = modulated_rms_norm
    assert_refused(lambda: call(x, scale[:, :8], shift), op, "scale", "8", "64")
    assert_refused(lambda: call(x, x[:, 0].repeat(2, 1)[:5]), op, "scale", "5", "3, 4, 64")
    assert_refused(lambda: call(x, x[:1], None), op, "scale", "1, 4, 64", "3, 4, 64")
    assert_refused(lambda: call(x, scale, shift[:2]), op, "shift", "2")
    assert_refused(lambda: call(x, scale, shift.half()), op, "shift", "16")
    assert_refused(lambda: call(x, scale, shift, weight[:8]), op, "weight", "8", "64")
    assert_refused(lambda: call(x, scale, shift, weight, -1.0), op, "eps", "-1")
    assert_refused(lambda: call(x, scale, casting_mode="x"), op, "casting_mode", "x")
    if device == "cpu":
        assert_refused(lambda: call(x, scale.double()), op, "scale", "float64")
    assert_refused(
        lambda: liger.LigerModulatedRMSNorm(8, casting_mode="x"), "casting_mode", "llama"
    )
