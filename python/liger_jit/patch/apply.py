"""`patch`: looks at every module of a model, proves what can be replaced, then replaces it all."""

import threading
from collections.abc import Hashable
from dataclasses import dataclass, replace

import torch
from torch import nn

from ..compile_ahead import start_background_compile
from ..meta_calls import MetaCall
from .answers import Answers
from .deferred import stop_waiting
from .flags import ROLES, roles_of, with_flags
from .handle import Handle, Row, remember
from .installed import Installation, replaced_by
from .loss import head as loss_head
from .loss import skip_logits
from .loss.change import LossChange
from .probe import quietly
from .rule import Proof, Refusal, Rule
from .rules.add_norm import ADD_NORM
from .rules.causal_mask import CAUSAL_MASK
from .rules.experts import EXPERTS
from .rules.mlp import GLU
from .rules.norm import NORM
from .rules.plain_mlp import PLAIN_MLP
from .rules.qk_norm_rope import QK_NORM
from .rules.rope import ROTARY

# Parsing sources on two threads at once fails in Python itself.
ONE_AT_A_TIME = threading.Lock()
FUSED = "fused_linear_cross_entropy"
RULES = (NORM, GLU, EXPERTS, QK_NORM, ROTARY, PLAIN_MLP, ADD_NORM, CAUSAL_MASK)


@with_flags
def patch(model: nn.Module, flags: dict[str, bool]) -> Handle:
    """Makes one model use the operators of liger_jit, wherever that is proved to change nothing.

    Only this instance is touched: no class, no module global, no other model. Each kind of module
    is probed numerically against its own forward first; what does not match stays as it was, and
    the handle's report says why. What is changed after the patch counts: where a module is no
    longer what was probed, or a mode of torch is on, it takes its own forward, and the report
    counts that. A module's new forward goes with it through deepcopy, `to`, `train` and
    torch.compile; what was pickled has the forwards of its classes again.

    Some things that a model can do raise when it is patched, and a few differ in silence. The ones
    that are met first:

    - A second derivative, or a forward-mode one, through an operator of ours raises.
    - A training step's logits are computed when something needs their values, and `type(logits) is
      Tensor` is False until then. Their gradient, asked for after a fused loss was made without
      them, raises. `model(..., skip_logits=False)` computes them as the model before did.
    - A write in place into a norm's input between forward and backward raises.
    - Under autocast q and k leave a rotation in autocast's dtype.
    - `nn.DataParallel` is not supported.
    - A module and its new forward refer to each other: after `del model` its weights are freed by
      Python's cyclic collector (`gc.collect()`), or at once if `unpatch()` came before.

    docs/patched_models.md has all of them, by what a program does.

    Args:
        model: a transformers model, or a PEFT, DistributedDataParallel, FSDP or torch.compile
            wrapper of one. Weights may be on any device, on meta, quantised or adapted. Patch
            before the first compiled call, and before `FullyShardedDataParallel`, which takes the
            weights that a probe looks at (`fully_shard` does not).
        {flags}

    Returns a `Handle`, applied: `report()`, `unpatch()`, `verify()`; also a context manager.

    Raises:
        TypeError: a keyword that is none of the above.
        ValueError: both cross entropies are asked for.
        RuntimeError: from the operators, such as no compiler found. The model is then as it was.
    """
    asked = roles_of(flags)
    model = inside_wrappers(model)
    stop_waiting(model)
    hub = getattr(model, "use_kernels", False)
    with ONE_AT_A_TIME:
        found, answers, head = quietly(lambda: looked_at(model, asked, hub))
    rows, change_of = [], {}
    for one in found:
        answer = answers.get(one.key, one.key)
        patched = isinstance(answer, Proof)
        if patched:
            change_of[one.path] = Installation(one.module, answer)
        told = [(answer.role, "patched")] if patched else [(one.rule.name, answer.reason)]
        if patched and answer.missed:
            told.append(answer.missed)
        rows += [Row(one.path, type(one.module).__name__, *each) for each in told]
    if head is not None:
        rows.append(row_of_loss(model, head, FUSED in asked))
        if isinstance(head, loss_head.LossHead):
            change_of[rows[-1].path] = LossChange(head)
    changes = [*change_of.values()]
    if not isinstance(head, loss_head.LossHead):
        changes += skip_logits.changes(model)
    handle = Handle(model, rows, changes, change_of, calls_of(found, answers, head))
    handle.apply()
    remember(handle)
    return handle


def looked_at(model: nn.Module, asked: set[str], hub: bool):
    """(what rules looked at, the answers by key, the loss head)."""
    proofs = Answers()
    found = [
        Found(path, module, rule, judge(rule, module, asked, hub, proofs))
        for path, module in model.named_modules()
        if (rule := rule_for(module, asked))
    ]
    in_question = [one for one in found if not isinstance(one.key, Refusal)]
    answers = {one.key: wanted(proofs.at(one.key), asked) for one in in_question}
    losses = asked & {FUSED, "cross_entropy"}
    head = loss_head.find(model, FUSED in asked) if losses else None
    # What the operators need is compiled while they are tried one by one.
    start_background_compile(model, calls_of(found, answers, head))
    first_of = {one.key: one for one in reversed(in_question)}
    for key, one in first_of.items():
        if isinstance(answers[key], Proof):
            answers[key] = proofs.confirmed(one.rule, one.module)
    return found, answers, head


def wanted(answer: Proof | Refusal, asked: set[str]) -> Proof | Refusal:
    if isinstance(answer, Proof) and answer.role not in asked:
        return turned_off(answer.role, asked)
    return answer


def turned_off(role: str, asked: set[str]) -> Refusal:
    """By the first of the role's flags that is off; each has a role of its own name."""
    off = next(flag for flag in ROLES[role] if flag not in asked)
    return Refusal(f"turned off ({off}=False)")


@dataclass(frozen=True)
class Found:
    """A module that a rule looks at; `key` is that of its answer, or a refusal at once."""

    path: str
    module: nn.Module
    rule: Rule
    key: Hashable | Refusal


def flags_of(row: Row) -> set[str]:
    """The flags that this row answers for."""
    roles = {row.role}.union(*(rule.roles for rule in RULES if rule.name == row.role))
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
    return next((rule for rule in known if asked.intersection(rule.roles)), (known or [None])[-1])


def knows(rule: Rule, module: nn.Module) -> bool:
    try:
        return rule.match(module)
    except Exception:  # a module of no known build, such as a scripted one
        return False


def judge(
    rule: Rule, module: nn.Module, asked: set[str], hub: bool, proofs: Answers
) -> Hashable | Refusal:
    """The key of its answer, unless it is replaced already or not asked for."""
    if hub:
        return Refusal("hub kernels own it")
    if not asked.intersection(rule.roles):
        return turned_off(rule.roles[0], asked)
    reason = replaced_by(module)
    if reason:
        return Refusal(reason)
    try:
        return proofs.key(rule, module)
    except Exception as error:
        return Refusal(f"it cannot be looked at: {type(error).__name__}: {error}")


def calls_of(found: list[Found], answers: dict[Hashable, Proof | Refusal], head) -> list[MetaCall]:
    """What a step calls, and as spare ones what it falls back to."""
    absorbed = {
        id(module)
        for one in found
        if isinstance(proof := answers.get(one.key), Proof)
        for module in one.rule.absorbed(one.module, proof)
    }
    called = {one.key for one in found if id(one.module) not in absorbed}
    calls = []
    for key, proof in answers.items():
        spare = key not in called
        while isinstance(proof, Proof):
            calls += [replace(proof.meta, spare=spare)] if proof.meta else []
            proof, spare = proof.otherwise, True
    return calls + ([loss_head.meta_call(head)] if isinstance(head, loss_head.LossHead) else [])


def row_of_loss(model: nn.Module, head, fused: bool) -> Row:
    role = FUSED if fused else "cross_entropy"
    if isinstance(head, Refusal):
        return Row("", type(model).__name__, role, head.reason)
    return Row(loss_head.path_of(model, head.head), type(head.head).__name__, role, "patched")
