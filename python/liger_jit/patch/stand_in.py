"""What stands in place of a forward in a module's `__dict__`.

Objects and not functions: a deep copy of the module gets one that calls the copy. Known as ours by
their class, which no wrapper copies. What is saved is what they stand for.
"""

import copy
import inspect
import operator
from collections.abc import Callable

from torch import nn

from .saved import LeftOut
from .taken import Taken, call_as_found, call_own, class_forward, forward_of_call

# What callers read of a function beside its signature.
OF_A_FUNCTION = frozenset(
    (
        "__code__",
        "__annotations__",
        "__qualname__",
        "__globals__",
        "__defaults__",
        "__kwdefaults__",
        "__wrapped__",
    )
)


# What is saved is rebuilt by these alone, so it loads where liger_jit is not installed.
THE_ONE_IN_IT = operator.itemgetter(0)


class Covered:
    """Base of a value of ours that another patch may put its own over. `taken_back` is the change
    that should have taken it out by now: who takes the other out puts back what was before it."""

    taken_back = None  # not annotated: a forward of ours shows the annotations of the model's own


class LikeFunction:
    """What is read of it is that of `own`, the function it stands for, which subclasses give."""

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.own)

    def __getattr__(self, name: str):
        if name not in OF_A_FUNCTION:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.own, name)


class LikeMethod(LikeFunction):
    """In place of a forward."""

    __name__ = "forward"

    taken = None  # a `Taken`, from when it is put in

    def class_forward(self, *args, **kwargs):
        """The forward of its class that a call stands for. Not through `own`: torch.compile does
        not trace the binding of a method in all releases."""
        module = self.__self__
        return call_own(self.forward_of_class(), self.taken.then, module, *args, **kwargs)

    def forward_of_class(self) -> Callable:
        """That of now, or of when what covers ours took it."""
        module = self.__self__
        return type(module).forward if self.is_uncovered() else self.taken.own(module)

    def is_uncovered(self) -> bool:
        """Whether it is in its place, or under others of ours. What covers it is noted."""
        cover = self.__self__.__dict__.get("forward")
        while cover is not self and isinstance(cover, StandIn):
            cover = cover.trainers
        if cover is self:
            self.taken.uncovered(type(self.__self__).forward)
        else:
            self.taken.covered(self.__self__)
        return cover is self

    @property
    def __func__(self) -> "LikeMethod":
        """What a wrapper binds again."""
        return self

    def without_module(self, args: tuple) -> tuple:
        """The arguments. A wrapper that binds what it found hands the module on as the first."""
        return args[1:] if args and args[0] is self.__self__ else args


class StandIn(LikeMethod):
    """Base of what stands in a model's `__dict__`; `trainers` is the forward that was there, which
    a trainer put on the instance and which must go on being called."""

    def __init__(self, model: nn.Module):
        self.__self__ = model
        self.trainers = model.__dict__.get("forward")
        self.taken = Taken(type(model).forward)

    @property
    def own(self) -> Callable:
        return class_forward(self.__self__) if self.trainers is None else self.trainers

    def stands_for(self) -> Callable | None:
        """The forward of its class that a call stands for; None if it is a trainer's."""
        if self.trainers is not None:
            return None
        return forward_of_call(self.forward_of_class(), self.taken.then, self.__self__)

    def original(self, *args, **kwargs):
        if self.trainers is not None:
            return self.trainers(*args, **kwargs)
        return self.class_forward(*args, **kwargs)

    def __call__(self, *args, **kwargs):
        if self.is_bound_to_another(args):
            return self.as_anothers(*args, **kwargs)
        return self.run(*self.without_module(args), **kwargs)

    def run(self, *args, **kwargs):
        """What a call of the model's forward does: subclasses do more."""
        return self.original(*args, **kwargs)

    def is_bound_to_another(self, args: tuple) -> bool:
        """Whether somebody copied the model's `__dict__` into another model of its class, and bound
        what is a method there to it, as accelerate does to compile a model region by region."""
        return bool(args) and args[0] is not self.__self__ and type(args[0]) is type(self.__self__)

    def as_anothers(self, module: nn.Module, *args, **kwargs):
        """Of that model its own forward, or the trainer's."""
        if self.trainers is None:
            return call_as_found(type(module).forward, module, *args, **kwargs)
        if not hasattr(self.trainers, "__func__"):
            return self.trainers(*args, **kwargs)
        return self.trainers.__func__(module, *args, **kwargs)

    def __deepcopy__(self, memo: dict) -> "StandIn":
        memo[id(self)] = twin = object.__new__(type(self))
        held = {name: value for name, value in self.__dict__.items() if name != "taken"}
        twin.__dict__.update(copy.deepcopy(held, memo))
        twin.taken = copy.copy(self.taken)
        return twin

    def __reduce__(self):
        if self.trainers is None:
            return getattr, (self.__self__, "forward")
        return THE_ONE_IN_IT, ((self.trainers,),)


class HeadForward(LikeMethod, Covered):
    """In place of the forward of a model's head. A copy of the head without its model has its
    class's."""

    def __init__(self, loss_head):
        self.loss_head = loss_head
        self.taken = Taken(type(loss_head.head).forward)

    def __call__(self, *inputs, **named):
        return self.loss_head.forward(self.class_forward, *self.without_module(inputs), **named)

    @property
    def __self__(self) -> nn.Module:
        return self.loss_head.head

    @property
    def own(self) -> Callable:
        return class_forward(self.__self__)

    def __deepcopy__(self, memo: dict):
        if id(self.loss_head.model) in memo:
            memo[id(self)] = twin = object.__new__(HeadForward)
            # Of a head that is no longer the model's the loss head may be half copied by now.
            twin.taken = copy.copy(self.taken)
            twin.loss_head = copy.deepcopy(self.loss_head, memo)
            return twin
        return class_forward(copy.deepcopy(self.loss_head.head, memo))

    def __reduce__(self):
        return getattr, (self.loss_head.head, "forward")


class LossFunction(LikeFunction, LeftOut):
    """In place of a model's loss function."""

    def __init__(self, loss_head):
        self.loss_head = loss_head

    def __call__(self, *args, **kwargs):
        return self.loss_head.loss(*args, **kwargs)

    @property
    def own(self) -> Callable:
        return self.loss_head.found_loss.of_now()

    @property
    def is_left_out(self) -> bool:
        """Where the unpatched model does not hold one either."""
        return self.loss_head.found_loss.is_looked_up

    @property
    def __name__(self) -> str:
        return getattr(self.own, "__name__", "loss_function")

    def __deepcopy__(self, memo: dict) -> "LossFunction":
        return LossFunction(copy.deepcopy(self.loss_head, memo))

    def __reduce__(self):
        return THE_ONE_IN_IT, ((self.loss_head.original_loss,),)
