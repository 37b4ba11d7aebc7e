"""Direct preference optimisation behind a linear layer: each loss against plain torch in float64,
whose gradients are autograd's and not the derivatives that the op has by hand."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from accuracy import TOLERANCE, cast, relative_error, run
from liger_jit.functional import fused_linear_dpo

IGNORED = -100
LOSSES = [
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "apo_zero",
    "apo_down",
    "discopop",
]
SMOOTHED = {"exo_pair": 0.1, "robust": 0.2}
WRT = ("input", "weight", "bias")
# A product of another height is summed in another order, and differences of log-probabilities
# follow, of which a loss may cancel most: over 60 seeds the robust one is off by 2.1e-6 on average,
# eager's by 2.3e-6.
SLACK_OF_PRODUCTS = 1.2e-6


def sequences(input, weight, bias, ids, average, temperature, softcap):
    logits = input @ weight.t()
    if bias is not None:
        logits = logits + bias
    mean = logits.to(torch.promote_types(logits.dtype, torch.float32))
    mean = mean.mean((1, 2)).view(2, -1).mean(1)
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    logits = (logits / temperature).to(torch.promote_types(logits.dtype, torch.float32))
    counted = ids != IGNORED
    chosen = logits.log_softmax(-1).gather(-1, ids.clamp_min(0)[..., None])[..., 0]
    sums = torch.where(counted, chosen, 0).sum(1)
    lengths = counted.sum(1).clamp_min(1)
    return (sums / lengths if average else sums), lengths, mean, sums


def pair_losses(loss_type, c, r, beta, e, tau):
    x, y = beta * c, beta * r
    d = x - y
    log_s = F.logsigmoid
    if loss_type == "sigmoid":
        return -(1 - e) * log_s(d) - e * log_s(-d)
    if loss_type == "hinge":
        return F.relu(1 - d)
    if loss_type == "ipo":
        return (c - r - 1 / (2 * beta)) ** 2
    if loss_type == "exo_pair":
        chosen = d.sigmoid() * (log_s(d) - math.log(1 - e))
        return chosen + (-d).sigmoid() * (log_s(-d) - math.log(e))
    if loss_type == "nca_pair":
        return -log_s(x) - 0.5 * log_s(-x) - 0.5 * log_s(-y)
    if loss_type == "robust":
        return (-(1 - e) * log_s(d) + e * log_s(-d)) / (1 - 2 * e)
    if loss_type == "bco_pair":
        return -log_s(x) - log_s(-y)
    if loss_type == "sppo_hard":
        return (c - 0.5 / beta) ** 2 + (r + 0.5 / beta) ** 2
    if loss_type == "apo_zero":
        return 1 - x.sigmoid() + y.sigmoid()
    if loss_type == "apo_down":
        return x.sigmoid() + 1 - d.sigmoid()
    modulation = (d / tau).sigmoid()
    return -log_s(d) * (1 - modulation) + (-d).exp() * modulation


def reference(
    input,
    weight,
    ids,
    bias=None,
    ref_input=None,
    ref_weight=None,
    ref_bias=None,
    ref_log_probs=None,
    loss_type="sigmoid",
    beta=0.1,
    label_smoothing=0.0,
    discopop_tau=0.05,
    average_log_prob=False,
    compute_nll_loss=False,
    alpha=1.0,
    temperature=1.0,
    softcap=None,
):
    options = (average_log_prob, temperature, softcap)
    logps, lengths, means, sums = sequences(input, weight, bias, ids, *options)
    ref = torch.zeros_like(logps)
    if ref_input is not None:
        with torch.no_grad():
            ref = sequences(ref_input, ref_weight, ref_bias, ids, *options)[0]
    if ref_log_probs is not None:
        ref = ref_log_probs
    chosen, rejected = logps.chunk(2)
    ratios = logps - ref
    divided = ratios / lengths if loss_type == "ipo" and not average_log_prob else ratios
    c, r = divided.chunk(2)
    loss = pair_losses(loss_type, c, r, beta, label_smoothing, discopop_tau).mean()
    nll = torch.zeros_like(loss)
    if compute_nll_loss:
        nll = -sums.chunk(2)[0].sum() / (ids.chunk(2)[0] != IGNORED).sum().clamp_min(1)
        loss = loss + alpha * nll
    rewards = [beta * part for part in ratios.chunk(2)]
    return (loss, *(v.detach() for v in (chosen, rejected, *means, nll, *rewards)))


def case(dtype, device, pairs=3, tokens=9, hidden=32, vocabulary=129, bias=True, ref=True):
    def weights(*shape):
        return torch.randn(*shape, device=device) / hidden**0.5

    shape = (2 * pairs, tokens, hidden)
    inputs = {
        "input": torch.randn(shape, device=device).to(dtype),
        "weight": weights(vocabulary, hidden).to(dtype),
        "ids": torch.randint(vocabulary, shape[:2], device=device),
    }
    inputs["ids"][:, : tokens // 3] = IGNORED
    if bias:
        inputs["bias"] = torch.randn(vocabulary, device=device).to(dtype)
    if ref:
        inputs["ref_input"] = torch.randn(shape, device=device).to(dtype)
        inputs["ref_weight"] = weights(vocabulary, hidden).to(dtype)
    return inputs


def check(inputs, wrt=WRT, memory="auto", **options):
    """Every output and gradient against float64, no further from it than eager."""
    dtype = inputs["input"].dtype
    tolerance = TOLERANCE[dtype]
    truth = run(partial(reference, **options), cast(inputs, torch.float64), wrt)
    eager = run(partial(reference, **options), inputs, wrt)
    ours = run(
        lambda **tensors: tuple(fused_linear_dpo(**tensors, memory=memory, **options)), inputs, wrt
    )
    assert truth.keys() == ours.keys()
    for name, exact in truth.items():
        error, allowed = relative_error(ours[name], exact), relative_error(eager[name], exact)
        few = exact.numel() <= 2 * len(inputs["input"])
        # In float64 the truth is of as many digits.
        rounded = few or dtype == torch.float64
        slack = tolerance.scalar_slack if rounded else tolerance.slack
        if dtype == torch.float32:
            slack += SLACK_OF_PRODUCTS
        assert error <= tolerance.factor * allowed + slack, (name, error, allowed)
    return ours


@pytest.mark.parametrize("loss_type", LOSSES)
def test_every_loss_is_as_exact_as_eager(device, loss_type):
    options = {"loss_type": loss_type, "label_smoothing": SMOOTHED.get(loss_type, 0.0)}
    options["discopop_tau"] = 0.5
    check(case(torch.float32, device), beta=0.3, **options)
    if torch.device(device).type == "cpu":
        check(case(torch.float64, device), beta=0.7, **options)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("average", [False, True])
def test_every_option_is_as_exact_as_eager_in_16_bits(device, dtype, average):
    check(
        case(dtype, device),
        label_smoothing=0.1,
        average_log_prob=average,
        compute_nll_loss=True,
        alpha=0.4,
        temperature=0.7,
        softcap=5.0,
    )


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "sppo_hard"])
def test_averages_and_nll(device, loss_type):
    options = {"loss_type": loss_type, "compute_nll_loss": True, "alpha": 0.5}
    check(case(torch.float32, device), average_log_prob=True, **options)
    check(case(torch.float32, device, bias=False, ref=False), ("input", "weight"), **options)


def test_the_reference_may_be_log_probabilities(device):
    inputs = case(torch.float32, device)
    names = ("ref_input", "ref_weight")
    states = [inputs.pop(name) for name in names]
    given = sequences(*states, None, inputs["ids"], False, 1.0, None)[0]
    whole = fused_linear_dpo(**inputs, **dict(zip(names, states, strict=True)))
    check({**inputs, "ref_log_probs": given.float()})
    assert torch.allclose(fused_linear_dpo(**inputs, ref_log_probs=given).loss, whole.loss)


# One pair, one token, a vocabulary that no vector fits, more pairs than a chunk has.
@pytest.mark.parametrize(
    ("pairs", "tokens", "vocabulary"), [(1, 1, 7), (1, 33, 1003), (7, 5, 50257)]
)
def test_any_sizes(device, pairs, tokens, vocabulary):
    check(case(torch.float32, device, pairs, tokens, vocabulary=vocabulary))


def with_chunks(inputs, chunk_tokens, wrt=WRT):
    leaves = {
        name: value.clone().requires_grad_(name in wrt) if value.is_floating_point() else value
        for name, value in inputs.items()
    }
    outputs = torch.ops.liger_jit.fused_linear_dpo(**leaves, chunk_tokens=chunk_tokens)
    return [*outputs[:8], *torch.autograd.grad(outputs[0], [leaves[name] for name in wrt])]


# Of six pairs of 2 x 9 tokens: one a chunk, four and two, all, and none that fits: two passes.
@pytest.mark.parametrize("chunk_tokens", [18, 72, 1000, 17, 5, 1])
def test_chunks_of_pairs_and_two_passes_give_one_loss(device, chunk_tokens):
    inputs = case(torch.float32, device, pairs=6)
    whole, parts = with_chunks(inputs, 0), with_chunks(inputs, chunk_tokens)
    for exact, value in zip(whole, parts, strict=True):
        assert relative_error(value, exact) < 2e-6
    again = with_chunks(inputs, chunk_tokens)
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))


@pytest.mark.parametrize("chunk_tokens", [0, 5])
def test_ignored_tokens_may_hold_anything_and_nothing_at_all_may_count(device, chunk_tokens):
    inputs = case(torch.float32, device, pairs=2)
    inputs["input"][:, :2] = float("nan")
    outputs = with_chunks(inputs, chunk_tokens)
    assert torch.isfinite(outputs[0])
    assert torch.equal(outputs[8][:, :2], torch.zeros_like(outputs[8][:, :2]))
    inputs = case(torch.float32, device, pairs=2)
    inputs["ids"].fill_(IGNORED)
    outputs = with_chunks(inputs, chunk_tokens)
    assert torch.isclose(outputs[0], torch.tensor(math.log(2.0), device=device))
    assert all(not gradient.any() for gradient in outputs[8:])


@pytest.mark.parametrize("frozen", ["input", "weight"])
def test_a_frozen_part_gets_no_product(device, frozen):
    inputs = case(torch.bfloat16, device, bias=False)
    wrt = tuple(name for name in ("input", "weight") if name != frozen)
    leaves = {
        name: value.requires_grad_(name in wrt) if value.is_floating_point() else value
        for name, value in inputs.items()
    }
    with torch.profiler.profile() as profile:
        fused_linear_dpo(**leaves).loss.backward()
    products = sum(e.count for e in profile.key_averages() if e.key in ("aten::mm", "aten::addmm"))
    assert products == 3  # the reference's logits, the policy's, one gradient
    assert inputs[frozen].grad is None


def test_what_makes_no_sense_is_refused_by_name(device):
    inputs = case(torch.float32, device)
    with pytest.raises(ValueError, match="argument 'loss_type' is 'sigmoidal'"):
        fused_linear_dpo(**inputs, loss_type="sigmoidal")
    for options, text in [
        ({"loss_type": "exo_pair"}, "'label_smoothing' is 0.000000.*above 0"),
        ({"loss_type": "robust", "label_smoothing": 0.5}, "'label_smoothing' is 0.500000"),
        ({"beta": 0.0}, "'beta' is 0.000000"),
        ({"ref_weight": None}, "'ref_weight' is None"),
        ({"ref_log_probs": torch.zeros(6, device=device)}, "'ref_input' is given beside"),
        ({"ids": inputs["ids"][:, :3]}, "'ids' has shape"),
        ({"input": inputs["input"][:5]}, "'input' has shape"),
    ]:
        with pytest.raises(ValueError, match=text):
            fused_linear_dpo(**{**inputs, **options})


def test_an_id_out_of_range_on_the_cpu_names_its_place(device):
    if torch.device(device).type != "cpu":
        pytest.skip("on a GPU it is told later")
    inputs = case(torch.float32, device)
    inputs["ids"][4, 5] = 500
    # Element 4 * 9 + 5, whichever chunk it is in.
    text = "fused_linear_dpo: element 41 of argument 'ids' is 500; allowed: 0 to 128"
    for chunk_tokens in (0, 18, 4):
        with pytest.raises(ValueError, match=text):
            torch.ops.liger_jit.fused_linear_dpo(**inputs, chunk_tokens=chunk_tokens)


def test_compiles_without_a_break(device):
    inputs = case(torch.float32, device)
    compiled = torch.compile(
        lambda **tensors: tuple(fused_linear_dpo(**tensors)), fullgraph=True, backend="aot_eager"
    )
    eager = run(lambda **tensors: tuple(fused_linear_dpo(**tensors)), inputs, WRT)
    for name, value in run(compiled, inputs, WRT).items():
        assert torch.equal(value, eager[name]), name
