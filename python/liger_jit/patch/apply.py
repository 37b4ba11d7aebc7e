"""`patch`: looks at every module of a model, proves what can be replaced, then replaces it all."""

import itertools
import threading
from collections.abc import Hashable
from dataclasses import dataclass, replace

import torch
from torch import nn

from ..compile_ahead import start_background_compile
from ..meta_calls import MetaCall
from . import loss_head, skip_logits
from .add_norm import ADD_NORM
from .deferred import stop_waiting
from .experts import EXPERTS
from .glu import GLU
from .handle import Handle, Row, remember
from .installed import Installation, replaced_by
from .norms import NORM
from .probe import live_device, quietly
from .qk_norm import QK_NORM
from .rotary import ROTARY
from .rule import Proof, Refusal, Rule

# Parsing sources on two threads at once fails in Python itself.
ONE_AT_A_TIME = threading.Lock()
RULES = (NORM, GLU, EXPERTS, QK_NORM, ROTARY, ADD_NORM)
FLAGS = (
    "rope",
    "rms_norm",
    "layer_norm",
    "swiglu",
    "geglu",
    "cross_entropy",
    "fused_linear_cross_entropy",
)
# Roles of modules, and the flags that must all be on.
ROLES = {
    **{flag: (flag,) for flag in FLAGS if not flag.endswith("cross_entropy")},
    "fused_add_rms_norm": ("rms_norm",),
    "qk_norm_rope": ("rms_norm", "rope"),
}


def patch(
    model: nn.Module,
    rope: bool = True,
    rms_norm: bool = True,
    layer_norm: bool = True,
    swiglu: bool = True,
    geglu: bool = True,
    cross_entropy: bool = False,
    fused_linear_cross_entropy: bool = True,
    **unknown,
) -> Handle:
    """Makes one model use the operators of liger_jit, wherever that is proved to change nothing.

    Only this instance is touched: no class, no module global, no other model. Each kind of module
    is probed numerically against its own forward first; what does not match stays as it was, and
    the handle's report says why. What is changed after the patch counts: where a module is no
    longer what was probed, it takes its own forward, and the report counts that. A module's new
    forward goes with it through deepcopy, `to`, `train` and torch.compile. A model that was
    pickled, or a head that was copied without its model, has the forwards of its classes.
    `copy.copy` of a module runs the forward of the module that was copied. `nn.DataParallel` is
    not supported: its replicas would use the first device's modules.

    What raises in a patched model and not in the one before: a second derivative or a forward-mode
    one through an operator of ours; the gradient of logits that a step never had (call it with
    skip_logits=False); a write in place into a norm's input after the norm, which keeps that very
    tensor for its backward, where torch's norm of a 16-bit type keeps a copy in float32.

    Args:
        model: a transformers model, or a PEFT, DistributedDataParallel, FSDP or torch.compile
            wrapper of one. Weights may be on any device, on meta, quantised or adapted. Patch
            before the first compiled call, and before `FullyShardedDataParallel`, which takes the
            weights that a probe looks at (`fully_shard` does not).
        rope, rms_norm, layer_norm, swiglu, geglu: which roles to replace. A gated MLP becomes one
            node while its projections are plain linear layers, else the activation alone is ours.
            rms_norm also takes the residual sum before a norm into it, inside a decoder layer; with
            rope, norms of the heads of q and k and their rotation become one.
        fused_linear_cross_entropy: never hold the logits of a training step. A forward with labels
            in training mode then returns `logits=None`, unless it is called with skip_logits=False.
            The forward also takes skip_logits, return_token_accuracy, return_predicted_tokens and
            use_token_scaling, and answers in token_accuracy and predicted_tokens of its output.
        cross_entropy: the loss alone, on real logits; needs fused_linear_cross_entropy=False. With
            neither of the two the forward takes skip_logits and does nothing with it.

    Returns a `Handle`, applied: `report()`, `unpatch()`, `verify()`; also a context manager.

    Raises:
        TypeError: a keyword that is none of the above.
        ValueError: both cross entropies are asked for.
        RuntimeError: from the operators, such as no compiler found. The model is then as it was.
    """
    flags = {
        "rope": rope,
        "rms_norm": rms_norm,
        "layer_norm": layer_norm,
        "swiglu": swiglu,
        "geglu": geglu,
        "cross_entropy": cross_entropy,
        "fused_linear_cross_entropy": fused_linear_cross_entropy,
    }
    check_flags(flags | unknown)
    asked = {role for role, needed in ROLES.items() if all(flags[flag] for flag in needed)}
    model = inside_wrappers(model)
    stop_waiting(model)
    hub = getattr(model, "use_kernels", False)
    fused = fused_linear_cross_entropy
    with ONE_AT_A_TIME:
        found, proofs, head = quietly(lambda: looked_at(model, asked, hub, cross_entropy, fused))
    rows, changes = [], []
    for one in found:
        answer = proofs[one.group] if one.in_question else one.group
        patched = isinstance(answer, Proof)
        if patched:
            changes.append(Installation(one.module, answer))
        told = [(answer.role, "patched")] if patched else [(one.rule.name, answer.reason)]
        if patched and answer.missed:
            told.append(answer.missed)
        rows += [Row(one.path, type(one.module).__name__, *each) for each in told]
    if head is not None:
        rows.append(row_of_loss(model, head, fused))
        changes += [] if isinstance(head, Refusal) else head.changes()
    if not isinstance(head, loss_head.LossHead):
        changes += skip_logits.changes(model)
    handle = Handle(model, rows, changes, calls_of(found, proofs, head))
    handle.apply()
    remember(handle)
    return handle


def check_flags(flags: dict[str, bool]) -> None:
    """Raises what `patch` raises for its flags."""
    unknown = [name for name in flags if name not in FLAGS]
    if unknown:
        raise TypeError(
            f"patch() does not know {', '.join(unknown)}; its flags: {', '.join(FLAGS)}"
        )
    if flags.get("cross_entropy") and flags.get("fused_linear_cross_entropy"):
        raise ValueError(
            "cross_entropy and fused_linear_cross_entropy replace the same loss: choose one"
        )


def looked_at(model: nn.Module, asked: set, hub: bool, cross_entropy: bool, fused: bool):
    """(what rules looked at, the answers by group, the loss head)."""
    found = [
        Found(path, module, rule, judge(rule, module, asked, hub))
        for path, module in model.named_modules()
        if (rule := rule_for(module, asked))
    ]
    proofs: dict[Hashable, Proof | Refusal] = {}
    found = [grouped(one, proofs, asked) if one.in_question else one for one in found]
    head = loss_head.find(model, fused) if cross_entropy or fused else None
    # What the operators need is compiled while they are tried one by one.
    start_background_compile(model, calls_of(found, proofs, head))
    first_of = {one.group: one for one in reversed(found) if one.in_question}
    for group, one in first_of.items():
        if isinstance(proofs[group], Proof) and live_device(one.module) is not None:
            proofs[group] = one.rule.confirm(one.module, proofs[group])
    return found, proofs, head


def grouped(one: "Found", proofs: dict, asked: set) -> "Found":
    """With a group whose proof holds for this very module; it is proved where there is none."""
    for number in itertools.count():
        key = one.group, number
        if key not in proofs:
            proofs[key] = proved(one, asked)
            return replace(one, group=key)
        answer = proofs[key]
        refused = isinstance(answer, Refusal)
        if not is_of_one(answer) if refused else answer.guard.broken(one.module) is None:
            return replace(one, group=key)


def is_of_one(refusal: Refusal) -> bool:
    """Whether it speaks of what one module has and others of its group need not have."""
    return "hooks" in refusal.reason


def proved(one: "Found", asked: set) -> Proof | Refusal:
    try:
        answer = one.rule.prove(one.module)
    except Exception as error:  # what no rule foresaw is no reason to fail
        return Refusal(f"it cannot be probed: {type(error).__name__}: {error}")
    if isinstance(answer, Proof) and answer.role not in asked:
        return Refusal(f"turned off ({answer.role}=False)")
    return answer


@dataclass(frozen=True)
class Found:
    """A module that a rule looks at; `group` is what it shares its answer with, or the answer."""

    path: str
    module: nn.Module
    rule: Rule
    group: Hashable | Refusal

    @property
    def in_question(self) -> bool:
        return not isinstance(self.group, Refusal)


def flags_of(row: Row) -> set[str]:
    """The flags that this row answers for."""
    roles = {row.role}.union(*(rule.flags for rule in RULES if rule.name == row.role))
    return {flag for role in roles for flag in ROLES.get(role, (role,))}


def inside_wrappers(model: nn.Module) -> nn.Module:
    """What torch.compile, DDP, the first FSDP or PEFT wrapped, or the model itself."""
    while True:
        if isinstance(model, torch._dynamo.OptimizedModule):
            model = model._orig_mod
        elif isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif "_fsdp_wrapped_module" in model._modules:
            model = model._modules["_fsdp_wrapped_module"]
        elif hasattr(model, "get_base_model"):
            return model.get_base_model()
        else:
            return model


def rule_for(module: nn.Module, asked: set) -> Rule | None:
    """The first that knows the module's role and is asked for, else the last that knows it."""
    known = [rule for rule in RULES if knows(rule, module)]
    return next((rule for rule in known if asked.intersection(rule.flags)), (known or [None])[-1])


def knows(rule: Rule, module: nn.Module) -> bool:
    try:
        return rule.match(module)
    except Exception:  # a module of no known build, such as a scripted one
        return False


def judge(rule: Rule, module: nn.Module, asked: set, hub: bool) -> Hashable | Refusal:
    """The module's group, unless it is replaced already or not asked for."""
    if hub:
        return Refusal("hub kernels own it")
    if not asked.intersection(rule.flags):
        off = [flag for flag in ROLES[rule.flags[0]] if flag not in asked]
        return Refusal(f"turned off ({off[0]}=False)")
    reason = replaced_by(module)
    if reason:
        return Refusal(reason)
    try:
        return rule.name, rule.group(module)
    except Exception as error:
        return Refusal(f"it cannot be looked at: {type(error).__name__}: {error}")


def calls_of(found: list[Found], proofs: dict[Hashable, Proof | Refusal], head) -> list[MetaCall]:
    """What a step calls, and as spare ones what it falls back to."""
    absorbed = {
        id(module)
        for one in found
        if isinstance(proof := proofs.get(one.group), Proof)
        for module in one.rule.absorbed(one.module, proof)
    }
    called = {one.group for one in found if id(one.module) not in absorbed}
    calls = []
    for group, proof in proofs.items():
        spare = group not in called
        while isinstance(proof, Proof):
            calls += [replace(proof.meta, spare=spare)] if proof.meta else []
            proof, spare = proof.otherwise, True
    return calls + ([loss_head.meta_call(head)] if isinstance(head, loss_head.LossHead) else [])


def row_of_loss(model: nn.Module, head, fused: bool) -> Row:
    role = "fused_linear_cross_entropy" if fused else "cross_entropy"
    if isinstance(head, Refusal):
        return Row("", type(model).__name__, role, head.reason)
    return Row(loss_head.path_of(model, head.head), type(head.head).__name__, role, "patched")
