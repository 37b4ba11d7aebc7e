"""The rule for a residual sum and the norm that follows it, in the forward of a decoder layer.

The layer's forward stays its own. Three statements of its source

    x = residual + x
    residual = x
    x = self.norm(x)

become one, `x, residual = add_and_norm(self.norm, residual, x)`, wherever they stand; the rest is
compiled as it is. At each call the sum goes into the norm's kernel if the norm is patched and
nothing else is hooked to it; if not, both are done as they were.
"""

import ast
from collections.abc import Callable, Hashable
from functools import cache
from types import CodeType, FunctionType

import torch
from torch import Tensor, nn

from . import norms
from .guard import guard_of_rewritten, is_plain, is_usable
from .installed import install, standing, switched
from .probe import Mismatch, StandIn, assert_same, compute_dtype, live_device, random, twin_of
from .rule import MetaCall, Proof, Refusal, Rule, group_of, own_class_forward
from .source import compiled, decorated, definition_of, innermost, statement_at

ROLE = "fused_add_rms_norm"
# A name that no forward has, by which the rewritten one finds `add_and_norm`.
FUNCTION = "_liger_jit_add_and_norm"
PROBE_TOKENS = 3


def add_and_norm(norm: nn.Module, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """(norm(left + right), left + right)."""
    alike = is_plain(left) and is_plain(right) and left.dtype == right.dtype
    proof = standing(norm) if alike and left.shape == right.shape else None
    norm_of = None if proof is None else proof.norm
    if norm_of is None or not is_usable(left) or not norm_of.takes(norm, left):
        total = left + right
        return norm(total), total
    return norm_of.after_add(norm, left, right)


def fuse(body: list[ast.stmt]) -> list[str]:
    """Rewrites the three statements wherever `body` has them; the names of the norms, in order."""
    names = []
    for first in range(len(body) - 3, -1, -1):
        found = parts_of(*body[first : first + 3])
        if found is not None:
            total, residual, norm, left, right = found
            call = f"{total}, {residual} = {FUNCTION}(self.{norm}, {left}, {right})"
            body[first : first + 3] = [statement_at(call, body[first])]
            names.insert(0, norm)
    return names


def parts_of(add: ast.stmt, keep: ast.stmt, normalise: ast.stmt) -> tuple[str, ...] | None:
    """(total, residual, norm, left, right) of `total = left + right; residual = total;
    total = self.norm(total)`, as source."""
    three = (add, keep, normalise)
    if not all(isinstance(one, ast.Assign) and len(one.targets) == 1 for one in three):
        return None
    total, residual = ast.unparse(add.targets[0]), ast.unparse(keep.targets[0])
    function = getattr(normalise.value, "func", None)
    if not total.isidentifier() or not residual.isidentifier() or residual == total:
        return None
    if not isinstance(function, ast.Attribute) or not is_sum(add.value):
        return None
    wanted = (total, f"{total} = self.{function.attr}({total})")
    if (ast.unparse(keep.value), ast.unparse(normalise)) != wanted:
        return None
    left, right = ast.unparse(add.value.left), ast.unparse(add.value.right)
    return total, residual, function.attr, left, right


def is_sum(value: ast.expr) -> bool:
    return isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add)


def rewritten(forward: FunctionType) -> tuple[FunctionType, tuple[str, ...]] | None:
    """The forward with its sums fused and the norms' names; None if it has none, or cannot be
    rebuilt from its source."""
    return rewritten_code(forward, getattr(innermost(forward), "__code__", None))


@cache
def rewritten_code(forward: FunctionType, code: CodeType | None):
    """`code` is the forward's, which may be replaced in place."""
    definition = definition_of(forward)
    names = fuse(definition.body) if definition else []
    if not names:
        return None
    function = compiled(definition, innermost(forward), {FUNCTION: add_and_norm})
    function = None if function is None else decorated(forward, function)
    return None if function is None else (function, tuple(names))


def is_layer(module: nn.Module) -> bool:
    if next(module.children(), None) is None:
        return False
    found = rewritten(own_class_forward(module))
    return found is not None and all(name in module._modules for name in found[1])


def group(module: nn.Module) -> Hashable:
    own = own_class_forward(module)
    names = rewritten(own)[1]
    places = str(live_device(module)), compute_dtype(module)
    return own, places, *(group_of(module._modules[name]) for name in names)


def prove(module: nn.Module) -> Proof | Refusal:
    forward, names = rewritten(own_class_forward(module))
    proofs = proofs_of_norms(module)
    for name in names:
        if getattr(proofs[name], "norm", None) is None:
            return Refusal(f"{name} is no norm that takes a sum")
    try:
        check(module, forward, proofs, torch.device("cpu"), torch.float32, operators=False)
    except Mismatch as mismatch:
        return Refusal(str(mismatch))
    guard = guard_of_rewritten(own_class_forward(module))
    meta = meta_call(module._modules[names[0]], proofs[names[0]].norm)
    return Proof(ROLE, switched(forward, guard), guard, forward, meta)


def confirm(module: nn.Module, proof: Proof) -> Proof | Refusal:
    device, dtype = live_device(module), compute_dtype(module)
    try:
        check(module, proof.run, proofs_of_norms(module), device, dtype)
    except Mismatch as mismatch:
        return Refusal(str(mismatch))
    return proof


def proofs_of_norms(module: nn.Module) -> dict[str, Proof | Refusal | None]:
    """What the rule for norms says of each child; None where that is no norm."""
    return {
        name: norms.NORM.prove(child) if norms.NORM.match(child) else None
        for name, child in module.named_children()
    }


class Bent(StandIn):
    """In place of attention or an MLP: something that bends what it is given."""

    def __init__(self, as_pair: bool):
        super().__init__()
        self.as_pair = as_pair

    def forward(self, *inputs, **named):
        given = inputs[0] if inputs else named["hidden_states"]
        bent = torch.sin(2 * given)
        return (bent, None) if self.as_pair else bent


class Same(StandIn):
    def forward(self, x: Tensor) -> Tensor:
        return x


def stand_in(name: str, child: nn.Module) -> nn.Module:
    # A random mask would differ between the two runs; both call it at the same place.
    return Same() if isinstance(child, nn.Dropout) else Bent("att" in name)


def check(
    module: nn.Module,
    forward: FunctionType,
    proofs: dict,
    device: torch.device,
    dtype: torch.dtype,
    operators: bool = True,
) -> None:
    """`Mismatch` unless the rewritten forward gives what the class's own gives on stand-ins.

    Without `operators` it calls the norms' own forwards.
    """
    generator = torch.Generator().manual_seed(31)
    plain, patched, weights = {}, {}, []
    for name, child in module.named_children():
        if proofs[name] is None:
            plain[name] = patched[name] = stand_in(name, child)
            continue
        parameters = {
            key: nn.Parameter(random(p.shape, generator, dtype).to(device))
            for key, p in child._parameters.items()
            if p is not None
        }
        weights += parameters.values()
        plain[name], patched[name] = twin_of(child, parameters), twin_of(child, parameters)
        if operators and isinstance(proofs[name], Proof):
            install(patched[name], proofs[name])
    own = own_class_forward(module)
    width = next((p.shape[-1] for p in weights), 64)

    def result(forward: Callable, children: dict, x: Tensor) -> Tensor:
        try:
            found = forward(twin_of(module, modules=children), x)
        except Exception as error:
            raise Mismatch(f"its forward failed in the probe: {error}") from error
        return found[0] if isinstance(found, tuple) else found

    assert_same(
        lambda x: result(own, plain, x),
        lambda x: result(forward, patched, x),
        [random((1, PROBE_TOKENS, width), generator, dtype).to(device)],
        weights,
        "the layer",
    )


def meta_call(norm: nn.Module, proved: norms.ProvedNorm) -> MetaCall:
    width, dtype = norm.weight.shape[0], norm.weight.dtype
    twin = twin_of(norm, {"weight": nn.Parameter(torch.empty(width, dtype=dtype, device="meta"))})

    def run(batch: int, tokens: int) -> None:
        def empty():
            return torch.empty(batch, tokens, width, dtype=dtype, device="meta", requires_grad=True)

        y, total = proved.after_add(twin, empty(), empty())
        (y + total).sum().backward()

    return MetaCall(ROLE, (width, dtype), run)


ADD_NORM = Rule("add_norm", ("rms_norm",), is_layer, group, prove, confirm)
