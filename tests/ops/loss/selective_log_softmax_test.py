"""The log-probability of one id a row of logits: against float64, over dtypes, sizes and extreme
values."""

import math

import pytest
import torch
from accuracy import assert_as_exact_as_eager, dtypes_of
from liger_jit.functional import selective_log_softmax

IGNORED = -100


def reference(logits, ids, temperature=1.0):
    wide = (logits / temperature).to(torch.promote_types(logits.dtype, torch.float32))
    chosen = wide.log_softmax(-1).gather(-1, ids.clamp_min(0)[..., None])[..., 0]
    return torch.where(ids == IGNORED, 0, chosen)


def case(shape, classes, dtype, device):
    ids = torch.randint(classes, shape, device=device)
    ids.view(-1)[:: max(ids.numel() // 3, 2)] = IGNORED
    return {"logits": (torch.randn(*shape, classes, device=device) * 4).to(dtype), "ids": ids}


@pytest.mark.parametrize("classes", [1, 7, 1000, 1003, 4096, 32001])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_every_dtype_is_as_exact_as_eager(device, classes, temperature):
    for dtype in dtypes_of(device):
        assert_as_exact_as_eager(
            lambda logits, ids: selective_log_softmax(logits, ids, temperature),
            lambda logits, ids: reference(logits, ids, temperature),
            case((2, 5), classes, dtype, device),
            ["logits"],
            "random",
        )


def test_rows_that_start_anywhere_are_read_where_they_are(device):
    inputs = case((6,), 1001, torch.bfloat16, device)
    wide = torch.empty(6, 1010, dtype=torch.bfloat16, device=device)
    wide[:, 3:1004] = inputs["logits"]
    there = selective_log_softmax(wide[:, 3:1004], inputs["ids"])
    assert torch.equal(there, selective_log_softmax(**inputs))


def test_extreme_values(device):
    inf = math.inf
    logits = torch.tensor(
        [[0.0, -inf, -inf], [-inf, 0.0, 0.0], [1e30, -1e30, 0.0], [inf, 0.0, 0.0]], device=device
    ).requires_grad_()
    ids = torch.tensor([0, 0, 0, 0], device=device)
    log_probs = selective_log_softmax(logits, ids)
    assert log_probs[:3].tolist() == [0.0, -inf, 0.0]
    assert log_probs[3].isnan()
    log_probs[:3].sum().backward()
    expected = torch.tensor([[0.0, 0, 0], [1, -0.5, -0.5], [0, 0, 0]], device=device)
    assert torch.equal(logits.grad[:3], expected)


def test_an_ignored_row_is_not_read_and_nothing_is_nothing(device):
    logits = torch.full((2, 9), math.nan, device=device, requires_grad=True)
    ids = torch.full((2,), IGNORED, device=device)
    log_probs = selective_log_softmax(logits, ids)
    log_probs.sum().backward()
    assert not log_probs.any()
    assert not logits.grad.any()
    assert selective_log_softmax(logits[:0], ids[:0]).shape == (0,)


def test_what_makes_no_sense_is_refused_by_name(device):
    inputs = case((6,), 9, torch.float32, device)
    with pytest.raises(ValueError, match="'temperature' is 0.000000; allowed: a positive"):
        selective_log_softmax(**inputs, temperature=0.0)
    with pytest.raises(ValueError, match="argument 'ids' has shape"):
        selective_log_softmax(inputs["logits"], inputs["ids"][:2])


def test_an_id_out_of_range_on_the_cpu_names_row_and_value(device):
    if torch.device(device).type != "cpu":
        pytest.skip("on a GPU it is told later")
    inputs = case((6,), 9, torch.float32, device)
    inputs["ids"][3] = 9
    text = "selective_log_softmax: element 3 of argument 'ids' is 9; allowed: 0 to 8"
    with pytest.raises(ValueError, match=text):
        selective_log_softmax(**inputs)
