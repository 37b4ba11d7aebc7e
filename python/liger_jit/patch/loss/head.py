"""The rule for the loss head: the model's last linear layer and the cross entropy that follows it.

In eager mode the head answers a forward with labels by `LazyLogits`, which end in one fused call
wherever the model's own code calls cross entropy. Under torch.compile, which cannot trace a lazy
tensor, the head answers with real logits, and the model's loss function leaves them unused if it
sees that they are what the head made. So no code between the two, whoever wrote it and whenever,
ever gets anything but logits.
"""

import functools
from collections.abc import Callable
from dataclasses import fields, make_dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..autocasting import autocast_dtype, have_one_dtype
from ..entered import Entered, call_of, place
from ..guard import is_for_inference_alone, is_hooked
from ..installed import replaced_by
from ..lookup import answers_for
from ..modes import WATCHED, is_watched
from ..own_calls import OwnCalls
from ..probe import compute_dtype
from ..recomputed import checkpoint_here
from ..rule import SHARDED_AWAY, MetaCall, Refusal, is_sharded
from ..source.torchs_own import replaced_call, replaced_cross_entropy, replaced_linear
from ..stand_in import Covered, HeadForward, StandIn
from .arguments import OwnArguments, labels_position
from .call import OPTIONS, LossCall, next_token_loss
from .causal_loss import is_causal_loss, labels_of_causal_loss, own_loss
from .compiled_loss import is_compiled
from .found_loss import FoundLoss
from .label_count import LabelCount
from .lazy_block import one_at_a_time
from .lazy_logits import (
    LazyLogits,
    are_computed,
    are_of_the_head,
    is_passed_over,
    lazy_logits,
    real_logits,
)
from .lazy_source import Source
from .place_of_logits import (
    copy_of,
    is_model_output,
    like_tuple,
    made_of,
    put,
    with_place_of_logits,
)

# Of the tensors that a head may have; a set, as one lookup is all that a call pays.
PLAIN = frozenset({nn.Parameter, Tensor})
PLAIN_OR_NONE = PLAIN | {type(None)}
# Why a head makes its own logits.
ASKED_FOR = "its logits were asked for: skip_logits=False, or no training step"
CHECKPOINTED = "it was called in a checkpoint that the loss is not in"
NOT_WHOLE = "its input, weight or bias is no plain tensor, or none that outlives its call"
MIXED = "its input, weight and bias do not go together, and torch says how"
NO_LOSS = "no cross entropy was called on its logits"


class LossHead(OwnCalls):
    """What a patched model and its head share: the head's forward and the model's, its loss.

    What stands in their places holds this object, so that a deep copy of the model gets its own.
    What one forward of the model asked for is not here: see `entered`. A forward with labels whose
    loss is not made from lazy logits counts as one of the head's own.
    """

    def __init__(self, model: nn.Module, head: nn.Linear, fused: bool):
        self.model, self.head, self.fused = model, head, fused
        self.applied = False  # the switch: off, a forward of ours is the one it stands for
        self.head_class, self.head_forward = type(head), type(head).forward
        self.found_loss = FoundLoss(self, model)
        self.original_loss = self.found_loss.original
        self.causal = is_causal_loss(self.original_loss)
        self.own_loss = own_loss(self.original_loss)
        self.arguments = OwnArguments(model)
        self.links = links_between(model, head)

    def begin(
        self, args: tuple, kwargs: dict, own: Callable | None
    ) -> tuple[LossCall | None, tuple, dict]:
        """Takes our options out of the keywords of a forward, and looks for labels.

        `own`: the class's forward that it stands for, or None.

        Raises ValueError if skip_logits is asked for and there are no labels.
        """
        options, position = self.arguments.of(own)
        kwargs = dict(kwargs)
        skip, accuracy, tokens, scaling = (
            kwargs.pop(name, None) if name in options else None for name in OPTIONS
        )
        labels = kwargs.get("labels")
        if len(args) > position:
            labels = args[position]
        if labels is None:
            if skip:
                raise ValueError("skip_logits=True needs labels: without logits or a loss, nothing")
            return None, args, kwargs
        # skip_logits left out means: logits are what a training step does not need.
        keep = not skip if skip is not None else not self.model.training
        call = LossCall(keep, bool(accuracy), bool(tokens), bool(scaling))
        if not torch.compiler.is_compiling():
            call.checkpoint = checkpoint_here()
        if self.fused and keep and not call.wants_more:
            self.stand_back(ASKED_FOR)
            return None, args, kwargs
        if self.fused and not is_watched():
            shifted = kwargs.get("shift_labels")
            call.labels = LabelCount.begin(labels if shifted is None else shifted)
        return call, args, kwargs

    def forward(self, own: Callable, /, *inputs, **named) -> Tensor:
        """The head's forward: lazy logits where there is a loss to fuse, else its `own`."""
        call = call_of(self)
        if call is None or len(inputs) + len(named) != 1 or (named and "input" not in named):
            return own(*inputs, **named)
        if torch.compiler.is_compiling():
            return self.traced_forward(call, own, *inputs, **named)
        reason = self.covered() or (None if checkpoint_here() is call.checkpoint else CHECKPOINTED)
        if reason is None:
            states = inputs[0] if inputs else next(iter(named.values()))
            weight, bias = held(self.head, "weight"), held(self.head, "bias")
            if not (type(states) is Tensor and self.stays_whole(weight, bias)):
                reason = NOT_WHOLE
            elif not go_together(states, weight, bias):
                reason = MIXED
        call.missed = reason or NO_LOSS
        if reason is not None:
            return own(*inputs, **named)
        if not self.fused:
            logits = own(states)
            return lazy_logits(Source(logits, None, None, logits.dtype, (), call))
        # Views: what is trained, and on the way to what, is settled here, as a product would.
        views = [None if one is None else one.view_as(one) for one in (states, weight, bias)]
        return lazy_logits(Source(*views, product_dtype(states, weight), (), call))

    def traced_forward(self, call: LossCall, own: Callable, /, *inputs, **named) -> Tensor:
        """Under torch.compile, which cannot trace a lazy tensor: real logits, and a note of what
        they came from. If the loss gets these very logits, it takes the states, and nothing is left
        that uses the product, so no compiled graph has it."""
        from .traced_logits import made

        states = inputs[0] if inputs else next(iter(named.values()))
        logits = own(*inputs, **named)
        weight, bias = held(self.head, "weight"), held(self.head, "bias")
        stays_whole = self.stays_whole(weight, bias) and go_together(states, weight, bias)
        if self.fused and self.changed() is None and stays_whole:
            made(logits, states, weight, bias)
            call.traced = (logits, states, weight, bias)
        return logits

    def covered(self) -> str | None:
        """None while calling the head is still calling its class's forward and nothing else: no
        hook, of its own or of all modules, and no other forward over ours; and while what comes
        after it runs as Python, which lazy logits need."""
        head = self.head
        forward = head.__dict__.get("forward")
        # A wrapper may have its attributes.
        if type(forward) is not HeadForward or forward.loss_head is not self:
            return "another forward is over its own"
        if (reason := self.changed()) is not None:
            return reason
        if is_hooked(head):
            return "it has hooks, or all modules have"
        if is_compiled(getattr(self.model, "loss_function", None)):
            return "the model's loss function is compiled by itself, or calls what is"
        if torch._C._are_functorch_transforms_active():
            return "a transform of torch.func is on"
        return None

    def changed(self) -> str | None:
        """None while the head is a matrix product and the loss torch's own, for all to see."""
        if (
            type(self.head) is not self.head_class
            or self.head_class.forward is not self.head_forward
        ):
            return "its class has another forward"
        if answers_for(self.head_class, "weight") or answers_for(self.head_class, "bias"):
            return "its class has a weight or a bias of its own"
        if (reason := replaced_linear() or replaced_cross_entropy()) is not None:
            return reason
        return WATCHED if is_watched() else None

    def stays_whole(self, weight: Tensor, bias: Tensor | None) -> bool:
        """Whether these are the head's matrix and bias, and still are after the head has returned.

        A tensor of another class may be a shard, or packed. Sharding that gathers weights for one
        module's forward (FSDP, ZeRO-3) frees them again after it. That module may be the head or
        one that has it, but for the model: the first FSDP stands in its place, the second in its
        class.
        """
        return (
            type(weight) in PLAIN
            and type(bias) in PLAIN_OR_NONE
            and all(one is None or one.layout is torch.strided for one in (weight, bias))
            and weight.dim() == 2
            and (bias is None or bias.shape == weight.shape[:1])
            and weight.is_floating_point()
            and not hasattr(weight, "ds_id")
            and all(
                parent._modules.get(name) is child
                and (type(child) is seen or not is_sharded(child))
                for parent, name, child, seen in self.links
            )
        )

    def loss(self, *args, **kwargs) -> Tensor:
        """The model's loss function, in place of the original one of causal models."""
        call = call_of(self)
        if torch.compiler.is_compiling() and call is not None:
            return self.traced_loss(call, *args, **kwargs)
        found = self.found_loss.of_call()
        if found is not self.original_loss:
            return self.found_loss.call(found, *args, **kwargs)
        if call is None:
            return found(*args, **kwargs)
        with call.losing(labels_of_causal_loss(*args, **kwargs)):
            return self.original_loss(*args, **kwargs)

    def traced_loss(
        self,
        call: LossCall,
        logits: Tensor,
        labels: Tensor,
        vocab_size: int,
        num_items_in_batch=None,
        ignore_index: int = -100,
        shift_labels: Tensor | None = None,
        **kwargs,
    ) -> Tensor:
        from .traced_logits import is_untouched

        options = {
            "num_items_in_batch": num_items_in_batch,
            "ignore_index": ignore_index,
            "shift_labels": shift_labels,
        }
        found, original = self.found_loss.of_call(), self.original_loss
        if found is not original:
            return self.found_loss.call(found, logits, labels, vocab_size, **options, **kwargs)
        if logits.shape[-1] != vocab_size or not self.can_stand_for_loss(num_items_in_batch):
            return original(logits, labels, vocab_size, **options, **kwargs)
        if not self.fused:
            return shaped(next_token_loss(call, logits, labels, None, None, **options), options)
        if call.traced is None or logits is not call.traced[0] or not is_untouched(*call.traced):
            return original(logits, labels, vocab_size, **options, **kwargs)
        call.unused_logits = logits
        _, states, weight, bias = call.traced
        return shaped(next_token_loss(call, states, labels, weight, bias, **options), options)

    def can_stand_for_loss(self, num_items: Tensor | int | None) -> bool:
        """Whether `next_token_loss` is what transformers' own gives now, for that divisor."""
        if isinstance(num_items, Tensor):
            real = num_items.dtype is torch.float32 or not (
                num_items.is_floating_point() or num_items.is_complex()
            )
            one = real and num_items.numel() == 1
        else:
            one = not isinstance(num_items, complex)
        own = self.own_loss is not None and self.own_loss.stands()
        return one and own and replaced_cross_entropy() is None and not is_watched()


def shaped(loss: Tensor, options: dict) -> Tensor:
    """With the dimensions of the tensor that transformers would divide it by."""
    divisor = options["num_items_in_batch"]
    return loss.reshape(divisor.shape) if isinstance(divisor, Tensor) else loss


def find(model: nn.Module, fused: bool) -> LossHead | Refusal:
    """The loss head of a model, or why there is none that can be patched."""
    try:
        head = model.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        head = None
    if head is None:
        return Refusal("the model has no output head")
    if getattr(type(head), "forward", None) is not nn.Linear.forward:
        return Refusal(f"the head is {type(head).__name__}, not a plain nn.Linear")
    if reason := replaced_linear() or replaced_call() or replaced_cross_entropy():
        return Refusal(reason)
    if reason := replaced_forward(head):
        return Refusal(reason)
    for name in ("weight", "bias"):
        if name in head._parameters and answers_for(type(head), name):
            return Refusal(f"the head's class has a {name} of its own")
    # A parametrised weight is left alone: reading it may change it.
    weight = head._parameters.get("weight")
    if is_lazy(weight):
        return Refusal("the head's weight is not initialised yet")
    if weight is not None and weight.dim() != 2:
        return Refusal(SHARDED_AWAY)
    if weight is not None and not weight.is_floating_point():
        return Refusal(f"the head's weight is packed ({weight.dtype})")
    if getattr(head, "_distribute_module_applied", False):
        return Refusal("the head is spread over ranks (tensor parallel)")
    if labels_position(model) is None:
        return Refusal("the model's forward takes no labels")
    return LossHead(model, head, fused)


def replaced_forward(head: nn.Module) -> str | None:
    """Why no loss head can have this one now. One that is off, as a patch that was taken back may
    have left it, is none."""
    forward = head.__dict__.get("forward")
    if type(forward) is not HeadForward:
        return replaced_by(head)
    return "already patched" if forward.loss_head.applied else None


NOT_HELD = object()


def held(module: nn.Module, name: str) -> object:
    """A tensor that a module holds, or NOT_HELD: to read one that is made when it is read, as a
    parametrised one is, may change it."""
    held_by = module.__dict__ if name in module.__dict__ else module._parameters
    # Not by get(): sharded modules have a dict of their own, which gathers what it is asked for.
    return held_by[name] if name in held_by else NOT_HELD


def path_of(model: nn.Module, head: nn.Module | None) -> str:
    return next((path for path, module in model.named_modules() if module is head), "")


def links_between(
    model: nn.Module, head: nn.Module
) -> list[tuple[nn.Module, str, nn.Module, type | None]]:
    """(module, name, child, the child's class if it is not sharded) from the model to its head."""
    links, parent = [], model
    for name in filter(None, path_of(model, head).split(".")):
        child = parent._modules[name]
        links.append((parent, name, child, None if is_sharded(child) else type(child)))
        parent = child
    return links


def go_together(states: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether torch multiplies them, and a backward can keep them."""
    tensors = [one for one in (states, weight, bias) if one is not None]
    if states.shape[-1:] != weight.shape[1:] or len({one.device for one in tensors}) > 1:
        return False
    return not any(map(is_for_inference_alone, tensors)) and have_one_dtype(*tensors)


def product_dtype(states: Tensor, weight: Tensor) -> torch.dtype:
    """Of the head's matrix product. Autocast leaves float64 as it is."""
    if torch.float64 in (states.dtype, weight.dtype):
        return weight.dtype
    return autocast_dtype(states.device) or weight.dtype


class AroundForward(StandIn, Covered):
    """In place of the model's forward: the same one, entered before and left after."""

    def __init__(self, loss_head: LossHead):
        super().__init__(loss_head.model)
        self.loss_head = loss_head

    def run(self, *args, **kwargs):
        loss_head = self.loss_head
        if not loss_head.applied:
            return self.original(*args, **kwargs)
        call, args, kwargs = loss_head.begin(args, kwargs, self.stands_for())
        here = place()
        outer = here.innermost
        try:
            here.innermost = Entered(loss_head, call, outer)
            output = self.original(*args, **kwargs)
            if call is not None:
                output = None if output is None else finished(output, call)
                call.end()
                if not call.fused:
                    loss_head.stand_back(call.missed)
            return output
        except BaseException:
            if call is not None:
                call.raised = True
            raise
        finally:
            here.innermost = outer


def finished(output, call: LossCall):
    """The model's output with no lazy logits left in it: the very one if it had none, else a copy,
    which has all else that its class or the model's code has put there."""
    extra = {"token_accuracy": call.found_accuracy, "predicted_tokens": call.found_tokens}
    extra = extra if call.token_accuracy or call.predicted_tokens else {}
    if torch.compiler.is_compiling():
        return finished_while_traced(output, extra, call)
    with one_at_a_time:  # another thread may have these logits
        if isinstance(output, tuple):
            return finished_tuple(output, extra, call)
        return (
            finished_dict(output, extra, call) if isinstance(output, dict) else real_logits(output)
        )


def finished_dict(output: dict, extra: dict, call: LossCall) -> dict:
    lazy = {name: value for name, value in output.items() if isinstance(value, LazyLogits)}
    changed = {
        name: settled(value, call) if name == "logits" else real_logits(value)
        for name, value in lazy.items()
    }
    if not changed and not extra:
        return output
    output = copy_of(output)
    if extra and is_model_output(output):
        object.__setattr__(output, "__class__", with_token_fields(type(output)))
    for name, value in (changed | extra).items():
        put(output, name, value)
    if "logits" in lazy and output.get("logits") is None and is_model_output(output):
        object.__setattr__(output, "__class__", with_place_of_logits(type(output)))
    return output


def finished_tuple(output: tuple, extra: dict, call: LossCall) -> tuple:
    """Its logits are what the head gave, or else the first that is made of that alone."""
    lazy = [value for value in output if isinstance(value, LazyLogits)]
    if lazy:
        logits = next(filter(are_of_the_head, lazy), lazy[0])
        kept = settled(logits, call)  # first: another that is computed computes these too
        values = [kept if value is logits else real_logits(value) for value in output]
    else:
        values = list(output)
    if not extra and all(value is given for value, given in zip(values, output, strict=True)):
        return output
    return like_tuple(output, values) if not extra else (*values, *extra.values())


def finished_while_traced(output, extra: dict, call: LossCall):
    """The very output: torch traces no copy that has all of it in each release."""
    if isinstance(output, tuple) and extra:
        return (*output, *extra.values())
    if not isinstance(output, dict):
        return output
    unused = call.unused_logits is not None and output.get("logits") is call.unused_logits
    if unused and not call.keep_logits:
        if is_model_output(output):
            put(output, "logits", None)
        else:
            output.pop("logits")
    for name, value in extra.items():
        if is_model_output(output):  # whose class stays, without fields for these
            object.__setattr__(output, name, value)
        else:
            output[name] = value
    return output


def settled(logits: LazyLogits, call: LossCall) -> Tensor | None:
    """What an output has for logits: None in a training step whose loss did without them."""
    kept = call.keep_logits or are_computed(logits) or not is_passed_over(logits)
    return real_logits(logits) if kept else None


@functools.cache
def with_token_fields(output_class: type) -> type:
    """The output class with the two fields of Liger's outputs, so that wrappers carry them on."""
    present = {field.name for field in fields(output_class)}
    names = [name for name in ("token_accuracy", "predicted_tokens") if name not in present]
    added = [(name, Tensor | None, None) for name in names]
    frozen = output_class.__dataclass_params__.frozen
    name = f"{output_class.__name__}WithTokens"
    return make_dataclass(name, added, bases=made_of(output_class), frozen=frozen)


def meta_call(loss_head: LossHead) -> MetaCall:
    """The loss of a training step of the patched model, on meta tensors."""
    head, fused = loss_head.head, loss_head.fused
    vocabulary, width = head.out_features, head.in_features
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
