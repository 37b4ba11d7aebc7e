"""The rule for the loss head: the model's last linear layer and the cross entropy that follows it.

In eager mode the head answers a forward with labels by `LazyLogits`, which end in one fused call
wherever the model's own code calls cross entropy. Under torch.compile, which cannot trace a lazy
tensor, the head passes its input on and the model's loss function multiplies; that is only done
when a probe has shown that nothing happens to the logits between the two.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass, make_dataclass

import torch
from torch import Tensor, nn

from .handle import InstanceValue, ModelHooks
from .installed import replaced_by
from .label_count import LabelCount
from .lazy_logits import LazyLogits, Source
from .loss_call import OPTIONS, LossCall, next_token_loss
from .probe import compute_dtype
from .rule import SHARDED_AWAY, MetaCall, Refusal, is_sharded
from .tail import is_causal_loss, is_plain_tail


class LossHead:
    """What a patched model and its head share: the head's forward, the model's hooks, its loss.

    All of them are bound methods of this object, so that a deep copy of the model gets its own.
    """

    def __init__(self, model: nn.Module, head: nn.Linear, fused: bool):
        self.model, self.head, self.fused = model, head, fused
        self.head_class = type(head)
        self.call: LossCall | None = None
        self.entered = False
        self.original_loss = getattr(model, "loss_function", None)
        self.causal = is_causal_loss(self.original_loss)
        # A forward that a trainer put on the model may do anything between head and loss.
        self.plain_tail = self.causal and replaced_by(model) is None and is_plain_tail(model)
        self.labels_position = labels_position(model)
        self.links = links_between(model, head)

    def begin(self, model, args, kwargs):
        """Model pre-hook: takes our options out of the keywords, and looks for labels.

        Raises ValueError if skip_logits is asked for and there are no labels.
        """
        self.entered = True
        kwargs = dict(kwargs)
        skip, accuracy, tokens, scaling = (kwargs.pop(name, None) for name in OPTIONS)
        labels = kwargs.get("labels")
        if len(args) > self.labels_position:
            labels = args[self.labels_position]
        if labels is None:
            self.call = None
            if skip:
                raise ValueError("skip_logits=True needs labels: without logits or a loss, nothing")
            return args, kwargs
        # skip_logits left out means: logits are what a training step does not need.
        keep = not skip if skip is not None else not model.training
        call = LossCall(keep, bool(accuracy), bool(tokens), bool(scaling))
        self.call = None if self.fused and keep and not call.wants_more else call
        if self.call is not None and self.fused:
            call.labels = LabelCount.begin(labels)
        return args, kwargs

    def forward(self, *inputs, **named) -> Tensor:
        """The head's forward: real logits, lazy logits, or its input for a compiled loss."""
        call, head = self.call or self.call_past_hooks(), self.head
        if call is None:
            return self.head_class.forward(head, *inputs, **named)
        states = inputs[0] if inputs else next(iter(named.values()))
        compiling = torch.compiler.is_compiling()
        fused = self.fused and self.weight_stays()
        if compiling and fused and self.plain_tail and not call.keep_logits:
            call.states_as_logits = True
            return states
        if not fused or compiling:
            states = self.head_class.forward(head, *inputs, **named)
            if compiling:
                return states
            return LazyLogits.of(Source(states, None, None, states.dtype, (), call))
        return LazyLogits.of(
            Source(states, head.weight, head.bias, product_dtype(states, head.weight), (), call)
        )

    def call_past_hooks(self) -> LossCall | None:
        """The call of a training step that did not run the model's hooks.

        PEFT calls model.forward itself. If its adapters came after the patch, nothing of ours sees
        labels or output: the logits stay lazy, and whoever reads the output's logits gets them.
        """
        bypassed = not self.entered and self.head.training and torch.is_grad_enabled()
        if not bypassed or torch.compiler.is_compiling() or not is_adapted(self.model):
            return None
        return LossCall(keep_logits=True)

    def weight_stays(self) -> bool:
        """Whether the head's weight is still whole after the head has returned.

        Sharding that gathers weights for one module's forward (FSDP, ZeRO-3) frees them again after
        it. That module may be the head or one that has it, but for the model: the first FSDP stands
        in its place, the second in its class.
        """
        weight = self.head.weight
        whole = type(weight) in (nn.Parameter, Tensor) or hasattr(self.head, "parametrizations")
        linked = all(
            parent._modules.get(name) is child and not is_sharded(child)
            for parent, name, child in self.links
        )
        return whole and linked and not hasattr(weight, "ds_id")

    def loss(self, *args, **kwargs) -> Tensor:
        """The model's loss function; only a compiled forward needs more than the original."""
        call = self.call
        if call is None or not (call.states_as_logits or self._compiled_logits()):
            return self.original_loss(*args, **kwargs)
        return self._compiled_loss(call, *args, **kwargs)

    def _compiled_logits(self) -> bool:
        return torch.compiler.is_compiling() and self.causal and not self.fused

    def _compiled_loss(
        self,
        call,
        logits,
        labels,
        vocab_size,
        num_items_in_batch=None,
        ignore_index=-100,
        shift_labels=None,
        **kwargs,
    ) -> Tensor:
        head = self.head if call.states_as_logits else None
        return next_token_loss(
            call,
            logits,
            labels,
            None if head is None else head.weight,
            None if head is None else head.bias,
            num_items_in_batch,
            ignore_index,
            shift_labels,
        )

    def end(self, model, args, output):
        """Model hook: real logits or none in the output, and what the loss found beside it."""
        call, self.call, self.entered = self.call, None, False
        if call is None or output is None:
            return None
        return finished(output, call)

    def changes(self) -> list:
        forward = InstanceValue(self.head, "forward", self.forward)
        around = (
            InstanceValue(self.model, "forward", AroundForward(self))
            if is_adapted(self.model)
            else ModelHooks(self.model, self.begin, self.end)
        )
        if not self.causal:
            return [forward, around]
        return [forward, around, InstanceValue(self.model, "_loss_function", self.loss)]

    # Seen by `replaced_by` on the head's forward.
    forward.liger_jit_role = "loss head"


def find(model: nn.Module, fused: bool) -> LossHead | Refusal:
    """The loss head of a model, or why there is none that can be patched."""
    try:
        head = model.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        head = None
    if head is None:
        return Refusal("the model has no output head")
    if type(head).forward is not nn.Linear.forward:
        return Refusal(f"the head is {type(head).__name__}, not a plain nn.Linear")
    if head.weight.dim() != 2:
        return Refusal(SHARDED_AWAY)
    if not head.weight.is_floating_point():
        return Refusal(f"the head's weight is packed ({head.weight.dtype})")
    if labels_position(model) is None:
        return Refusal("the model's forward takes no labels")
    reason = replaced_by(head)
    return Refusal(reason) if reason else LossHead(model, head, fused)


def path_of(model: nn.Module, head: nn.Module | None) -> str:
    return next((path for path, module in model.named_modules() if module is head), "")


def links_between(model: nn.Module, head: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """(module, name, child) on the way from the model to its head."""
    links, parent = [], model
    for name in filter(None, path_of(model, head).split(".")):
        links.append((parent, name, parent._modules[name]))
        parent = links[-1][2]
    return links


def labels_position(model: nn.Module) -> int | None:
    """Of `labels` among the arguments of the model's forward; None if it takes none.

    A forward that a trainer put on the model may hand on whatever it gets to the class's own.
    """
    for forward, bound in ((model.forward, 0), (type(model).forward, 1)):
        names = list(inspect.signature(forward).parameters)
        if "labels" in names:
            return names.index("labels") - bound
    return None


def product_dtype(states: Tensor, weight: Tensor) -> torch.dtype:
    """The dtype that the head's matrix product has here, autocast included."""
    kind = states.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def is_adapted(model: nn.Module) -> bool:
    """Whether PEFT put adapters in. Its wrapper calls model.forward, past the model's hooks."""
    return any(hasattr(module, "base_layer") for module in model.modules())


class AroundForward:
    """In place of an adapted model's forward: the same one, with the loss head's hooks around it.

    An object, so that a deep copy of the model gets one that calls the copy.
    """

    __name__ = "forward"
    liger_jit_role = "loss head"

    def __init__(self, loss_head: LossHead):
        self.loss_head = loss_head
        # Trainers put forwards of their own on the instance, which must go on being called.
        self.trainers = loss_head.model.__dict__.get("forward")

    @property
    def original(self) -> Callable:
        model = self.loss_head.model
        return type(model).forward.__get__(model) if self.trainers is None else self.trainers

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.original)

    def __call__(self, *args, **kwargs):
        tail = self.loss_head
        args, kwargs = tail.begin(tail.model, args, kwargs)
        try:
            output = self.original(*args, **kwargs)
            settled = tail.end(tail.model, args, output)
        finally:
            tail.call, tail.entered = None, False
        return output if settled is None else settled


def finished(output, call: LossCall):
    """The model's output with no lazy logits left in it."""
    extra = {"token_accuracy": call.found_accuracy, "predicted_tokens": call.found_tokens}
    extra = extra if call.token_accuracy or call.predicted_tokens else {}
    if isinstance(output, tuple):
        return (*(settled(value, call) for value in output), *extra.values())
    if not isinstance(output, dict):
        return settled(output, call)
    values = {name: settled(value, call) for name, value in output.items()}
    if call.states_as_logits:
        values.pop("logits")
    if torch.compiler.is_compiling():
        output = type(output)(**values)
        for name, value in extra.items():
            setattr(output, name, value)
        return output
    output_class = type(output)
    if extra and is_dataclass(output):
        output_class = with_token_fields(output_class)
    return output_class(**values, **extra)


def settled(value, call: LossCall):
    if not isinstance(value, LazyLogits):
        return value
    # Logits that were computed for the loss cost nothing more to return.
    dense = value.source.weight is None
    return value.real() if call.keep_logits or dense else None


@functools.cache
def with_token_fields(output_class: type) -> type:
    """The output class with the two fields of Liger's outputs, so that wrappers carry them on."""
    present = {field.name for field in fields(output_class)}
    names = [name for name in ("token_accuracy", "predicted_tokens") if name not in present]
    added = [(name, Tensor | None, None) for name in names]
    return make_dataclass(f"{output_class.__name__}WithTokens", added, bases=(output_class,))


def meta_call(loss_head: LossHead) -> MetaCall:
    """The loss of a training step of the patched model, on meta tensors."""
    head, fused = loss_head.head, loss_head.fused
    vocabulary, width = head.weight.shape
    dtype, biased = compute_dtype(head), head.bias is not None

    def run(batch: int, tokens: int) -> None:
        def empty(*shape):
            return torch.empty(*shape, dtype=dtype, device="meta", requires_grad=True)

        # A plain step divides by the labels it counts, a Trainer's by a number that it brings.
        for num_items in (None, batch * tokens):
            next_token_loss(
                LossCall(keep_logits=False),
                empty(batch, tokens, width if fused else vocabulary),
                torch.empty(batch, tokens, dtype=torch.int64, device="meta"),
                empty(vocabulary, width) if fused else None,
                empty(vocabulary) if fused and biased else None,
                num_items,
            ).backward()

    op = "fused_linear_cross_entropy" if fused else "cross_entropy"
    return MetaCall(op, (vocabulary, width, dtype, biased), run)
