"""A patched model under modes of torch: what a mode does with operations is part of the step."""

from collections import Counter

import pytest
import torch
from family_models import tiny
from liger_jit.patch import patch
from liger_jit.patch.modes import is_watched
from tiny_models import assert_same_step, batch, build, counted, loss_and_gradients
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from torch.utils.flop_counter import FlopCounterMode


class Functions(TorchFunctionMode):
    """Changes what one function of torch gives."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        return result * 1.25 if function is self.function else result


class Products(TorchDispatchMode):
    """Rounds what matrix products give."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        return result.bfloat16().float() if function is torch.ops.aten.mm.default else result


class Subclass(FakeTensorMode):
    pass


MODES = {
    "linear": lambda: Functions(F.linear),
    "rsqrt": lambda: Functions(torch.rsqrt),
    "silu": lambda: Functions(F.silu),
    "cat": lambda: Functions(torch.cat),
    "cross_entropy": lambda: Functions(F.cross_entropy),
    "products": Products,
}


class Calls(TorchFunctionMode):
    """Counts what is asked of tensors, by name."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        owner = getattr(function, "__self__", None)
        self.seen[getattr(owner, "__name__", function.__name__)] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "mixtral", "gemma2", "olmo2", "phi"])
def test_a_mode_is_asked_nothing_that_the_model_itself_does_not_ask(model_type):
    model, inputs = tiny(model_type)
    seen = []
    for patched in (False, True):
        if patched:
            patch(model)
        with Calls() as calls:
            model(**inputs)
        seen.append(calls.seen)
    assert seen[0] == seen[1]


@pytest.mark.parametrize("kind", MODES)
@pytest.mark.parametrize("family", ["Llama", "Qwen3"])
def test_a_mode_sees_what_it_sees_of_the_model_itself(family, kind):
    model, mode = build(family), MODES[kind]()
    with mode:
        expected = loss_and_gradients(model)
    handle = patch(model)
    with mode:
        assert_same_step(loss_and_gradients(model), expected)
    told = {row.why for row in handle.report() if row.own_calls}
    assert told == {"a mode of torch that sees its operations is on"}


def compiled_losses(model, modes):
    """A graph that was traced under a mode runs under it as well, so eager's are others."""
    torch._dynamo.reset()
    step, losses = torch.compile(model, backend="eager", fullgraph=True), []
    for mode in modes:
        with mode:
            losses.append(step(**batch()).loss.detach())
    return losses


@pytest.mark.parametrize("kind", ["linear", "rsqrt", "cross_entropy"])
def test_a_compiled_step_under_a_mode(kind, monkeypatch):
    model, modes = build(num_hidden_layers=1), [MODES[kind](), torch.device("cpu")]
    expected = compiled_losses(model, modes)
    patch(model)
    with counted(monkeypatch) as calls:
        found = compiled_losses(model, modes)
    torch.testing.assert_close(found, expected)
    assert calls["gated_mlp"] == calls["fused_linear_cross_entropy"] == 1  # of the second graph


@pytest.mark.parametrize("kind", ["cross_entropy", "products"])
def test_a_mode_around_the_loss_alone(kind, monkeypatch):
    """Between a head and its loss logits may be put off; what a mode sees is computed."""
    model, mode = build(), MODES[kind]()

    def step():
        loss_function = model.loss_function

        def around(*args, **named):
            with mode:
                return loss_function(*args, **named)

        model.loss_function = around
        try:
            return loss_and_gradients(model)
        finally:
            model.loss_function = loss_function

    expected = step()
    patch(model)
    assert_same_step(step(), expected)


def selective():
    contexts = create_selective_checkpoint_contexts(
        lambda ctx, op, *args, **named: CheckpointPolicy.MUST_SAVE
    )
    return contexts[0]


@pytest.mark.parametrize(
    "mode, watched",
    [
        (lambda: torch.device("cpu"), False),
        (FakeTensorMode, False),
        (selective, False),
        (Subclass, True),
        (lambda: FlopCounterMode(display=False), True),
    ],
)
def test_which_modes_lose_nothing(mode, watched):
    assert not is_watched()
    with mode():
        assert is_watched() is watched
        with torch.device("cpu"):
            assert is_watched() is watched
    assert not is_watched()


def test_a_default_device_and_a_selective_checkpoint_keep_the_operators(monkeypatch):
    model = build(num_hidden_layers=1)
    expected = loss_and_gradients(model)
    patch(model)
    mlp = model.model.layers[0].mlp

    def forward(x):
        return torch.utils.checkpoint.checkpoint(
            mlp,
            x,
            use_reentrant=False,
            context_fn=lambda: create_selective_checkpoint_contexts([torch.ops.aten.mm.default]),
        )

    x = torch.randn(2, 5, 32, requires_grad=True)
    (own,) = torch.autograd.grad(mlp(x).sum(), x)
    with counted(monkeypatch) as calls, torch.device("cpu"):
        assert_same_step(loss_and_gradients(model), expected)
        (found,) = torch.autograd.grad(forward(x).sum(), x)
    assert torch.equal(found, own)
    assert calls["gated_mlp"] == 3  # the step's, and two of the checkpoint
    assert calls["fused_linear_cross_entropy"] == 1
