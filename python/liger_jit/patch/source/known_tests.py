"""Tests of a forward's branches whose outcome is known before it runs, whatever it is given.

They ask for arguments that nobody or everybody passes, for what torch has, for devices on which
nothing is replaced, and for how many dimensions an input has, where who replaces it takes those of
one number alone.
"""

import ast
from collections.abc import Callable
from types import ModuleType

from .phrases import is_on_another_device
from .torchs_own import is_torchs

# Of tensors: the result has as many dimensions.
OF_ELEMENTS = frozenset(
    "add contiguous div double erf float gelu mul neg pow rsqrt sigmoid silu sqrt square sub swish "
    "tanh to type type_as".split()
)
ARITHMETIC = (
    ast.BinOp, ast.UnaryOp, ast.Call, ast.Attribute, ast.Name, ast.Constant, ast.keyword,
    ast.operator, ast.unaryop, ast.expr_context,
)  # fmt: skip


class KnownTests:
    """Of one function.

    own: the name of its module. absent, present: arguments that have a default, which nobody or
    everybody passes, while their names are nothing else. rank: of the tensors that `given` names;
    None if they may have any. library: the module of torch that an expression stands for. covered:
    names that are not Python's. is_rank_known: whether an outcome was known by the rank.
    """

    def __init__(
        self,
        definition: ast.FunctionDef,
        own: str | None,
        given: set[str],
        rank: int | None,
        library: Callable[[ast.expr], ModuleType | None],
        covered: set[str],
    ):
        self.absent: set[str] = set()
        self.present: set[str] = set()
        self.given = set() if rank is None else set(given)
        self.rank, self.library, self.covered = rank, library, covered
        names = [node for node in ast.walk(definition) if isinstance(node, ast.Name)]
        stored = [node.id for node in names if isinstance(node.ctx, ast.Store)]
        arguments = {one.arg for one in ast.walk(definition.args) if isinstance(one, ast.arg)}
        self.locals = {*stored, *arguments} - {own}
        self.stored_once = {name for name in stored if stored.count(name) == 1}
        self.ranks: set[str] = set()  # names of the number itself
        self.is_rank_known = False

    def assign(self, target: ast.expr, value: ast.expr) -> None:
        """Before what stands on the left of an assignment is another value."""
        for node in ast.walk(target):
            if isinstance(node, ast.Name):
                self.absent.discard(node.id)
                self.present.discard(node.id)
                if not self.has_rank(value):
                    self.given.discard(node.id)
        if isinstance(target, ast.Name) and target.id in self.stored_once and self.is_rank(value):
            self.ranks.add(target.id)

    def outcome(self, test: ast.expr) -> bool | None:
        """None if it is not known. What runs before it is decided is another question: see
        `unknown_in`."""
        if isinstance(test, ast.BoolOp):
            every = isinstance(test.op, ast.And)
            outcomes = [self.outcome(one) for one in test.values]
            if (not every) in outcomes:
                return not every
            return None if None in outcomes else every
        if isinstance(test, ast.Call) and ast.unparse(test.func) == "hasattr":
            return self.is_in_torch(*test.args) if len(test.args) == 2 else None
        if not isinstance(test, ast.Compare) or len(test.ops) != 1:
            return None
        # A local that has a device is a tensor: the rest of what a reading lets names stand for are
        # numbers, and tuples.
        if (other := is_on_another_device(test, self.locals - self.absent)) is not None:
            return other
        compared = test.comparators[0]
        value = compared.value if isinstance(compared, ast.Constant) else self
        if self.is_rank(test.left) and type(value) is int:
            alike = {ast.Eq: True, ast.NotEq: False}.get(type(test.ops[0]))
            self.is_rank_known = True
            return None if alike is None else (value == self.rank) is alike
        name = test.left.id if isinstance(test.left, ast.Name) else None
        if value is not None or name not in self.absent | self.present:
            return None
        absent = name in self.absent
        return {ast.Is: absent, ast.IsNot: not absent}.get(type(test.ops[0]))

    def unknown_in(self, test: ast.expr) -> list[ast.expr]:
        """The parts of a test that run, one after the other, and whose outcomes are not known."""
        if not isinstance(test, ast.BoolOp):
            return [] if self.outcome(test) is not None else [test]
        every, parts = isinstance(test.op, ast.And), []
        for one in test.values:
            parts += self.unknown_in(one)
            if self.outcome(one) is (not every):  # what follows does not run
                break
        return parts

    def is_in_torch(self, library: ast.expr, name: ast.expr) -> bool | None:
        """Of a function of torch's own, which nobody takes away."""
        library, name = self.library(library), getattr(name, "value", None)
        if "hasattr" in self.covered or library is None or type(name) is not str:
            return None
        return True if is_torchs(getattr(library, name, None), name) else None

    def has_rank(self, value: ast.expr) -> bool:
        """Whether it is made of a tensor of that rank, element by element. What it is calculated
        with has no more dimensions: it was given as well, or is a parameter or a number."""
        calls = [node.func for node in ast.walk(value) if isinstance(node, ast.Call)]
        if not all(isinstance(one, ast.Attribute) and one.attr in OF_ELEMENTS for one in calls):
            return False
        names = {node.id for node in ast.walk(value) if isinstance(node, ast.Name)}
        if not names & self.given or names & self.locals - self.given:
            return False
        return all(isinstance(node, ARITHMETIC) for node in ast.walk(value))

    def is_rank(self, value: ast.expr) -> bool:
        """`x.ndim`, `x.dim()`, `len(x.shape)`, or a name for that."""
        if isinstance(value, ast.Name):
            return value.id in self.ranks
        asked = ast.unparse(value)
        ways = ("{}.ndim", "{}.dim()", "len({}.shape)", "len({}.size())")
        named = any(asked == way.format(name) for way in ways for name in self.given)
        return named and not (asked.startswith("len") and "len" in self.covered)
