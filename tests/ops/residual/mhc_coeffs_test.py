"""Hyper-connections: factors, mixtures and the whole around a layer against float64."""

from functools import partial

import pytest
import torch
from accuracy import HALVES, assert_as_exact_as_eager, assert_refused, dtypes_of, run
from liger_jit.functional import mhc_coeffs, mhc_forward
from liger_jit.transformers import LigerMHC
from liger_jit.transformers import functional as liger
from residual_reference import reference_post_res, reference_pre, wide
from torch import nn

WEIGHTS = ("phi", "b", "alpha_pre", "alpha_post", "alpha_res")


def sinkhorn(logits, tmax, eps):
    matrix = logits.softmax(-1) + eps
    matrix = matrix / (matrix.sum(-2, keepdim=True) + eps)
    for _ in range(tmax - 1):
        matrix = matrix / (matrix.sum(-1, keepdim=True) + eps)
        matrix = matrix / (matrix.sum(-2, keepdim=True) + eps)
    return matrix


def reference_coeffs(
    x,
    phi,
    b,
    alpha_pre,
    alpha_post,
    alpha_res,
    tmax=20,
    rms_eps=1e-6,
    pre_eps=0.0,
    sinkhorn_eps=1e-6,
    post_mult=2.0,
):
    hc = x.shape[-2]
    flat = wide(x).flatten(-2)
    mix = flat @ wide(phi) * torch.rsqrt(flat.pow(2).mean(-1, keepdim=True) + rms_eps)
    b = wide(b)
    h_pre = torch.sigmoid(mix[..., :hc] * wide(alpha_pre) + b[:hc]) + pre_eps
    h_post = torch.sigmoid(mix[..., hc : 2 * hc] * wide(alpha_post) + b[hc : 2 * hc]) * post_mult
    logits = mix[..., 2 * hc :] * wide(alpha_res) + b[2 * hc :]
    return h_pre, h_post, sinkhorn(logits.unflatten(-1, (hc, hc)), tmax, sinkhorn_eps)


def reference_forward_and_coeffs(x, *weights, **options):
    coeffs = h_pre, h_post, h_res = reference_coeffs(x, *weights, **options)
    return reference_post_res(x, torch.tanh(reference_pre(x, h_pre)), h_post, h_res), coeffs


def reference_forward(*args, **options):
    return reference_forward_and_coeffs(*args, **options)[0]


def forward(*args, **options):
    return mhc_forward(*args, layer=torch.tanh, **options)


def tensors(tokens, hc, c, dtype, device, weight_dtype=None):
    outputs = hc * hc + 2 * hc
    made = {
        "x": torch.randn(tokens, hc, c, device=device),
        "phi": torch.randn(hc * c, outputs, device=device) * (hc * c) ** -0.5,
        "b": torch.randn(outputs, device=device),
        "alpha_pre": torch.tensor(1.1, device=device),
        "alpha_post": torch.tensor(0.7, device=device),
        "alpha_res": torch.tensor(1.3, device=device),
    }
    return {name: t.to(dtype if name == "x" else weight_dtype or dtype) for name, t in made.items()}


def check(ours, reference, inputs, wrt, **options):
    # Sums of products in another order than eager's, and 40 divisions that make them factors.
    products = 1e-13 if inputs["x"].dtype == torch.float64 else 4e-6
    assert_as_exact_as_eager(
        lambda **all_: ours(**all_, **options),
        lambda **all_: reference(**all_, **options),
        inputs,
        wrt,
        slack_of_products=products,
    )


# 1, 9: no vector load fits; 257, 1025: a ragged slice; 2048: the usual. 1: one stream; 8, 16: more
# outputs than one task takes.
@pytest.mark.parametrize("c", [1, 9, 257, 1025, 2048])
@pytest.mark.parametrize("hc", [1, 2, 4])
def test_factors_of_every_size_are_as_exact_as_eager(device, hc, c):
    wrt = ("x", *WEIGHTS) if hc > 1 else ("x", "phi", "b", "alpha_pre", "alpha_post")
    check(mhc_coeffs, reference_coeffs, tensors(5, hc, c, torch.bfloat16, device), wrt)


# Of these sizes matrix units take the products; phi is a sum of one, two or three of their numbers.
@pytest.mark.parametrize("phi", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("hc", "c"), [(1, 256), (2, 512), (3, 256), (4, 768)])
@pytest.mark.parametrize("tokens", [1, 37, 300])
def test_whole_slices_in_bfloat16_are_as_exact_as_eager(device, tokens, hc, c, phi):
    inputs = tensors(tokens, hc, c, torch.bfloat16, device, torch.float32)
    inputs["phi"] = inputs["phi"].to(phi)
    inputs["x"] = torch.cat((inputs["x"], inputs["x"]), -1)[..., c:]  # not dense
    wrt = ("x", *WEIGHTS) if hc > 1 else ("x", "phi", "b", "alpha_pre", "alpha_post")
    check(mhc_coeffs, reference_coeffs, inputs, wrt)
    check(forward, reference_forward, inputs, ("x", "phi"))


@pytest.mark.parametrize("hc", [3, 8, 16])
def test_factors_of_many_streams_are_as_exact_as_eager(device, hc):
    for dtype in (torch.float32, torch.bfloat16):
        inputs = tensors(37, hc, 40, dtype, device)
        check(mhc_coeffs, reference_coeffs, inputs, ("x", *WEIGHTS), tmax=6)


def test_every_dtype_is_as_exact_as_eager(device):
    for dtype in dtypes_of(device):
        check(mhc_coeffs, reference_coeffs, tensors(33, 4, 72, dtype, device), ("x", *WEIGHTS))
        inputs = tensors(33, 4, 72, dtype, device)
        check(forward, reference_forward, inputs, ("x", "phi", "b"))


def test_weights_may_have_dtypes_of_their_own(device):
    for dtype in HALVES:
        inputs = tensors(19, 4, 64, dtype, device, torch.float32)
        inputs["phi"] = inputs["phi"].half()
        check(mhc_coeffs, reference_coeffs, inputs, ("x", *WEIGHTS))


@pytest.mark.parametrize(
    "options",
    [
        {"tmax": 1},
        {"tmax": 3, "sinkhorn_eps": 1e-2},
        {"pre_eps": 0.1, "post_mult": 3.0, "rms_eps": 0.5},
    ],
)
def test_every_option_is_that_of_the_formula(device, options):
    for ours, reference in ((mhc_coeffs, reference_coeffs), (forward, reference_forward)):
        inputs = tensors(9, 4, 40, torch.float64 if device == "cpu" else torch.float32, device)
        check(ours, reference, inputs, ("x", "phi", "b"), **options)


def test_many_tokens_share_the_sums_of_weights(device):
    check(mhc_coeffs, reference_coeffs, tensors(1025, 4, 24, torch.float32, device), WEIGHTS)


def test_h_res_has_rows_and_columns_of_one_however_far_logits_are_apart(device):
    inputs = tensors(50, 4, 64, torch.float32, device)
    inputs["b"] *= 30
    h_pre, h_post, h_res = mhc_coeffs(**inputs, tmax=200)
    assert h_res.isfinite().all()
    torch.testing.assert_close(h_res.sum(-2), torch.ones_like(h_post), rtol=1e-4, atol=1e-4)
    assert ((h_pre >= 0) & (h_pre <= 1)).all() and ((h_post >= 0) & (h_post <= 2)).all()
    result = run(mhc_coeffs, inputs, ("x", *WEIGHTS))
    assert all(value.isfinite().all() for value in result.values())


def test_streams_that_are_zero_have_the_factors_of_b(device):
    inputs = tensors(3, 4, 64, torch.float32, device)
    inputs["x"].zero_()
    h_pre, _, _ = mhc_coeffs(**inputs)
    torch.testing.assert_close(h_pre, inputs["b"][:4].sigmoid().expand(3, 4))
    assert run(mhc_coeffs, inputs, ("x",))["gradient of x"].isfinite().all()


@pytest.mark.parametrize("wrt", [("x",), ("phi",), ("b",), ("alpha_res",), ("x", "alpha_pre")])
def test_only_what_requires_a_gradient_gets_one(device, wrt):
    inputs = tensors(9, 4, 64, torch.float32, device)
    for function in (mhc_coeffs, forward):
        every = run(function, inputs, ("x", *WEIGHTS))
        result = run(function, inputs, wrt)
        for name in wrt:
            assert torch.equal(result[f"gradient of {name}"], every[f"gradient of {name}"])


def test_shapes_and_layouts_agree_with_the_plain_case(device):
    inputs = tensors(12, 4, 64, torch.bfloat16, device)
    wanted = run(forward, inputs, ("x", *WEIGHTS))
    x = inputs["x"]
    forms = {
        "more dimensions": x.view(3, 4, 4, 64),
        "streams outermost": x.transpose(0, 1).contiguous().transpose(0, 1),
        "channels outermost": x.transpose(0, 2).contiguous().transpose(0, 2),
        "a slice of wider streams": torch.cat((x, x), -1)[..., :64],
        "channels that start anywhere": torch.cat((x, x), -1)[..., 64:],
    }
    for name, form in forms.items():
        result = run(forward, {**inputs, "x": form}, ("x", *WEIGHTS))
        for key, value in wanted.items():
            assert torch.equal(result[key].reshape(value.shape), value), f"{key} of {name}"
    none = run(forward, {**inputs, "x": x[:0]}, ("x", *WEIGHTS))
    assert none["output 0"].shape == (0, 4, 64)
    assert all(not none[f"gradient of {name}"].any() for name in WEIGHTS)


def test_gradients_come_around_a_layer_through_it_and_by_each_factor(device):
    inputs = tensors(37, 4, 256, torch.bfloat16, device, torch.float32)
    for layer in (None, torch.tanh, torch.zeros_like):

        def reference(layer=layer, **all_):
            coeffs = reference_coeffs(**all_)
            x_in = reference_pre(all_["x"], coeffs[0])
            f_out = layer(x_in) if layer else x_in
            return reference_post_res(all_["x"], f_out, *coeffs[1:]), coeffs

        def whole(layer=layer, **all_):
            return mhc_forward(**all_, layer=layer)

        def with_coeffs(layer=layer, **all_):
            return mhc_forward(**all_, layer=layer, return_coeffs=True)

        wrt = ("x", "phi")
        check(whole, lambda reference=reference, **all_: reference(**all_)[0], inputs, wrt)
        for chosen in (slice(0, 1), slice(1, 2), slice(2, 3), slice(0, 4)):

            def some(function, chosen=chosen, **all_):
                x_out, coeffs = function(**all_)
                return (*coeffs, x_out)[chosen]

            check(partial(some, with_coeffs), partial(some, reference), inputs, wrt)


@pytest.mark.parametrize("shape", [(6, 4, 64), (2, 3, 4, 64)])
def test_factors_that_are_returned_are_on_the_way_to_the_streams(device, shape):
    inputs = tensors(6, 4, 64, torch.float32, device)
    inputs["x"] = inputs["x"].view(shape).requires_grad_()
    out, coeffs = mhc_forward(**inputs, layer=torch.tanh, return_coeffs=True)
    plain, plain_coeffs = reference_forward_and_coeffs(**inputs)
    slope = torch.randn_like(out)
    found = torch.autograd.grad(out, coeffs, slope)
    wanted = torch.autograd.grad(plain, plain_coeffs, slope)
    for ours, eager in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, eager, rtol=1e-4, atol=1e-4)


def test_nothing_adds_up_the_gradients_of_streams_after_the_nodes(device):
    """The node before the layer is the only one that gives the streams a gradient."""
    inputs = tensors(9, 4, 64, torch.float32, device)
    x = inputs.pop("x").requires_grad_()
    out = mhc_forward(x, **inputs, layer=torch.tanh)
    seen, left, givers = set(), [out.grad_fn], []
    while left:
        node = left.pop()
        if node in seen:
            continue
        seen.add(node)
        nexts = [each for each, _ in node.next_functions if each is not None]
        givers += [node.name() for each in nexts if getattr(each, "variable", None) is x]
        left += nexts
    assert givers == ["liger_jit::mhc_forward_gradient"]


def test_the_module_is_the_formula_around_its_layer(device):
    for dtype in (torch.float32, *HALVES):
        layer = nn.Linear(32, 32, device=device, dtype=dtype)
        module = LigerMHC(layer, hc=4, c=32, tmax=5, phi_dtype=dtype, allow_fp32=True)
        x = torch.randn(2, 5, 4, 32, device=device).to(dtype)
        weights = {name: getattr(module, name).detach() for name in WEIGHTS}
        h_pre, h_post, h_res = reference_coeffs(x, **weights, tmax=5)
        with torch.no_grad():
            wanted = reference_post_res(x, layer(reference_pre(x, h_pre)), h_post, h_res)
        out = module(x)
        assert out.shape == x.shape and out.dtype == dtype
        slack = {"rtol": 2e-2, "atol": 2e-2} if dtype in HALVES else {}
        torch.testing.assert_close(out, wanted, **slack)
        out.sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_what_goes_into_the_layer_has_the_layers_dtype(device):
    module = LigerMHC(nn.Linear(16, 16, device=device), hc=2, c=16)
    x = torch.randn(3, 2, 16, device=device).bfloat16()
    assert module(x).dtype == torch.bfloat16
    assert module.phi.dtype == torch.float16 and module.b.dtype == torch.float32


def test_ligers_functions_hand_on_every_option(device):
    inputs = tensors(6, 4, 32, torch.bfloat16, device)
    options = {"tmax": 3, "rms_eps": 1e-3, "pre_eps": 0.1, "sinkhorn_eps": 1e-3, "post_mult": 1.5}
    h = liger.liger_mhc_coeffs(**inputs, **options)
    for mine, wanted in zip(h, mhc_coeffs(**inputs, **options), strict=True):
        assert torch.equal(mine, wanted)
    x, weights = inputs["x"], [inputs[name] for name in WEIGHTS]
    out, made = liger.liger_mhc_forward(x, torch.tanh, *weights, **options, return_coeffs=True)
    assert all(torch.equal(a, b) for a, b in zip(made, h, strict=True))
    x_in = liger.liger_mhc_pre(x, h[0])
    assert torch.equal(out, liger.liger_mhc_post_res(x, torch.tanh(x_in), *h[1:]))
    applied = liger.liger_mhc_apply(x, torch.tanh(x_in), *h, return_x_in=True)
    assert torch.equal(applied[0], out) and torch.equal(applied[1], x_in)
    assert torch.equal(liger.liger_mhc_apply(x, torch.tanh(x_in), *h), out)


def test_errors_name_the_argument_and_its_value(device):
    inputs = tensors(4, 4, 64, torch.float32, device)

    def refused(argument, value, *words, **options):
        call = {**inputs, argument: value, **options} if argument in inputs else {**inputs}
        assert_refused(
            lambda: mhc_coeffs(**call, **({} if argument in inputs else options)), *words
        )

    refused("x", inputs["x"][0, 0], "mhc_coeffs", r"\bx\b", "64", "HC, C")
    refused("x", torch.ones(2, 17, 4, device=device), "mhc_coeffs", r"\bx\b", "17", "16")
    refused("phi", inputs["phi"][:9], "phi", "9, 24", "256, 24")
    refused("b", inputs["b"][:9], r"\bb\b", "9", "24")
    refused("alpha_post", inputs["b"], "alpha_post", "24", "one element")
    refused("alpha_res", inputs["alpha_res"].half(), "alpha_res", "f16", "f32")
    refused("tmax", 0, "tmax", "0", "1 to", tmax=0)
    refused("rms_eps", -1, "rms_eps", "-1", rms_eps=-1.0)
    assert_refused(lambda: liger.liger_mhc_coeffs(**inputs), "liger_mhc_coeffs", "x", "allow_fp32")
    module = LigerMHC(nn.Identity(), hc=2, c=8)
    assert_refused(lambda: module(inputs["x"].half()), "LigerMHC", "4, 4, 64", "2, 8")
