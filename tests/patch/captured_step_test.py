"""A training step of a patched model in a CUDA graph: replayed, it trains as it does eagerly."""

import liger_jit
import pytest
import torch
from tiny_models import FAMILIES, build

WARM_UP, STEPS = 3, 5


def training_step(model, ids):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, capturable=True)

    def step():
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        return loss.detach()

    return step


def warmed_up(step):
    """Steps on a stream beside, as a capture asks for."""
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(beside)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_replayed_step_gives_the_losses_of_an_eager_one(family, cuda):
    ids = torch.randint(3, 97, (2, 16), device=cuda)
    losses = {}
    for captured in (False, True):
        model = build(family, torch.bfloat16, attn_implementation="sdpa").to(cuda)
        liger_jit.patch(model)
        step = training_step(model, ids)
        warmed_up(step)
        if captured:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                loss = step()
            replayed = []
            for _ in range(STEPS):
                graph.replay()
                replayed.append(loss.item())
            losses[captured] = replayed
        else:
            losses[captured] = [step().item() for _ in range(STEPS)]
    assert losses[True] == losses[False]
    assert losses[True][-1] < losses[True][0]
