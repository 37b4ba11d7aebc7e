"""A layer whose classes are spread over ranks, in one process: tests/ranks has the ranks."""

from functools import partial

import pytest
import torch
from accuracy import assert_as_exact_as_eager, dtypes_of
from liger_jit.functional import linear_log_probs, vocab_parallel_log_probs
from liger_jit.library import native
from linear_log_probs_test import WRT, case, reference


@pytest.mark.parametrize("options", [{}, {"temperature": 0.6}, {"softcap": 4.0}])
def test_without_a_group_it_is_the_whole_layer(device, options):
    for dtype in [torch.float32] if options else dtypes_of(device):
        assert_as_exact_as_eager(
            partial(vocab_parallel_log_probs, **options),
            partial(reference, **options),
            case(dtype, device),
            WRT,
            "random",
            slack_of_products=5e-7 if dtype == torch.float32 else 0.0,
        )


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.6}, {"softcap": 4.0}])
def test_parts_of_any_number_of_ranks_make_the_whole(device, ranks, options):
    inputs = case(torch.float32, device)  # of 129 classes
    leaves = [inputs[name].requires_grad_() for name in ("input", "weight")]
    ids, classes = inputs["ids"], 129 // ranks
    weight = leaves[1][: ranks * classes]
    ids[ids >= ranks * classes] = 0
    wanted = linear_log_probs(leaves[0], weight, ids, **options)
    incoming = [torch.randn_like(one) for one in wanted]
    gradients = torch.autograd.grad(wanted, leaves, incoming)
    own = [weight.detach()[rank * classes : (rank + 1) * classes] for rank in range(ranks)]
    scores = options.get("temperature", 1.0), options.get("softcap", 0.0), -100
    parts = torch.stack(
        [
            native().vocab_parallel_log_probs_part.default(
                leaves[0].detach(), one, ids, None, *scores, rank, ranks
            )
            for rank, one in enumerate(own)
        ]
    )
    total, of_weight = 0, []
    for rank, one in enumerate(own):
        states, one = leaves[0].detach().requires_grad_(), one.clone().requires_grad_()
        found = native().vocab_parallel_log_probs.default(
            states, one, ids, None, parts, *scores, rank, ranks
        )[:2]
        for value, exact in zip(found, wanted, strict=True):
            torch.testing.assert_close(value, exact, rtol=1e-5, atol=2e-6)
        dinput, dweight = torch.autograd.grad(found, [states, one], incoming)
        total = total + dinput
        of_weight.append(dweight)
    torch.testing.assert_close(total, gradients[0], rtol=1e-5, atol=1e-5)
    together = gradients[1][: ranks * classes]
    torch.testing.assert_close(torch.cat(of_weight), together, rtol=1e-5, atol=1e-5)


def test_what_ranks_tell_must_fit(device):
    inputs = case(torch.float32, device, bias=False)
    layer = *inputs.values(), None
    function = native().vocab_parallel_log_probs.default
    with pytest.raises(ValueError, match="'parts' is None; allowed: .2, 33, 4. f32"):
        function(*layer, None, ranks=2)
    with pytest.raises(ValueError, match="'rank' is 2; allowed: 0 to 1"):
        function(*layer, torch.zeros(2, 33, 4, device=device), rank=2, ranks=2)
    with pytest.raises(ValueError, match="'parts' has shape"):
        function(*layer, torch.zeros(2, 33, 3, device=device), ranks=2)
    with pytest.raises(ValueError, match="'parts' is given with one rank"):
        function(*layer, torch.zeros(1, 33, 4, device=device))
