"""Log-probabilities and entropies from the product that makes the logits: its parts anywhere, the
whole where a GPU has what the product is made for."""

import pytest
import torch
from accuracy import relative_error
from liger_jit.functional import linear_log_probs
from samples import operator

IGNORED = -100
ROUNDING = 4e-3  # of bfloat16, 2^-9, twice
served = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0),
    reason="needs a GPU of compute capability 9.0",
)


def case(tokens, hidden, classes, device, spread=3.0):
    inputs = {
        "input": torch.randn(tokens, hidden, device=device).bfloat16(),
        "weight": (torch.randn(classes, hidden, device=device) * spread / hidden**0.5).bfloat16(),
        "ids": torch.randint(classes, (tokens,), device=device),
    }
    inputs["ids"][1::4] = IGNORED
    return inputs


def padded(count):
    return (count + 7) // 8 * 8


def numbers_in_parts(input, weight, ids, temperature=1.0, entropy=True, logits=None):
    tokens, classes = len(ids), len(weight)
    floats = {"device": input.device, "dtype": torch.float32}
    score, reference, log_probs, entropies = torch.full((4, tokens), 7.0, **floats)
    sums = torch.full((3, tokens, padded(-(-classes // 256))), 7.0, **floats)
    statistics = torch.full((tokens, 3), 7.0, **floats)
    weighted = sums[2] if entropy else None
    operator("linear_reference_of_ids_")(input, weight, ids, score, reference, ignore_index=IGNORED)
    operator("log_prob_product_")(
        input, weight, sums[0], sums[1], weighted, logits, temperature=temperature
    )
    operator("log_prob_tiles_")(
        input,
        ids,
        None if logits is not None else score,
        logits,
        sums[0],
        sums[1],
        weighted,
        log_probs,
        entropies if entropy else None,
        statistics.view(-1),
        classes=classes,
        temperature=temperature,
        ignore_index=IGNORED,
    )
    return log_probs, entropies, statistics


def gradient_in_parts(input, weight, ids, statistics, dlog_probs, dentropy, temperature=1.0):
    dlogits = torch.full((len(ids), len(weight)), 7.0, device=input.device).bfloat16()
    operator("log_prob_product_gradient_")(
        input,
        weight,
        ids,
        statistics.view(-1),
        dlog_probs,
        dentropy,
        dlogits,
        temperature=temperature,
        ignore_index=IGNORED,
    )
    return dlogits


def exactly(logits, ids, temperature=1.0):
    log_p = (logits.double() / temperature).log_softmax(-1)
    counts = ids != IGNORED
    chosen = log_p.gather(-1, ids.clamp_min(0)[:, None])[:, 0]
    entropy = -(log_p.exp() * log_p).sum(-1)
    return torch.where(counts, chosen, 0), torch.where(counts, entropy, 0)


def logits_of(input, weight, ids):
    return input.double() @ weight.double().t()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("tokens, hidden, classes", [(9, 40, 1024), (3, 64, 264), (130, 72, 520)])
def test_numbers_and_gradient_are_those_of_the_logits(device, tokens, hidden, classes, temperature):
    inputs = case(tokens, hidden, classes, device)
    logits = logits_of(**inputs).requires_grad_()
    wanted = exactly(logits, inputs["ids"], temperature)
    log_probs, entropy, statistics = numbers_in_parts(**inputs, temperature=temperature)
    torch.testing.assert_close(log_probs.double(), wanted[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropy.double(), wanted[1], atol=1e-5, rtol=1e-5)

    arriving = torch.randn(2, tokens, device=device)
    sum((mine * its).sum() for mine, its in zip(wanted, arriving.double())).backward()
    dlogits = gradient_in_parts(**inputs, statistics=statistics, dlog_probs=arriving[0],
                                dentropy=arriving[1], temperature=temperature)  # fmt: skip
    assert relative_error(dlogits, logits.grad) < ROUNDING

    logits.grad = None
    (exactly(logits, inputs["ids"], temperature)[0] * arriving[0].double()).sum().backward()
    dlogits = gradient_in_parts(**inputs, statistics=statistics, dlog_probs=arriving[0],
                                dentropy=None, temperature=temperature)  # fmt: skip
    assert relative_error(dlogits, logits.grad) < ROUNDING


def test_an_entropy_that_nobody_wants_is_not_written(device):
    inputs = case(9, 40, 264, device)
    log_probs, entropy, statistics = numbers_in_parts(**inputs, entropy=False)
    assert torch.equal(log_probs, numbers_in_parts(**inputs)[0])
    assert entropy.eq(7).all() and statistics[:, 2].eq(0).all()


def test_logits_that_are_kept_are_those_that_the_numbers_are_of(device):
    inputs = case(9, 40, 264, device, spread=20.0)
    logits = torch.full((9, 264), 7.0, device=device).bfloat16()
    log_probs, entropy, _ = numbers_in_parts(**inputs, logits=logits)
    exact = logits_of(**inputs)
    assert (logits.double() - exact).abs().le(exact.abs() * 2**-8 + 1e-4).all()
    wanted = exactly(logits, inputs["ids"])
    torch.testing.assert_close(log_probs.double(), wanted[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropy.double(), wanted[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("spread", [0.0, 300.0])
def test_any_size_of_logits(device, spread):
    inputs = case(9, 40, 264, device, spread)
    log_probs, entropy, _ = numbers_in_parts(**inputs)
    wanted = exactly(logits_of(**inputs), inputs["ids"])
    torch.testing.assert_close(log_probs.double(), wanted[0], atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(entropy.double(), wanted[1], atol=1e-4, rtol=1e-4)
    assert log_probs.le(0).all()


def test_an_ignored_row_may_hold_anything_and_a_nan_elsewhere_stays(device):
    inputs = case(9, 40, 264, device)
    inputs["input"][1] = torch.nan
    log_probs, entropy, statistics = numbers_in_parts(**inputs)
    ones = torch.ones(9, device=device)
    dlogits = gradient_in_parts(
        **inputs, statistics=statistics, dlog_probs=ones, dentropy=ones * torch.nan
    )
    assert log_probs[1] == 0 and entropy[1] == 0 and dlogits[1].eq(0).all()
    inputs["weight"][3] = torch.nan
    log_probs, entropy, _ = numbers_in_parts(**inputs)
    counts = inputs["ids"] != IGNORED
    assert log_probs[counts].isnan().all() and entropy[counts].isnan().all()


WHOLE = (4096, 512, 32064)


@served
@pytest.mark.parametrize("memory", ["auto", "fast"])
def test_the_whole_is_that_of_the_logits(memory):
    inputs = case(*WHOLE, "cuda")
    leaves = [inputs[name].requires_grad_() for name in ("input", "weight")]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    wanted = exactly(exact[0] @ exact[1].t(), inputs["ids"])
    found = linear_log_probs(**inputs, memory=memory)
    logits = {"auto": 2e-6, "fast": ROUNDING}[memory]
    assert relative_error(found[0], wanted[0]) < logits
    assert relative_error(found[1], wanted[1]) < logits
    arriving = torch.randn(2, WHOLE[0], device="cuda")
    gradients = torch.autograd.grad(found, leaves, list(arriving))
    for mine, its in zip(gradients, torch.autograd.grad(wanted, exact, list(arriving.double()))):
        assert relative_error(mine, its) < {"auto": 6e-3, "fast": 2e-2}[memory]


@served
def test_no_logits_are_held_for_numbers_alone():
    inputs = case(8192, 256, 128256, "cuda")
    with torch.no_grad():
        linear_log_probs(**inputs)
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        linear_log_probs(**inputs)
        assert torch.cuda.max_memory_allocated() - before < 64 << 20
