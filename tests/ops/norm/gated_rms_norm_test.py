"""RMSNorm with a gate against float64 and the modules of the models that have one."""

import inspect
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
from liger_jit.functional import gated_rms_norm

WRT = ("x", "gate", "weight")
ACTIVATIONS = {"silu": torch.nn.functional.silu, "sigmoid": torch.sigmoid}
FORMS = [
    {"gate_first": gate_first, "activation": activation, "group_size": group_size}
    for gate_first in (False, True)
    for activation in ACTIVATIONS
    for group_size in (None, 32)
]
every_form = pytest.mark.parametrize(
    "form", FORMS, ids=lambda form: "-".join(map(str, form.values()))
)


def reference(
    x,
    gate,
    weight=None,
    eps=1e-6,
    offset=0.0,
    activation="silu",
    gate_first=False,
    group_size=None,
    casting_mode="llama",
):
    wide = torch.promote_types(x.dtype, torch.float32)
    act = ACTIVATIONS[activation](gate.to(wide))
    v = x.to(wide) * act if gate_first else x.to(wide)
    groups = v.unflatten(-1, (-1, group_size or x.shape[-1]))
    v = (groups * torch.rsqrt(groups.pow(2).mean(-1, keepdim=True) + eps)).flatten(-2)
    if casting_mode == "llama":
        v = v.to(x.dtype)
    else:
        weight = None if weight is None else weight.to(wide)
    v = v if weight is None else (offset + weight) * v
    return (v if gate_first else v * act).to(x.dtype)


def check(inputs, wrt=WRT, **options):
    # Sums of as many products in another order; of few numbers luck says whose are closer.
    slack = 1e-7 if inputs["x"].dtype == torch.float32 else 0
    return assert_as_exact_as_eager(
        partial(gated_rms_norm, **options),
        partial(reference, **options),
        inputs,
        wrt,
        slack_of_products=slack,
    )


def tensors(rows, size, dtype, device):
    return {
        "x": torch.randn(rows, size, device=device).to(dtype),
        "gate": (2 * torch.randn(rows, size, device=device)).to(dtype),
        "weight": (1 + 0.3 * torch.randn(size, device=device)).to(dtype),
    }


# 7: no vector load fits; 128: a head; 1023, 1025: a ragged block; 20000: longer than any block.
@pytest.mark.parametrize("gate_first", [False, True])
@pytest.mark.parametrize("size", [1, 7, 128, 1023, 1025, 4096, 20000])
def test_every_size_is_as_exact_as_eager_in_bfloat16(device, size, gate_first):
    check(tensors(9, size, torch.bfloat16, device), gate_first=gate_first)


@every_form
def test_every_dtype_is_as_exact_as_eager(device, form):
    for dtype in dtypes_of(device):
        check(tensors(33, 96, dtype, device), **form)


# 3: a group is less than a vector, and begins anywhere; 20, 36: vectors of eight fit in no group
# or not from its start; 10000: a group that no block holds.
@pytest.mark.parametrize("gate_first", [False, True])
@pytest.mark.parametrize("groups, size", [(5, 3), (7, 20), (2, 36), (24, 64), (2, 10000)])
def test_groups_of_every_size_are_normalised_by_themselves(device, groups, size, gate_first):
    for dtype in (torch.float32, torch.bfloat16):
        inputs = tensors(19, groups * size, dtype, device)
        check(inputs, gate_first=gate_first, group_size=size)
        parts = [
            gated_rms_norm(*(value[..., i * size : (i + 1) * size] for value in inputs.values()))
            for i in range(groups)
        ]
        assert torch.equal(gated_rms_norm(**inputs, group_size=size), torch.cat(parts, -1))


@every_form
@pytest.mark.parametrize("casting_mode", ["gemma", "none"])
def test_every_casting_mode_rounds_where_the_module_does(device, casting_mode, form):
    for dtype in HALVES:
        check(
            tensors(17, 64, dtype, device), offset=1.0, casting_mode=casting_mode, eps=1e-3, **form
        )


@pytest.mark.parametrize("gate_first", [False, True])
def test_without_a_weight(device, gate_first):
    x, gate, _ = tensors(9, 64, torch.bfloat16, device).values()
    check({"x": x, "gate": gate}, WRT[:2], gate_first=gate_first, group_size=16)


@pytest.mark.parametrize("gate_first", [False, True])
def test_a_gate_and_a_weight_may_have_dtypes_of_their_own(device, gate_first):
    x, gate, weight = tensors(17, 64, torch.float32, device).values()
    for types in ((torch.float32, torch.bfloat16, torch.float32), (*HALVES, torch.float32)):
        inputs = dict(
            zip(WRT, (x.to(types[0]), gate.to(types[1]), weight.to(types[2])), strict=True)
        )
        check(inputs, gate_first=gate_first)


def of_model(model, name, *arguments):
    """A model's own module; skips where this transformers has none of that signature."""
    module = pytest.importorskip(f"transformers.models.{model}.modeling_{model}")
    made = getattr(module, name)
    if len(inspect.signature(made).parameters) < len(arguments):
        pytest.skip(f"{name} of this transformers takes fewer arguments")
    return made(*arguments)


@pytest.mark.parametrize(
    "options, model, name, arguments",
    [
        ({}, "qwen3_next", "Qwen3NextRMSNormGated", (128, 1e-5)),
        (
            {"activation": "sigmoid", "casting_mode": "none"},
            "kimi_linear",
            "KimiLinearRMSNormGated",
            (128, 1e-5),
        ),
        (
            {"gate_first": True, "group_size": 32},
            "mamba2",
            "MambaRMSNormGated",
            (128, 32, 1e-5),
        ),
        (
            {"gate_first": True, "group_size": 128},
            "zamba2",
            "Zamba2RMSNormGated",
            (128, 128, 1e-5),
        ),
    ],
)
def test_values_have_the_bits_of_the_modules_of_the_models(device, options, model, name, arguments):
    """The same roundings: a last bit differs only where a sum or an exponential ends otherwise."""
    mine = liger.LigerRMSNormGated(128, 1e-5, **options)
    theirs = of_model(model, name, *arguments)
    assert torch.equal(mine.weight, theirs.weight)  # the same start
    with torch.no_grad():
        theirs.weight.normal_(1.0, 0.3)
    mine, theirs = (module.to(device, torch.bfloat16) for module in (mine, theirs))
    mine.load_state_dict(theirs.state_dict())
    x, gate = torch.randn(2, 64, 128, device=device).bfloat16()
    difference = (mine(x, gate) != theirs(x, gate)).float().mean()
    assert difference < 2e-3, type(theirs).__name__


def test_falcon_h1s_module_is_one_of_the_forms(device):
    from transformers.models.falcon_h1.modeling_falcon_h1 import FalconH1RMSNormGated

    x, gate = torch.randn(2, 3, 9, 64, device=device)
    for before in (False, True):
        theirs = FalconH1RMSNormGated(64, 1e-5, n_groups=2, norm_before_gate=before).to(device)
        mine = liger.LigerRMSNormGated(
            64, 1e-5, casting_mode="none", gate_first=not before, group_size=32
        ).to(device)
        with torch.no_grad():
            theirs.weight.normal_(1.0, 0.3)
        mine.load_state_dict(theirs.state_dict())
        torch.testing.assert_close(mine(x, gate), theirs(x, gate))


@every_form
@pytest.mark.parametrize("wrt", [("x",), ("gate",), ("weight",), ("gate", "weight")])
def test_only_what_requires_a_gradient_gets_one(device, wrt, form):
    inputs = tensors(9, 64, torch.float32, device)
    every = run(partial(gated_rms_norm, **form), inputs, WRT)
    result = run(partial(gated_rms_norm, **form), inputs, wrt)
    for name in wrt:
        assert torch.equal(result[f"gradient of {name}"], every[f"gradient of {name}"])


@pytest.mark.parametrize("group_size", [None, 16, 4])
def test_views_no_rows_and_more_dimensions_agree_with_the_plain_case(device, group_size):
    call = partial(gated_rms_norm, group_size=group_size)
    inputs = tensors(16, 64, torch.bfloat16, device)
    wanted = run(call, inputs, WRT)
    views = zip(strided_forms(inputs["x"]), strided_forms(inputs["gate"])[::-1], strict=True)
    for (name, x), (other, gate) in views:
        result = run(call, {**inputs, "x": x, "gate": gate}, WRT)
        for key, value in wanted.items():
            assert torch.equal(result[key], value), f"{key} of {name} and {other}"
    result = run(call, {**inputs, "x": x.reshape(2, 8, 64), "gate": gate.reshape(2, 8, 64)}, WRT)
    assert torch.equal(result["output 0"].view(16, 64), wanted["output 0"])
    result = run(call, {**inputs, "x": x[:0], "gate": gate[:0]}, WRT)
    assert result["output 0"].shape == (0, 64)
    assert torch.equal(result["gradient of weight"], torch.zeros_like(inputs["weight"]))


@pytest.mark.parametrize("gate_first", [False, True])
def test_special_values_give_what_eager_gives(device, gate_first):
    inputs = tensors(7, 64, torch.bfloat16, device)
    inputs["x"][0, 3] = float("inf")
    inputs["gate"][1, 5] = float("nan")
    inputs["x"][2] = 0.0
    inputs["gate"][3, 7] = float("inf")
    inputs["gate"][4] = -300.0  # an activation of zero, and of no slope
    inputs["gate"][5] = 300.0
    for activation in ACTIVATIONS:
        options = {"activation": activation, "gate_first": gate_first}
        assert_same_specials(gated_rms_norm(**inputs, **options), reference(**inputs, **options))


def test_gates_far_out_keep_finite_gradients(device):
    inputs = tensors(4, 64, torch.float32, device)
    inputs["gate"] = torch.linspace(-120, 120, 256, device=device).view(4, 64)
    for activation in ACTIVATIONS:
        check(inputs, activation=activation)


def test_inputs_are_left_as_they_were(device):
    inputs = tensors(9, 64, torch.bfloat16, device)
    before = {name: value.clone() for name, value in inputs.items()}
    run(gated_rms_norm, inputs, WRT)
    assert all(torch.equal(inputs[name], value) for name, value in before.items())


def test_errors_name_the_argument_and_its_value(device):
    x, gate, weight = tensors(4, 64, torch.float32, device).values()
    op = "gated_rms_norm"
    assert_refused(lambda: gated_rms_norm(x, gate[:3], weight), op, "gate", "3", "4")
    assert_refused(lambda: gated_rms_norm(x, gate, weight[:8]), op, "weight", "8", "64")
    assert_refused(lambda: gated_rms_norm(x, gate, weight, -1.0), op, "eps", "-1")
    assert_refused(lambda: gated_rms_norm(x, gate, activation="relu"), op, "activation", "relu")
    assert_refused(lambda: gated_rms_norm(x, gate, casting_mode=3), op, "casting_mode", "3")
    assert_refused(lambda: gated_rms_norm(x, gate, group_size=24), op, "group_size", "24", "64")
    assert_refused(lambda: gated_rms_norm(x, gate, group_size=0), op, "group_size", "0")
    assert_refused(lambda: gated_rms_norm(x, gate.int(), weight), op, "gate", "i32")
    if device == "cpu":
        assert_refused(lambda: gated_rms_norm(x, gate.double()), op, "gate", "float64")
    assert_refused(lambda: liger.LigerRMSNormGated(8, activation="relu"), "activation", "relu")
