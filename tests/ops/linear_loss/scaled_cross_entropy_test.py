"""The loss and entropy of tokens as trainers of policies call it: against float64."""

import pytest
import torch
from accuracy import assert_as_exact_as_eager, dtypes_of, run
from liger_jit.ops import LigerFusedLinearScaledCrossEntropyFunction

IGNORED = -100
WRT = ("input", "weight")


def reference(input, weight, ids, temperature, entropy, selected):
    logits = input @ weight.t()
    wide = (logits / temperature).to(torch.promote_types(logits.dtype, torch.float32))
    log_p = wide.log_softmax(-1)
    counted = ids != IGNORED
    outputs = (torch.where(counted, -log_p.gather(-1, ids.clamp_min(0)[:, None])[:, 0], 0),)
    if entropy:
        outputs += (torch.where(counted, -(log_p.exp() * log_p).sum(-1), 0),)
    if selected is not None:
        outputs += (torch.where(counted[:, None], log_p[:, selected], 0),)
    return outputs[0] if len(outputs) == 1 else outputs


def case(dtype, device):
    tokens = 33 if device == "cpu" else 1025  # the more, the less a ratio of two errors is luck
    inputs = {
        "input": torch.randn(tokens, 32, device=device).to(dtype),
        "weight": (torch.randn(129, 32, device=device) / 32**0.5 * 3).to(dtype),
        "ids": torch.randint(129, (tokens,), device=device),
    }
    inputs["ids"][1::4] = IGNORED
    return inputs


@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("selected", [None, [3, 128, 3]])
def test_loss_entropy_and_chosen_classes_are_as_exact_as_eager(device, entropy, selected):
    chosen = None if selected is None else torch.tensor(selected, device=device)

    def ours(input, weight, ids):
        # By position, as trainers do.
        return LigerFusedLinearScaledCrossEntropyFunction.apply(
            input, weight, ids, 0.6, IGNORED, 1, entropy, chosen
        )

    def eager(input, weight, ids):
        return reference(input, weight, ids, 0.6, entropy, chosen)

    for dtype in dtypes_of(device):
        assert_as_exact_as_eager(
            ours,
            eager,
            case(dtype, device),
            WRT,
            "random",
            slack_of_products=1e-6 if dtype == torch.float32 else 0.0,
        )


def test_an_ignored_token_may_hold_anything(device):
    inputs = case(torch.float32, device)
    ignored = inputs["ids"] == IGNORED
    inputs["input"][ignored] = float("nan")

    def ours(**arguments):
        ids = arguments.pop("ids")
        return LigerFusedLinearScaledCrossEntropyFunction.apply(
            *arguments.values(), ids, return_entropy=True
        )

    result = run(ours, inputs, WRT)
    assert not result["gradient of input"][ignored].any()
    for name in ("output 0", "output 1"):
        assert result[name].isfinite().all(), name
