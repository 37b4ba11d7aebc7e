"""Log-probabilities and entropies of a linear layer: against float64, differentiable in both."""

from functools import partial

import pytest
import torch
from accuracy import assert_as_exact_as_eager, dtypes_of, relative_error, run
from liger_jit.functional import linear_log_probs

IGNORED = -100
WRT = ("input", "weight", "bias")
MEMORIES = ["auto", "min", "fast"]


def reference(input, weight, ids, bias=None, temperature=1.0, softcap=None):
    logits = input @ weight.t()
    if bias is not None:
        logits = logits + bias
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    wide = (logits / temperature).to(torch.promote_types(logits.dtype, torch.float32))
    log_p = wide.log_softmax(-1)
    chosen = log_p.gather(-1, ids.clamp_min(0)[..., None])[..., 0]
    entropy = -(log_p.exp() * log_p).sum(-1)
    return torch.where(ids == IGNORED, 0, chosen), torch.where(ids == IGNORED, 0, entropy)


def case(dtype, device, shape=(33,), hidden=32, vocabulary=129, bias=True):
    inputs = {
        "input": torch.randn(*shape, hidden, device=device).to(dtype),
        "weight": (torch.randn(vocabulary, hidden, device=device) / hidden**0.5 * 3).to(dtype),
        "ids": torch.randint(vocabulary, shape, device=device),
    }
    inputs["ids"].view(-1)[1::4] = IGNORED
    if bias:
        inputs["bias"] = torch.randn(vocabulary, device=device).to(dtype)
    return inputs


def check(inputs, wrt=WRT, memory="auto", **options):
    return assert_as_exact_as_eager(
        partial(linear_log_probs, memory=memory, **options),
        partial(reference, **options),
        inputs,
        wrt,
        "random",
        # A product of another height is summed in another order, and exp() follows.
        slack_of_products=5e-7 if inputs["input"].dtype == torch.float32 else 0.0,
    )


@pytest.mark.parametrize("memory", MEMORIES)
def test_every_dtype_is_as_exact_as_eager(device, memory):
    for dtype in dtypes_of(device):
        check(case(dtype, device), memory=memory)


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("options", [{"temperature": 0.6}, {"softcap": 4.0}, {}])
def test_temperature_softcap_and_shapes(device, memory, options):
    check(case(torch.float32, device, (2, 3, 5)), memory=memory, **options)
    if memory != "min":  # whose sums over chunks round once more
        check(case(torch.bfloat16, device, bias=False), ("input", "weight"), memory, **options)


@pytest.mark.parametrize(("tokens", "vocabulary"), [(1, 1), (2, 7), (9, 50257)])
def test_any_sizes(device, tokens, vocabulary):
    check(case(torch.float32, device, (tokens,), vocabulary=vocabulary))


def with_chunks(inputs, chunk_tokens, keep_logits=False):
    leaves = {
        name: value.clone().requires_grad_() if value.is_floating_point() else value
        for name, value in inputs.items()
    }
    outputs = torch.ops.liger_jit.linear_log_probs(
        **leaves, chunk_tokens=chunk_tokens, keep_logits=keep_logits
    )[:2]
    loss = (outputs[0] * 0.3).sum() + (outputs[1] * 0.7).sum()
    return [*outputs, *torch.autograd.grad(loss, [leaves[name] for name in WRT])]


@pytest.mark.parametrize("keep_logits", [False, True])
@pytest.mark.parametrize("chunk_tokens", [33, 17, 8, 1])
def test_any_number_of_chunks_gives_the_same_and_the_same_bits_again(
    device, chunk_tokens, keep_logits
):
    inputs = case(torch.float32, device)
    whole = with_chunks(inputs, 0)
    parts = with_chunks(inputs, chunk_tokens, keep_logits)
    for exact, value in zip(whole, parts, strict=True):
        assert relative_error(value, exact) < 1e-6
    again = with_chunks(inputs, chunk_tokens, keep_logits)
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))


def products_of(inputs, wrt, memory):
    leaves = {
        name: value.clone().requires_grad_(name in wrt) if value.is_floating_point() else value
        for name, value in inputs.items()
    }
    with torch.profiler.profile() as profile:
        log_probs, entropy = linear_log_probs(**leaves, memory=memory)
        (log_probs.sum() + entropy.sum()).backward()
    return sum(e.count for e in profile.key_averages() if e.key in ("aten::mm", "aten::addmm"))


def test_a_frozen_part_and_kept_logits_each_spare_a_product(device):
    inputs = case(torch.bfloat16, device, bias=False)
    assert products_of(inputs, ("input", "weight"), "auto") == 4
    assert products_of(inputs, ("input", "weight"), "fast") == 3
    assert products_of(inputs, ("input",), "auto") == 3
    assert products_of(inputs, ("input",), "fast") == 2
    assert products_of(inputs, ("weight",), "fast") == 2


@pytest.mark.parametrize("memory", MEMORIES)
def test_ignored_tokens_may_hold_anything(device, memory):
    inputs = case(torch.float32, device)
    inputs["input"][inputs["ids"] == IGNORED] = float("nan")
    result = run(partial(linear_log_probs, memory=memory), inputs, WRT)
    rows = inputs["ids"] == IGNORED
    assert not result["output 0"][rows].any()
    assert not result["output 1"][rows].any()
    assert not result["gradient of input"][rows].any()
    inputs["input"] = torch.randn_like(inputs["input"])
    inputs["ids"].fill_(IGNORED)
    result = run(partial(linear_log_probs, memory=memory), inputs, WRT)
    assert not any(value.any() for value in result.values())


@pytest.mark.parametrize("chunk_tokens", [0, 8])
def test_no_tokens_at_all(device, chunk_tokens):
    inputs = case(torch.float32, device, (0,))
    log_probs, entropy, dinput, dweight, dbias = with_chunks(inputs, chunk_tokens)
    assert log_probs.shape == entropy.shape == (0,)
    assert dinput.shape == (0, 32)
    assert not dweight.any()
    assert not dbias.any()


def one_of(function, index, **tensors):
    return function(**tensors)[index]


def test_either_output_may_be_used_alone(device):
    inputs = case(torch.float32, device)
    for index in (0, 1):
        ours, eager = (
            run(partial(one_of, function, index), inputs, WRT)
            for function in (linear_log_probs, reference)
        )
        for key, value in eager.items():
            assert relative_error(ours[key], value) < 2e-6


def test_what_makes_no_sense_is_refused_by_name(device):
    inputs = case(torch.float32, device)
    with pytest.raises(ValueError, match="argument 'memory' is 'most'; allowed: 'auto', 'min'"):
        linear_log_probs(**inputs, memory="most")
    for options, text in [
        ({"temperature": -1.0}, "'temperature' is -1.000000"),
        ({"softcap": -1.0}, "'softcap' is -1.000000"),
        ({"weight": inputs["weight"][:, :4]}, "'weight' has shape"),
        ({"ids": inputs["ids"][:3]}, "'ids' has shape"),
    ]:
        with pytest.raises(ValueError, match=text):
            linear_log_probs(**{**inputs, **options})


def test_an_id_out_of_range_on_the_cpu_names_its_place(device):
    if torch.device(device).type != "cpu":
        pytest.skip("on a GPU it is told later")
    inputs = case(torch.float32, device)
    inputs["ids"][20] = 129
    text = "linear_log_probs: element 20 of argument 'ids' is 129; allowed: 0 to 128"
    for chunk_tokens in (0, 8):
        with pytest.raises(ValueError, match=text):
            torch.ops.liger_jit.linear_log_probs(**inputs, chunk_tokens=chunk_tokens)


def test_compiles_without_a_break(device):
    inputs = case(torch.float32, device)
    compiled = torch.compile(linear_log_probs, fullgraph=True, backend="aot_eager")
    eager = run(linear_log_probs, inputs, WRT)
    for name, value in run(compiled, inputs, WRT).items():
        assert torch.equal(value, eager[name]), name
