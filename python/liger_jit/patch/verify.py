"""A patched model against itself unpatched: the loss and every gradient, on a tiny batch."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .probe import compute_dtype, relative_error
from .rule import is_sharded

TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}
HALF_TOLERANCE = 1e-1
BATCH, TOKENS = 2, 16


@dataclass(frozen=True)
class Verification:
    """Losses of both runs, and the parameter whose gradient differs most."""

    loss: float
    unpatched_loss: float
    loss_error: float
    gradient_error: float
    worst_parameter: str
    tolerance: float

    @property
    def passed(self) -> bool:
        return max(self.loss_error, self.gradient_error) <= self.tolerance


def compare(handle, tolerance: float | None = None) -> Verification:
    """Runs both models in training mode on one batch of random tokens, with the same random state.

    Args:
        handle: of a causal language model that is patched now; it is patched again at the end, and
            each module's mode, its buffers, the random state and all gradients are as before. Hooks
            are called as in two training steps.
        tolerance: largest relative error of the loss and of each gradient (norm-wise); by default
            1e-3, or 1e-1 for half precision, whose gradients are no closer than that to each other.

    Raises:
        RuntimeError: the patch is taken back already, the weights are sharded over ranks, or an
            error is above the tolerance; it names the parameter. Two gradients of norm zero are
            equal.
    """
    if not handle.applied:
        raise RuntimeError("verify() needs the patch in place; this handle was taken back")
    model = handle.model
    if has_sharded_weights(model):
        raise RuntimeError(
            f"verify() needs the whole weights of {type(model).__name__}, and they are sharded "
            "over ranks (FSDP or ZeRO-3): call it before the model is sharded"
        )
    if tolerance is None:
        tolerance = TOLERANCE.get(compute_dtype(model), HALF_TOLERANCE)
    patched_loss, patched = loss_and_gradients(model)
    handle.unpatch()
    try:
        loss, gradients = loss_and_gradients(model)
    finally:
        handle.apply()
    errors = {name: error_of(patched[name], gradients[name]) for name in gradients}
    worst = max(errors, key=errors.get, default="")
    loss_error = abs(patched_loss - loss) / max(abs(loss), 1e-30)
    result = Verification(patched_loss, loss, loss_error, errors.get(worst, 0.0), worst, tolerance)
    if not result.passed:
        raise RuntimeError(
            f"the patched {type(model).__name__} differs: loss {patched_loss:.6g}, not {loss:.6g}; "
            f"gradient of {worst or 'nothing'} off by {result.gradient_error:.1e} "
            f"(tolerance {tolerance:.0e}). unpatch() restores the model."
        )
    return result


def error_of(found: Tensor | None, expected: Tensor | None) -> float:
    """None is a gradient of zeros."""
    if found is not None and expected is not None:
        return relative_error(found, expected)
    one = expected if found is None else found
    return float("inf") if one is not None and one.any() else 0.0


def has_sharded_weights(model: nn.Module) -> bool:
    """Whether the gradients of this model's parameters are for FSDP or ZeRO-3 to collect."""
    parameters = list(model.parameters())
    marks = ("_fsdp_flattened", "ds_id", "full_tensor")  # the last is that of a DTensor
    marked = (hasattr(parameter, mark) for parameter in parameters for mark in marks)
    # One flat parameter of a wrapper may have taken the place of all.
    return not parameters or any(marked) or any(map(is_sharded, model.modules()))


def loss_and_gradients(model: nn.Module) -> tuple[float, dict]:
    """The training loss of a fixed random batch, and the gradient of each trained parameter."""
    settings = model.config.get_text_config()
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(23)
    ids = torch.randint(settings.vocab_size, (BATCH, TOKENS), generator=generator, device="cpu")
    ids = ids.to(device)
    labels = ids.clone()
    labels[0, : TOKENS // 4] = -100
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    devices = [device] if device.type == "cuda" else []
    with as_before(model), torch.random.fork_rng(devices=devices), torch.enable_grad():
        model.train()
        torch.manual_seed(29)
        loss = model(input_ids=ids, labels=labels).loss
        found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    return loss.item(), dict(zip(trained, found, strict=True))


@contextmanager
def as_before(model: nn.Module) -> Iterator[None]:
    """Gives each module its mode and its buffers back, what they hold included."""
    modules = list(model.modules())
    modes = [(module, module.training) for module in modules]
    buffers = [
        (module, name, buffer, buffer.clone(), buffer._version)
        for module in modules
        for name, buffer in module._buffers.items()
        if buffer is not None and not buffer.is_inference()
    ]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for module, name, buffer, copy, version in buffers:
            module._buffers[name] = buffer
            if buffer._version != version:
                with torch.no_grad():
                    buffer.copy_(copy)
