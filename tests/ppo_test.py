"""`functional.linear_ppo_loss` against its formula in plain torch, in float64."""

import pytest
import torch
from liger_jit.functional import linear_ppo_loss

IGNORED = -100


def case(device, dtype=torch.float64):
    torch.manual_seed(3)
    shape, hidden, vocabulary = (3, 7), 16, 53
    inputs = {
        "input": torch.randn(*shape, hidden, device=device),
        "weight": torch.randn(vocabulary, hidden, device=device) / 4,
        "bias": torch.randn(vocabulary, device=device),
    }
    inputs = {name: value.to(dtype).requires_grad_() for name, value in inputs.items()}
    ids = torch.randint(vocabulary, shape, device=device)
    ids[0, 2] = IGNORED
    logits = inputs["input"] @ inputs["weight"].t() + inputs["bias"]
    chosen = (logits / 0.8).log_softmax(-1).gather(-1, ids.clamp_min(0)[..., None])[..., 0]
    old = chosen.detach() + torch.randn(shape, device=device) / 3
    advantages = torch.randn(shape, device=device)
    mask = torch.ones(shape, device=device, dtype=torch.int64)
    mask[1, 4:] = 0
    return inputs, {"ids": ids, "old_log_probs": old, "advantages": advantages, "mask": mask}


def reference(input, weight, bias, ids, old_log_probs, advantages, mask, low, high, coefficient):
    counts = (ids != IGNORED) & mask.bool()
    p = ((input @ weight.t() + bias) / 0.8).log_softmax(-1)
    chosen = p.gather(-1, ids.clamp_min(0)[..., None])[..., 0]
    ratios = (chosen - old_log_probs).exp()
    a, b = ratios * advantages, ratios.clamp(1 - low, 1 + high) * advantages
    entropy = -(p.exp() * p).sum(-1)[counts].mean()
    loss = -torch.minimum(a, b)[counts].mean() - coefficient * entropy
    kl = (old_log_probs - chosen)[counts].mean()
    return loss, entropy, (b < a)[counts].double().mean(), kl


@pytest.mark.parametrize(("low", "high", "coefficient"), [(0.2, 0.2, 0.0), (0.1, 0.3, 0.05)])
def test_it_is_the_formula_with_its_gradients(low, high, coefficient):
    layer, given = case("cpu")
    expected = reference(**layer, **given, low=low, high=high, coefficient=coefficient)
    found = linear_ppo_loss(
        **layer,
        **given,
        clip_low=low,
        clip_high=high,
        entropy_coefficient=coefficient,
        temperature=0.8,
    )
    for mine, own in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, own.to(mine.dtype), rtol=1e-10, atol=1e-12)
    assert 0 < found.clipped < 1
    gradients = [torch.autograd.grad(one[0], list(layer.values())) for one in (found, expected)]
    for mine, own in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, own, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_does_not_count_may_hold_anything(device, dtype):
    layer, given = case(device, dtype)
    expected = linear_ppo_loss(**layer, **given)
    out = (given["mask"] == 0) | (given["ids"] == IGNORED)
    given["advantages"][out] = float("inf")
    given["old_log_probs"][out] = float("nan")
    found = linear_ppo_loss(**layer, **given)
    assert found.loss.dtype == torch.float32 and found.loss.isfinite()
    assert all(torch.equal(mine, own) for mine, own in zip(found, expected, strict=True))
    found.loss.backward()
    assert all(value.grad.isfinite().all() for value in layer.values())


def test_no_token_gives_zero():
    layer, given = case("cpu")
    given["mask"].zero_()
    found = linear_ppo_loss(**layer, **given)
    assert not any(found)
    found.loss.backward()
    assert not any(value.grad.any() for value in layer.values())


def test_what_makes_no_sense_is_refused_by_name():
    layer, given = case("cpu")
    for wrong, words in [
        ({"clip_low": -0.1}, "argument 'clip_low' is -0.1; allowed: 0 or more"),
        ({"advantages": torch.ones(3)}, r"argument 'advantages' has shape \[3\]"),
        ({"mask": given["mask"][:2]}, r"argument 'mask' has shape \[2, 7\]"),
    ]:
        with pytest.raises(ValueError, match=f"linear_ppo_loss: {words}"):
            linear_ppo_loss(**layer, **given | wrong)


def test_it_compiles_without_breaks():
    layer, given = case("cpu", torch.float32)
    compiled = torch.compile(linear_ppo_loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(**layer, **given), linear_ppo_loss(**layer, **given))
