"""The rule for causal masks under torch.compile: none is made where attention is causal anyway.

Eager transformers looks at padding and positions, and gives scaled dot product attention no mask
where it finds neither padding nor packed sequences: attention is then told that it is causal, which
is its fast way. Under tracing nobody can look at values, so it makes a mask that says the same. A
forward that was given no mask, no positions and no cache makes its positions itself, one after the
other, and needs no look: in it the file's function for masks is called through ours.
"""

import ast
import inspect
from collections.abc import Callable, Hashable, Mapping
from types import CodeType, FunctionType

import torch
from torch import nn

from ..guard import guard_of_rewritten
from ..installed import switched
from ..probe import LONG, Mismatch
from ..rule import Proof, Refusal, Rule, own_class_forward
from ..source.definition import NO_SOURCE, definition_of, innermost, names_in, rebuilt, statement_at
from ..source.transformers_own import comes_from
from .mask_receivers import TOLD, needs_mask

ROLE = "causal_mask"
ATTENTION = "ALL_ATTENTION_FUNCTIONS"
MAKER = "create_causal_mask"
HOME = "transformers.masking_utils"
# What a caller gives a forward that may call for a mask.
GIVEN = ("attention_mask", "position_ids", "past_key_values", "cache", "cache_position")
# Of what a mask is made that needs no look at values, by the names of several releases.
SIZES = ("config", "inputs_embeds", "input_embeds", "layer_idx", *GIVEN[1:])
# Names that no forward has.
FUNCTION, BARE = "_liger_jit_mask", "_liger_jit_bare"
LENGTHS = (2, 37, LONG)
SDPA = "transformers.integrations.sdpa_attention"


def is_model(module: nn.Module) -> bool:
    """Whether its attention can be told that it is causal, and its class's forward calls the
    function for masks as a global."""
    function = innermost(own_class_forward(module))
    code = getattr(function, "__code__", None)
    settings = getattr(module, "config", None)
    told = getattr(settings, "_attn_implementation", None) == TOLD
    if not told or not isinstance(code, CodeType):
        return False
    return MAKER in names_in(code) and callable(function.__globals__.get(MAKER))


def group(module: nn.Module) -> Hashable:
    return own_class_forward(module), id(module.config)


def prove(module: nn.Module) -> Proof | Refusal:
    own = own_class_forward(module)
    scope = innermost(own).__globals__
    maker, definition = scope[MAKER], definition_of(own)
    if definition is None:
        return Refusal(NO_SOURCE)
    if not isinstance(maker, FunctionType) or not comes_from(maker, HOME):
        return Refusal(f"{MAKER} of its file is not that of transformers")
    try:
        check_positions(definition)
        if reason := needs_mask(module):
            raise Mismatch(reason)
        check_eager(module.config, maker)
        without_mask = maker_without_mask(maker, attention_functions(scope))
        forward = rewritten(own, definition, without_mask)
    except Mismatch as mismatch:
        return Refusal(str(mismatch))
    guard = guard_of_rewritten(own, ((scope, MAKER, maker),))
    return Proof(ROLE, switched(forward, guard), guard, forward)


def attention_functions(scope: dict) -> Mapping:
    """The functions that attend, by their names in a config: the file's own mapping, or all
    files'."""
    from transformers import modeling_utils

    return scope.get(ATTENTION, modeling_utils.ALL_ATTENTION_FUNCTIONS)


def check_positions(definition: ast.FunctionDef) -> None:
    """`Mismatch` unless positions that nobody gives are made by counting."""
    known = set()
    if "position_ids" not in parameters_of(definition):
        known.update(filter(counts, ast.walk(definition)))
    for branch in ast.walk(definition):
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "position_ids is None":
            known.update(filter(counts, branch.body))
            # Of what is given: no forward that was given something goes without its mask.
            known.update(node for one in branch.orelse for node in ast.walk(one))
    for one in ast.walk(definition):
        if is_write_of_positions(one) and one not in known and not drops_some(one):
            raise Mismatch(f"its positions may not be one after the other: {ast.unparse(one)}")


def parameters_of(definition: ast.FunctionDef) -> set[str]:
    arguments = definition.args
    return {one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}


def drops_some(statement: ast.AST) -> bool:
    """`position_ids = position_ids[1:]`, of rows that are alike."""
    return isinstance(statement, ast.Assign) and ast.unparse(statement) == (
        "position_ids = position_ids[1:]"
    )


def is_write_of_positions(node: ast.AST) -> bool:
    targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
    names = {
        name.id
        for target in targets
        if isinstance(target, ast.AST)
        for name in ast.walk(target)
        if isinstance(name, ast.Name)
    }
    return "position_ids" in names


def counts(statement: ast.AST) -> bool:
    """`position_ids = torch.arange(n, device=...)`, with or without a number added, and with the
    same for more rows."""
    if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
        return False
    if not isinstance(statement.targets[0], ast.Name):
        return False
    value = without_rows(statement.value)
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add):
        added = value.right
        is_number = isinstance(added, ast.Name) or isinstance(added, ast.Constant)
        value = without_rows(value.left) if is_number else value
    if isinstance(value, ast.Name):
        return value.id == "position_ids"
    if not isinstance(value, ast.Call) or ast.unparse(value.func) != "torch.arange":
        return False
    named = {one.arg for one in value.keywords} <= {"device", "dtype"}
    return named and (len(value.args) == 1 or begins_later(value.args))


def without_rows(value: ast.expr) -> ast.expr:
    """What is given new dimensions before its own, as they are or repeated."""
    while isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
        sizes = [ast.unparse(one) for one in value.args]
        name = value.func.attr
        is_view = name == "view" and sizes[-1:] == ["-1"] and set(sizes[:-1]) == {"1"}
        is_wider = name == "expand" and sizes[-1:] == ["-1"]
        if value.keywords or not (is_view or is_wider or (name == "unsqueeze" and sizes == ["0"])):
            break
        value = value.func.value
    return value


def begins_later(bounds: list[ast.expr]) -> bool:
    """`arange(first, first + n)`"""
    if len(bounds) != 2 or not isinstance(bounds[1], ast.BinOp):
        return False
    return isinstance(bounds[1].op, ast.Add) and ast.dump(bounds[1].left) == ast.dump(bounds[0])


def check_eager(config: object, maker: Callable) -> None:
    """`Mismatch` unless eager transformers itself makes no mask, whatever the length."""
    names = inspect.signature(maker).parameters
    for length in LENGTHS:
        positions = torch.arange(length, device="cpu")
        embeds = torch.zeros(2, length, 1, device="cpu")
        values = {
            "config": config,
            "inputs_embeds": embeds,
            "input_embeds": embeds,
            "attention_mask": None,
            "past_key_values": None,
            "cache": None,
            "cache_position": positions,
            "position_ids": positions.unsqueeze(0),
        }
        try:
            made = maker(**{name: value for name, value in values.items() if name in names})
        except Exception as error:
            raise Mismatch(f"{MAKER} takes no such settings: {error}") from error
        if made is not None:
            raise Mismatch("its attention is given a mask without torch.compile as well")


def maker_without_mask(maker: FunctionType, interface: Mapping) -> Callable:
    """What the forward calls for its function for masks: see `rewritten`. `interface`: of the
    functions that attend; `Mismatch` if that which is told is not transformers' own."""
    made_for = innermost(maker).__globals__["ALL_MASK_ATTENTION_FUNCTIONS"]
    function, attends = made_for[TOLD], interface[TOLD]
    if not comes_from(attends, SDPA):
        raise Mismatch(f"its attention is {attends.__module__}.{attends.__name__}")

    def needs_no_mask(named: dict) -> bool:
        asked = named.get("config")
        if asked is None or asked._attn_implementation != TOLD:
            return False
        if made_for[TOLD] is not function or interface[TOLD] is not attends:
            return False
        if not getattr(asked, "is_causal", True):
            return False
        skips = named.get("allow_is_causal_skip", True) is True
        others = (name for name in named if name not in (*SIZES, "allow_is_causal_skip"))
        return skips and all(named[name] is None for name in others)

    def mask_of(bare: bool, model: nn.Module, own: Callable) -> Callable:
        # An exported program is given transformers' own mask, whatever its attention says by then.
        if not bare or not torch.compiler.is_compiling() or is_exporting():
            return own
        from .traced_model import does_without_mask

        if not does_without_mask(model):
            return own

        def mask(*inputs, **named):
            return None if not inputs and needs_no_mask(named) else own(*inputs, **named)

        return mask

    return mask_of


def rewritten(own: FunctionType, definition: ast.FunctionDef, mask_of: Callable) -> FunctionType:
    """The forward with `mask_of(whether it was given nothing, the model, the function)` in place of
    the function for masks; `Mismatch` if it cannot be rebuilt."""
    names = parameters_of(definition)
    given = [name for name in GIVEN if name in names]
    if "attention_mask" not in given:
        raise Mismatch("its forward takes no attention_mask")
    definition = Calls(definition.args.args[0].arg).visit(definition)
    text = f"{BARE} = " + " and ".join(f"{name} is None" for name in given)
    definition.body.insert(0, statement_at(text, definition.body[0]))
    return rebuilt(definition, own, {FUNCTION: mask_of})


def is_exporting() -> bool:
    # torch.compile of torch 2.11 takes torch's own function for True in all that it traces.
    flag = getattr(torch.compiler, "_is_exporting_flag", None)
    return torch.compiler.is_exporting() if flag is None else flag


class Calls(ast.NodeTransformer):
    def __init__(self, model: str):
        self.model = model

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id != MAKER:
            return node
        text = f"{FUNCTION}({BARE}, {self.model}, {MAKER})"
        return statement_at(text, node).value


CAUSAL_MASK: Rule[Proof] = Rule(
    ROLE, (ROLE,), is_model, group, prove, confirm=lambda module, proof: proof
)
