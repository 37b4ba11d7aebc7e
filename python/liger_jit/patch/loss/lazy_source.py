"""Where logits come from, as long as they are not computed."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..autocasting import without_autocast
from ..recomputed import Hooks, hooks_here, saved_by
from .call import LossCall

# What these names were when the head was asked, which their owners may replace by then.
LINEAR, TANH = torch._C._nn.linear, torch.tanh

# Steps that are written down: ("mul" | "div", number), ("cast", dtype), ("tanh" | "copy", None).
Step = tuple[str, object]

STEPS: dict[str, Callable] = {
    "mul": lambda logits, value: logits * value,
    "div": lambda logits, value: logits / value,
    "tanh": lambda logits, value: TANH(logits),
    "cast": lambda logits, value: logits.to(value),
    "copy": lambda logits, value: logits.clone(),
}


class Follow(torch.autograd.Function):
    """Values with the history of another tensor, or with their own: a tensor in the same memory,
    whose writes count for both, and no view."""

    @staticmethod
    def forward(ctx, history, values):
        return values.detach()

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


@dataclass(frozen=True)
class Source:
    """States [..., H] and a head [V, H], or computed logits [..., V], and what follows.

    The tensors must stay as they are: `check` raises if one was written to since. `with_grad`,
    `in_inference`, `hooks` of saved tensors and `stream` say under what the head was called. What
    follows computed logits is done at once, as anybody may see it, but for the cast in
    transformers' own loss function.
    """

    states: Tensor
    weight: Tensor | None
    bias: Tensor | None
    dtype: torch.dtype
    steps: tuple[Step, ...]
    call: LossCall
    with_grad: bool = field(default_factory=torch.is_grad_enabled)
    in_inference: bool = field(default_factory=torch.is_inference_mode_enabled)
    hooks: Hooks | None = field(default_factory=hooks_here)
    stream: torch.cuda.Stream | None = None
    versions: tuple[int | None, ...] = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "versions", tuple(map(_version, self.tensors())))
        if self.stream is None and self.states.is_cuda:
            object.__setattr__(self, "stream", torch.cuda.current_stream(self.states.device))

    @contextlib.contextmanager
    def as_at_the_head(self) -> Iterator[None]:
        """What is made in it is made as the head would have made it, and waited for here."""
        inference = torch.inference_mode(self.in_inference)
        with inference, torch.set_grad_enabled(self.with_grad), saved_by(self.hooks):
            now = None if self.stream is None else torch.cuda.current_stream(self.stream.device)
            if now == self.stream:
                yield
                return
            with torch.cuda.stream(self.stream):
                yield
            now.wait_stream(self.stream)

    @property
    def vocabulary(self) -> int:
        return self.states.shape[-1] if self.weight is None else self.weight.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.states.shape[:-1], self.vocabulary)

    @property
    def result_dtype(self) -> torch.dtype:
        casts = [value for name, value in self.steps if name == "cast"]
        return casts[-1] if casts else self.dtype

    @property
    def has_gradients(self) -> bool:
        return self.with_grad and any(t is not None and t.requires_grad for t in self.tensors())

    @property
    def are_the_logits(self) -> bool:
        """Whether its states are computed logits, as they were made."""
        return self.weight is None and not self.steps

    @property
    def is_kept_for_backward(self) -> bool:
        """Whether the backward of the last step reads what it gave, as that of a tanh does."""
        return bool(self.steps) and self.steps[-1][0] == "tanh"

    def tensors(self) -> tuple[Tensor | None, ...]:
        return (self.states, self.weight, self.bias)

    def check(self) -> None:
        """Raises RuntimeError if the logits that are asked for are no longer to be had."""
        if self.call.raised:
            raise RuntimeError(
                "logits are needed after the forward that made them raised, and the head's weight "
                "may be another since: read them before, or call the model with skip_logits=False"
            )
        names = ("input", "weight", "bias")
        for name, tensor, version in zip(names, self.tensors(), self.versions, strict=True):
            if _version(tensor) != version:
                raise RuntimeError(
                    f"logits are needed after the head's {name}, of shape {tuple(tensor.shape)}, "
                    "was written to in place: write after the loss, or into a copy"
                )

    def of(self, states: Tensor, *head: Tensor | None) -> "Source":
        """The same of other states, which were made from these just now."""
        self.check()
        weight, bias = head or (self.weight, self.bias)
        return replace(self, states=states, weight=weight, bias=bias)

    def copied(self, states: Tensor) -> "Source":
        """The same, and not what the last step gave: a write into that may spoil its backward, and
        one into a copy does not."""
        derived = self.of(states)
        return derived.then("copy") if self.is_kept_for_backward else derived

    def then(self, name: str, value=None) -> "Source":
        self.check()
        derived = replace(self, steps=(*self.steps, (name, value)))
        if self.weight is not None or (name == "cast" and self.call.in_own_loss):
            return derived
        done = derived.compute()
        return replace(self, states=done, dtype=done.dtype, steps=())

    def compute(self) -> Tensor:
        """The logits, by the same operations in the same order as the model would have used."""
        self.check()
        logits = self.states
        if self.weight is not None:
            bias = None if self.bias is None else self.bias.to(self.dtype)
            with without_autocast(logits.device):
                logits = LINEAR(logits.to(self.dtype), self.weight.to(self.dtype), bias)
        elif not self.steps:
            # Not the tensor itself, which other sources hold, and no view, as the head gave none.
            logits = Follow.apply(logits, logits)
        for name, value in self.steps:
            logits = STEPS[name](logits, value)
        return logits

    def scale_and_softcap(self) -> tuple[float, float | None] | None:
        """(a, c) with logits = c * tanh(a * head / c), or a * head; None for any other steps."""
        scale, outer, capped = 1.0, 1.0, False
        for name, value in self.steps:
            if name == "tanh":
                if capped:
                    return None
                capped = True
            elif name in ("mul", "div"):
                factor = value if name == "mul" else 1.0 / value
                scale, outer = (scale, outer * factor) if capped else (scale * factor, outer)
        if not capped:
            return _without_rounding(scale), None
        return (_without_rounding(scale * outer), outer) if outer > 0 else None


def _without_rounding(scale: float) -> float:
    """1 where factors cancel but for their rounding, as of a cap that divides and multiplies."""
    return 1.0 if abs(scale - 1.0) <= 4 * sys.float_info.epsilon else scale


def _version(tensor: Tensor | None) -> int | None:
    """How often it was written to; None if nobody counts that."""
    return None if tensor is None or tensor.is_inference() else tensor._version
