"""Steps on several streams and threads of a GPU, with scaled losses and tensors kept elsewhere."""

import copy
import gc
import itertools
import threading

import pytest
import torch
from liger_jit.patch import patch
from tiny_models import (
    assert_same_step,
    batch,
    build,
    error,
    gradients_of,
    loss_and_gradients,
)
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

pytestmark = pytest.mark.usefixtures("cuda")

FAMILIES = ("Llama", "Qwen3", "Gemma2", "Mixtral", "Olmo2")


def twins(family):
    plain = build(family).cuda()
    model = copy.deepcopy(plain)
    patch(model)
    return model, plain


def inputs(number=0):
    """Another batch for each number."""
    moved = {name: value.roll(number, -1) for name, value in batch().items()}
    return {name: value.cuda() for name, value in moved.items()}


def with_z_loss(logits, labels, vocab_size, **kwargs):
    """A loss of the user's, which reads its logits as well."""
    loss = F.cross_entropy(logits[:, :-1].reshape(-1, vocab_size), labels[:, 1:].reshape(-1))
    return loss + 1e-3 * logits.float().logsumexp(-1).square().mean()


def with_z_loss_on_a_side_stream(logits, labels, vocab_size, **kwargs):
    loss = F.cross_entropy(logits[:, :-1].reshape(-1, vocab_size), labels[:, 1:].reshape(-1))
    here, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(here)
    with torch.cuda.stream(side):
        torch.cuda._sleep(5_000_000)
        more = logits.float().logsumexp(-1).square().mean()
    here.wait_stream(side)
    return loss + 1e-3 * more


def on_a_side_stream(model):
    here, side = torch.cuda.current_stream(), torch.cuda.Stream()
    given = inputs()
    side.wait_stream(here)
    with torch.cuda.stream(side):
        loss = model(**given).loss
    here.wait_stream(side)
    return gradients_of(loss, model)


def backward_on_a_side_stream(model):
    loss, side = model(**inputs()).loss, torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        found = gradients_of(loss, model)
    torch.cuda.synchronize()
    return found


def in_a_checkpoint(model):
    given = inputs()
    return gradients_of(checkpoint(lambda: model(**given).loss, use_reentrant=False), model)


def kept_on_the_cpu(model):
    with torch.autograd.graph.save_on_cpu(pin_memory=True):
        return gradients_of(model(**inputs()).loss, model)


RUNS = on_a_side_stream, backward_on_a_side_stream, in_a_checkpoint, kept_on_the_cpu
# A checkpoint runs its forward again on the stream of whoever asks first, and nobody waits for it:
# not for losses on a stream of their own.
CASES = [
    *itertools.product(RUNS, (None, with_z_loss)),
    *((run, with_z_loss_on_a_side_stream) for run in RUNS if run is not in_a_checkpoint),
]


@pytest.mark.parametrize(("run", "loss"), CASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_is_the_one_without_the_patch(family, run, loss):
    model, plain = twins(family)
    if loss is not None:
        # torch frees what it saved of one stream while the other may read it: plain by itself.
        model.loss_function, plain.loss_function = loss, with_z_loss
    assert_same_step(run(model), run(plain), 1e-4)


def in_threads(model, count=4):
    """Each step on a stream of its own, all of one model at once."""
    streams, found = [torch.cuda.Stream() for _ in range(count)], {}
    torch.cuda.synchronize()

    def run(number):
        with torch.cuda.stream(streams[number]):
            loss = model(**inputs(number)).loss
            gradients = torch.autograd.grad(loss, [*model.parameters()])
            found[number] = loss.detach(), dict(enumerate(gradients))
            torch.cuda.synchronize()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[number] for number in range(count)]


@pytest.mark.parametrize("loss", [None, with_z_loss])
@pytest.mark.parametrize("family", FAMILIES)
def test_threads_on_streams_of_their_own_do_not_mix(family, loss):
    model, plain = twins(family)
    if loss is not None:
        model.loss_function = plain.loss_function = loss
    for found, expected in zip(in_threads(model), in_threads(plain), strict=True):
        assert_same_step(found, expected, 1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [2.0**10, 2.0**60], ids=["in range", "overflowing"])
@pytest.mark.parametrize("family", FAMILIES)
def test_scaled_losses_under_autocast(family, dtype, scale):
    told = []
    for model in twins(family):
        scaler = torch.amp.GradScaler("cuda", init_scale=scale)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        losses = []
        for number in range(3):
            optimizer.zero_grad()
            with torch.autocast("cuda", dtype):
                loss = model(**inputs(number)).loss
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.detach())
        told.append((torch.stack(losses), scaler.get_scale()))
    assert error(told[0][0], told[1][0]) <= 2e-2
    assert told[0][1] == told[1][1]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_that_moves_between_devices(family):
    model, plain = twins(family)
    for device in ("cuda", "cpu", "cuda"):
        given = {name: value.to(device) for name, value in batch().items()}
        found, expected = (loss_and_gradients(one.to(device), **given) for one in (model, plain))
        assert_same_step(found, expected, 1e-4)


def test_a_checkpointed_step_whose_logits_are_read_keeps_no_memory():
    model, _ = twins("Gemma2")
    model.loss_function = with_z_loss
    held = []
    for _ in range(4):
        in_a_checkpoint(model)
        model.zero_grad(set_to_none=True)
        gc.collect()
        held.append(torch.cuda.memory_allocated())
    assert held[-1] == held[1]
