"""What a forward may do with sizes: a probe sees a few of them, and it must have seen all.

So a size is wanted where a shape is wanted, unchanged, and nowhere else: what is calculated, chosen
or looked up with one may differ only beyond the sizes of the probe. What is taken of a tensor is
its last dimension up to a width, in halves, in groups of a size that the module has, or every
second of it; what is summed is the last dimension. No other is taken apart, because a constant
number of tokens or sequences is all of them in a small probe.
"""

import ast
from collections.abc import Callable, Sequence
from enum import Enum, auto

import torch


class Kind(Enum):
    """What an expression gives."""

    VALUE = auto()  # a tensor, or what is made of one
    NUMBER = auto()  # of the source or the module, the same for each input
    PARTS = auto()  # several of VALUE or NUMBER
    SHAPE = auto()  # all sizes of a tensor
    SIZES = auto()  # some sizes
    SIZE = auto()
    WIDTH = auto()  # the size of a last dimension
    HALF = auto()  # half of it
    LEADING = auto()  # all sizes of a tensor but the last
    GROUPS = auto()  # how many groups, of a size that the module has, the last dimension has; or of
    # which size, where the module has their number
    PLACES = auto()  # a list of all sizes of a tensor, some of which are 1 instead, not the last
    JOINED = auto()  # so many of one size again
    MIXED = auto()  # one or another, by the branch that was taken


SEVERAL = frozenset({Kind.SHAPE, Kind.SIZES, Kind.LEADING, Kind.PLACES})
PLAIN = frozenset({Kind.VALUE, Kind.NUMBER, Kind.PARTS})
BOUNDS = frozenset({Kind.WIDTH, Kind.HALF})
SMOOTH = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow)
# Operations that take sizes, that leave another dimension last, and that sum.
SHAPING = frozenset({"expand", "reshape", "unflatten", "view"})
MOVING = frozenset({"flatten", "permute", "reshape", "squeeze", "transpose", "unflatten", "view"})
SUMMING = frozenset({"mean", "sum"})
NORMING = frozenset({"layer_norm", "rms_norm"})
# Those whose arguments say which part of a tensor they see.
LIMITED = MOVING | SUMMING | NORMING | {"chunk", "div", "split", "type"}

Argument = tuple[ast.expr, Kind]


class Sizes:
    """Those of one function, whose expressions are asked for in the order of their evaluation.

    refuse: raises, with what the function does. by_width, moves: what the function does that needs
    the last dimension to be the last, and what makes another one the last; "" if nothing does.
    names, seen: what local names are now, and what each expression was.
    """

    def __init__(self, refuse: Callable[[str], None]):
        self.refuse = refuse
        self.names: dict[str, Kind] = {}
        self.seen: dict[ast.expr, Kind] = {}
        self.by_width = self.moves = ""

    def name(self, name: str) -> Kind:
        kind = self.names.get(name, Kind.VALUE)
        if kind is Kind.MIXED:
            self.refuse(f"gives {name} a size in one branch alone")
        return kind

    def assign(self, target: ast.expr, kind: Kind) -> None:
        if isinstance(target, ast.Name):
            self.names[target.id] = kind
            return
        each = {**dict.fromkeys(SEVERAL, Kind.SIZE), Kind.PARTS: Kind.VALUE}
        for i, part in enumerate(target.elts):
            last = kind is Kind.SHAPE and i + 1 == len(target.elts)
            if isinstance(part, ast.Starred):
                self.assign(part.value, Kind.LEADING if kind is Kind.SHAPE else Kind.SIZES)
            else:
                self.assign(part, Kind.WIDTH if last else each.get(kind, kind))

    def joined(self, one: dict[str, Kind], other: dict[str, Kind]) -> dict[str, Kind]:
        """What names are after a branch that gave `one` or `other`."""
        names = {**one, **other}
        for name in names:
            kinds = {one.get(name, Kind.VALUE), other.get(name, Kind.VALUE)}
            if len(kinds) > 1:
                names[name] = Kind.VALUE if kinds <= PLAIN else Kind.MIXED
        return names

    def plain(self, node: ast.expr, kind: Kind) -> None:
        if kind not in PLAIN:
            self.refuse(f"calculates with a size: {text(node)}")

    def fact(self, node: ast.Attribute, base: Kind) -> Kind:
        """An attribute of a tensor, or one of its operations."""
        if base not in (Kind.VALUE, Kind.NUMBER):
            self.refuse(f"looks up {text(node)}")
        return {"shape": Kind.SHAPE, "ndim": Kind.SIZE}.get(node.attr, Kind.VALUE)

    def spread(self, node: ast.Starred, kind: Kind) -> Kind:
        if kind not in SEVERAL and kind is not Kind.PARTS:
            self.refuse(f"has as many parts as its input: {text(node)}")
        return kind

    def several(self, kinds: Sequence[Kind]) -> Kind:
        return Kind.PARTS if PLAIN.issuperset(kinds) else Kind.SIZES

    def chosen(self, node: ast.IfExp, one: Kind, other: Kind) -> Kind:
        if one is other:
            return one
        for kind in (one, other):
            self.plain(node, kind)
        return Kind.VALUE

    def unary(self, node: ast.UnaryOp, kind: Kind) -> Kind:
        if isinstance(node.op, ast.USub) and kind in BOUNDS:
            return kind
        self.plain(node, kind)
        if kind is not Kind.NUMBER and not isinstance(node.op, (ast.USub, ast.UAdd)):
            self.refuse(f"may give the same for each of the probe's inputs: {text(node)}")
        return kind

    def binary(self, node: ast.BinOp, left: Kind, right: Kind) -> Kind:
        if left is right is Kind.NUMBER:
            return Kind.NUMBER
        if isinstance(node.op, ast.FloorDiv) and left is Kind.WIDTH and is_two(node.right):
            return Kind.HALF
        if isinstance(node.op, ast.FloorDiv) and (left, right) == (Kind.WIDTH, Kind.NUMBER):
            return Kind.GROUPS
        if isinstance(node.op, ast.Mult) and (left, right) == (Kind.GROUPS, Kind.NUMBER):
            return Kind.JOINED
        if isinstance(node.op, ast.Div) and left in PLAIN and right is Kind.WIDTH:
            self.by_width = text(node)  # a mean, written as the quotient that it is
            return Kind.VALUE
        if isinstance(node.op, ast.Add) and {left, right} <= {*SEVERAL, Kind.PARTS}:
            return Kind.PARTS if left is right is Kind.PARTS else Kind.SIZES
        for kind in (left, right):
            self.plain(node, kind)
        if not isinstance(node.op, SMOOTH):
            self.refuse(f"may give the same for each of the probe's inputs: {text(node)}")
        return Kind.VALUE

    def subscript(self, node: ast.Subscript, base: Kind) -> Kind:
        index = node.slice
        if base in SEVERAL:
            return self.size_at(node, base)
        if base in (Kind.PARTS, Kind.NUMBER) and type(constant(index)) is int:
            return Kind.VALUE if base is Kind.PARTS else base
        if base is not Kind.VALUE:
            self.refuse(f"looks up {text(node)}")
        each = index.elts if isinstance(index, ast.Tuple) else [index]
        for i, one in enumerate(each):
            after_all = i + 1 == len(each) and any(map(is_ellipsis, each[:i]))
            if not is_ellipsis(one) and not is_whole(one) and not (after_all and self.is_part(one)):
                self.refuse(
                    f"takes a part that is not up to a width or half of the last dimension: "
                    f"{text(node)}"
                )
        return Kind.VALUE

    def is_part(self, one: ast.expr) -> bool:
        """Whether it is a slice whose bounds are widths or halves, or every second element."""
        if not isinstance(one, ast.Slice):
            return False
        self.by_width = text(one)
        if one.step is not None:
            begins = one.lower is None or constant(one.lower) in (0, 1)
            return is_two(one.step) and one.upper is None and begins
        return all(bound is None or self.seen[bound] in BOUNDS for bound in (one.lower, one.upper))

    def size_at(self, node: ast.Subscript, base: Kind) -> Kind:
        index = node.slice
        if isinstance(index, ast.Slice):
            ends = (index.lower, index.upper, index.step)
            if not all(end is None or type(constant(end)) is int for end in ends):
                self.refuse(f"calculates with a size: {text(node)}")
            low, high = constant(index.lower), constant(index.upper)
            if base is Kind.SHAPE and index.lower is index.step is None and high == -1:
                return Kind.LEADING
            return Kind.WIDTH if base is Kind.SHAPE and (low, high) == (-1, None) else Kind.SIZES
        if type(constant(index)) is not int:
            self.refuse(f"calculates with a size: {text(node)}")
        return Kind.WIDTH if base is Kind.SHAPE and constant(index) == -1 else Kind.SIZE

    def converted(self, node: ast.Call, name: str, kinds: Sequence[Kind]) -> Kind:
        """By one of Python's own functions."""
        kind = kinds[0] if len(kinds) == 1 else None
        if name == "len" and kind is not None:
            return Kind.SIZE
        if name == "tuple" and kind in SEVERAL:
            return kind
        if name == "int" and kind in (Kind.SIZE, Kind.WIDTH, Kind.HALF, Kind.GROUPS, Kind.NUMBER):
            return kind
        if name == "float" and kind in (Kind.WIDTH, Kind.NUMBER):
            return kind
        self.refuse(f"may give the same for each of the probe's inputs: {text(node)}")

    def no_sizes(self, given: list[Argument], named: dict[str, Argument]) -> Kind:
        """Of a call of a module or of a Python function, which are read without sizes."""
        for argument in (*given, *named.values()):
            self.plain(*argument)
        return Kind.VALUE

    def function(
        self, node: ast.Call, name: str, given: list[Argument], named: dict[str, Argument]
    ) -> Kind:
        """Of a call of torch's function of that name, which gets its tensor among the arguments."""
        named = dict(named)
        first = given[0] if given else named.pop("input", None)
        if first is not None:
            self.plain(*first)
        return self.operation(node, name, given[1:], named)

    def operation(
        self, node: ast.Call, name: str, given: list[Argument], named: dict[str, Argument]
    ) -> Kind:
        """Of torch or of a tensor, which is not among those given."""
        if name in ("size", "dim"):
            return self.asked(node, name, given, named)
        if name in MOVING and not joins_neighbours(node) and not groups_last(name, given, named):
            self.moves = text(node)
        if name == "view_as_complex":
            self.by_width = text(node)
        if name in SUMMING:
            self.sum(node, given, named)
        if name == "squeeze" and self.dimension(given, named, 0) != -1:
            self.refuse(f"drops a dimension by its size: {text(node)}")
        if name in ("chunk", "split"):
            return self.taken_apart(node, name, given, named)
        if name == "div" and "rounding_mode" in named:
            self.refuse(f"rounds: {text(node)}")
        if name == "type" and any(isinstance(constant(one), str) for one, _ in given):
            self.refuse(f"uses a type by its name: {text(node)}")
        for _, kind in (*given, *named.values()):
            if name in NORMING and kind is Kind.WIDTH:
                self.by_width = text(node)
            elif name not in SHAPING:
                self.plain(node, kind)
        return Kind.VALUE

    def asked(self, node: ast.Call, name: str, given: list, named: dict) -> Kind:
        if name == "dim" or not (given or named):
            return Kind.SIZE if name == "dim" else Kind.SHAPE
        which = self.dimension(given, named, 0)
        if which is None:
            self.refuse(f"calculates with a size: {text(node)}")
        return Kind.WIDTH if which == -1 else Kind.SIZE

    def sum(self, node: ast.Call, given: list, named: dict) -> None:
        kept = constant(named["keepdim"][0]) if "keepdim" in named else None
        kept = constant(given[1][0]) if len(given) > 1 else kept
        if self.dimension(given, named, 0) != -1 or kept is not True:
            self.refuse(f"sums over more than its last dimension, or drops that: {text(node)}")
        self.by_width = text(node)

    def taken_apart(self, node: ast.Call, name: str, given: list, named: dict) -> Kind:
        size, kind = given[0] if given else (None, None)
        halves = is_two(size) if name == "chunk" else kind is Kind.HALF
        if not halves or self.dimension(given, named, 1) != -1:
            self.refuse(f"takes a part that is no half of the last dimension: {text(node)}")
        self.by_width = text(node)
        return Kind.PARTS

    def dimension(self, given: list, named: dict, place: int) -> int | None:
        """Which one the call names, if it names one in so many words."""
        found = named.get("dim", given[place] if len(given) > place else None)
        value = None if found is None else constant(found[0])
        value = value[0] if isinstance(value, (tuple, list)) and len(value) == 1 else value
        return value if type(value) is int else None


def is_rounding(dtype: object) -> bool:
    """Whether a dtype drops more than the last digits of what is converted to it."""
    wide = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    return isinstance(dtype, torch.dtype) and dtype not in wide


def constant(node: ast.expr | None) -> object:
    """The value of what stands in the source; None if that is no constant."""
    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:
        return None


def is_two(node: ast.expr | None) -> bool:
    return type(constant(node)) is int and constant(node) == 2


def joins_neighbours(node: ast.Call) -> bool:
    """`torch.stack((one, other), dim=-1).flatten(-2)`: the last dimension is made of last ones. So
    it is of the parts of complex heads."""
    inner = getattr(node.func, "value", None)
    function = ast.unparse(inner.func) if isinstance(inner, ast.Call) else ""
    if function == "torch.view_as_real":  # of heads, which have four dimensions
        return node.func.attr == "flatten" and [*map(constant, node.args)] in ([3], [-2])
    if function != "torch.stack":
        return False
    named = {one.arg: constant(one.value) for one in inner.keywords}
    places = [constant(one) for one in inner.args[1:]]
    last = (named == {"dim": -1} and not places) or (not named and places == [-1])
    return last and node.func.attr == "flatten" and [*map(constant, node.args)] == [-2]


def groups_last(name: str, given: list[Argument], named: dict[str, Argument]) -> bool:
    """`x.view(*leading, groups, size)`, and back, or pairs of neighbours: all elements of a last
    dimension stay together, so that it alone is taken apart, or put together again."""
    if name not in ("view", "reshape") or named:
        return False
    kinds = [kind for _, kind in given]
    if kinds == [Kind.PLACES]:
        return True
    spread = bool(given) and isinstance(given[0][0], ast.Starred) and kinds[0] is Kind.LEADING
    leading = 1 if spread else next((i for i, k in enumerate(kinds) if k is not Kind.SIZE), 0)
    if sorted(kinds[leading:], key=lambda kind: kind.value) == [Kind.NUMBER, Kind.GROUPS]:
        number = next(one for one, kind in given if kind is Kind.NUMBER)
        return spread or isinstance(number, ast.Attribute)  # and no -1, which takes what is left
    pairs = [constant(one) for one, _ in given[leading:]] == [-1, 2]
    joined = kinds[leading:] in ([Kind.JOINED], [Kind.WIDTH])
    return leading > 0 and (joined or (pairs and spread))


def is_ellipsis(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is Ellipsis


def is_whole(node: ast.expr) -> bool:
    """`:`, or the None of a new dimension."""
    if isinstance(node, ast.Slice):
        return node.lower is node.upper is node.step is None
    return isinstance(node, ast.Constant) and node.value is None


def text(node: ast.AST) -> str:
    return ast.unparse(node).split("\n")[0][:80]
