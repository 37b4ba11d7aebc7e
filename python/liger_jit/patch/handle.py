"""What `patch` returns: what was replaced and what was not, and the way back."""

import copy
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from ..meta_calls import MetaCall, replay_of
from .saved import LeftOut, save_as_unpatched
from .stand_in import Covered, LikeMethod, StandIn
from .taken import Taken
from .verify import Verification, compare

# What the last patch found for each live model. Its handle would keep the model alive.
_calls_of: weakref.WeakKeyDictionary[nn.Module, list[MetaCall]] = weakref.WeakKeyDictionary()

GONE = "no longer part of the model"


class _Absent:
    """Marks a name that was not there; a class, so that a deep copy is the same mark."""


@dataclass(frozen=True)
class Row:
    """One module of the model that some rule looked at. `status` is "patched" or a reason.

    own_calls, why: as of `OwnCalls`: of a head, the steps with labels whose loss was not fused. why
    may be "act_fn has hooks".
    """

    path: str
    module: str
    role: str
    status: str
    own_calls: int = 0
    why: str = ""

    @property
    def patched(self) -> bool:
        return self.status == "patched"

    @property
    def told(self) -> str:
        calls = f"; its own forward {self.own_calls} times: {self.why}" if self.own_calls else ""
        return self.status + calls


class Report(list):
    """Rows, with counts by role and a table for reading."""

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """role -> (modules patched, modules looked at)."""
        seen = Counter(row.role for row in self)
        patched = Counter(row.role for row in self if row.patched)
        return {role: (patched[role], number) for role, number in seen.items()}

    def __str__(self) -> str:
        counts = [f"{role}: {done} of {seen} patched" for role, (done, seen) in self.counts.items()]
        titles = Row("module", "class", "role", "status")
        rows = [titles, *self]
        path, module, role = (
            max(len(getattr(row, name)) for row in rows) for name in ("path", "module", "role")
        )
        lines = [
            f"{row.path:{path}}  {row.module:{module}}  {row.role:{role}}  {row.told}"
            for row in rows
        ]
        return "\n".join([*lines, "", *counts])


@dataclass
class InstanceValue:
    """An entry of an object's __dict__ and what it was before."""

    owner: object
    name: str
    value: object
    before: object = _Absent

    covered: bool = False  # something was over ours when it should have come out
    came_out: bool = False  # `before` is what was left there then
    kept_out: bool = False  # another value was put there since

    @property
    def now(self) -> object:
        return self.owner.__dict__.get(self.name, _Absent)

    def is_in(self) -> bool:
        """What was put over ours goes on calling it."""
        return self.now is self.value or (self.covered and self.now is not self.before)

    def is_free(self) -> bool:
        """Whether nobody put anything there since ours came out, or ours will call it."""
        return not self.came_out or self.now is self.before or isinstance(self.value, StandIn)

    def apply(self) -> None:
        if isinstance(self.value, Covered):
            self.value.taken_back = None
        if isinstance(self.value, LikeMethod):
            self.value.taken.ended = False
        self.kept_out = not self.is_in() and not self.is_free()
        if self.kept_out or self.is_in():
            return
        self.before, self.covered = self.now, False
        if isinstance(self.value, StandIn):
            self.value.trainers = None if self.before is _Absent else self.before
        if isinstance(self.value, LikeMethod):
            self.value.taken = Taken(type(self.owner).forward)
        self.owner.__dict__[self.name] = self.value

    def undo(self) -> None:
        if self.kept_out:
            return
        self.came_out = True
        if isinstance(self.value, LikeMethod):
            self.value.is_uncovered()
            self.value.taken.ended = True
        # If something was put over ours since, taking ours out would take that out as well.
        if self.now is not self.value:
            self.covered = True
            if isinstance(self.value, Covered):
                self.value.taken_back = self
            return
        before = self.before
        while isinstance(before, Covered) and before.taken_back is not None:
            before.taken_back.covered = False  # it comes out now as well
            before = before.taken_back.before
        self.before = before
        if before is _Absent:
            del self.owner.__dict__[self.name]
        else:
            self.owner.__dict__[self.name] = before


class Handle(LeftOut):
    """A patched model's record. As a context manager it takes the patch back at the end.

    change_of: those of the changes that rows tell of, by the rows' paths.
    """

    is_left_out = False  # of a model that keeps it, unless a family's patch put it there

    def __init__(
        self,
        model: nn.Module | None,
        rows: list[Row],
        changes: list,
        change_of: dict[str, object],
        calls: list[MetaCall],
    ):
        self.model = model
        self._rows = rows
        self._changes, self._change_of = changes, change_of
        self._calls = calls
        self._applied = False

    def report(self) -> Report:
        """A row for each module that a rule looked at, with what its guard has counted so far, and
        why a replacement stayed out that was applied again. A module that the user took out of the
        model, or put another one in the place of, is no longer patched in it."""
        inside = set(map(id, self.model.modules())) if self._change_of else set()
        return Report(self._counted(row, inside) for row in self._rows)

    def add_rows(self, rows: list[Row]) -> None:
        """For the report, of what concerns no single module."""
        self._rows += rows

    def _counted(self, row: Row, inside: set[int]) -> Row:
        change = self._change_of.get(row.path)
        if change is None or not row.patched:
            return row
        if id(change.module) not in inside:
            return replace(row, status=GONE)
        if self._applied and (reason := change.reason_out()):
            return replace(row, status=reason)
        found = change.counted
        return replace(row, own_calls=found.own_calls, why=found.reason) if found else row

    @property
    def applied(self) -> bool:
        return self._applied

    def apply(self) -> None:
        """Puts the replacements in, but where somebody put another forward or loss function since
        they came out. If one fails, the model is as it was and the error goes on."""
        if self._applied:
            return
        done = []
        try:
            for change in self._changes:
                change.apply()
                done.append(change)
        except BaseException:
            for change in reversed(done):
                change.undo()
            raise
        self._applied = True

    def unpatch(self) -> None:
        """Restores every module that this handle patched. Calling it again does nothing."""
        if not self._applied:
            return
        for change in reversed(self._changes):
            change.undo()
        self._applied = False

    def verify(self, tolerance: float | None = None) -> Verification:
        """Loss and gradients of the patched model against the unpatched one, on a tiny batch.

        See `verify.compare` for the arguments, the result and the error.
        """
        return compare(self, tolerance)

    def meta_calls(self, batch: int = 1, tokens: int = 128) -> Callable[[], None]:
        """A function that makes each distinct operator call of this patch once, on meta tensors."""
        return replay_of(self._calls, batch, tokens)

    def __deepcopy__(self, memo: dict) -> "Handle":
        own = self.model, self._changes, self._change_of
        model, changes, change_of = copy.deepcopy(own, memo)
        twin = Handle(model, self._rows, changes, change_of, self._calls)
        twin._applied, twin.is_left_out = self._applied, self.is_left_out
        return twin

    def __reduce__(self):
        # What is saved is the report: modules are saved with the forwards of their classes.
        return Handle, (None, self._rows, [], {}, [])

    def __enter__(self) -> "Handle":
        return self

    def __exit__(self, *error) -> None:
        self.unpatch()

    def __repr__(self) -> str:
        patched = sum(row.patched for row in self._rows)
        state = "applied" if self._applied else "taken back"
        return f"<Handle of {type(self.model).__name__}: {patched} of {len(self._rows)} ({state})>"


def keep(handle: Handle, model: nn.Module) -> None:
    """As `model.liger_handle`, which is not saved with the model."""
    model.liger_handle, handle.is_left_out = handle, True
    save_as_unpatched(type(model))


def remember(handle: Handle) -> None:
    """Of a handle that was applied: its model alone tells from now on what a step of it calls."""
    _calls_of[handle.model] = handle._calls


def calls_of_patched(model: nn.Module) -> list[MetaCall] | None:
    """The operator calls of a step, as the model's last patch found them; None without one."""
    return _calls_of.get(model)
