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
    longer what was probed, it takes its own forward, and the report counts that. A module's new
    forward goes with it through deepcopy, `to`, `train` and torch.compile. A model that was
    pickled, or a head that was copied without its model, has the forwards that its classes had when
    it was loaded or copied. `copy.copy` of a module, and any object that takes a module's
    attributes (`vars(module)`, in which its forward stands), runs the forward of the module that
    was copied: exchange a module's class before the patch, or unpatch first. `nn.DataParallel` is
    not supported: its replicas would use the first device's modules.

    What raises in a patched model and not in the one before: a second derivative or a forward-mode
    one through an operator of ours; on a GPU, compiled autograd over a graph that was made eagerly
    (a compiled model is no such graph); the gradient of logits that a fused loss was made without,
    for who reads it, or puts a hook on them after that loss and before something has computed them;
    logits that a step returns though their hidden states were written to after the head (call it
    with skip_logits=False); with cross_entropy=True, a write in place into logits that their loss
    has read for its backward; fullgraph=True, a hook on logits or their `.data` in a function that
    is compiled by itself and that a training forward calls on its logits (compile the whole model,
    or call it with skip_logits=False); torch.jit.trace of a training forward with labels, and a
    transform of torch.func over a function that reads logits made outside of it; torch.jit.script
    of a patched module; cloudpickle, which saves functions by their code, of a model whose class
    decorates its forward, as most of transformers do (pickle and torch.save take it; or unpatch
    first); copy.deepcopy of a module whose own `__deepcopy__` copies its attributes without a note
    of itself in the memo; for a family's model that waits for its first forward, a wrapper around
    that forward and a checkpoint around the whole of it; a write in place into a norm's input after
    the norm, or into the weight of one that adds to it (Gemma's), which keeps that very tensor for
    its backward, where torch's norm keeps a copy in float32 of a 16-bit one, and nothing of one
    without a gradient; one into the weights of a routing after the experts, whose loop keeps a
    copy, or into their biases; a training step with such a tensor that was made in an inference
    mode; one into a head's weight or bias between a loss with reduction="none", which makes its
    logits again, and its backward; a checkpoint without reentry around modules that run their own
    forwards in only one of its two runs, as under a hook or a mode that is taken away before the
    backward: the second run must keep the tensors that the first kept, torch tells nobody which run
    is on, and a choice that was remembered would pass by what is hooked by then.

    What torch refuses and a patched model computes: a fused loss has the gradients of its forward
    before its backward, so it does not see what is written between the two into its labels, its
    head's or its classes' weights or the hidden states, where torch may raise; nor does a
    checkpoint over logits see a later write in place into them.

    What differs and does not raise: with num_items_in_batch=0, or a loss that is multiplied by
    infinity, the gradient of a head's weight is infinite where torch's is NaN, and the loss of a
    compiled model NaN where torch's is infinite; `model.forward` is an object and no method
    (`inspect.signature` reads it, `inspect.getsource` does not); under torch.compile, a hook that
    the model puts on its logits after the loss, which never runs, and attention that has no mask
    where it has none without torch.compile (a hook on it sees None), and the items by number of an
    output without logits, which are one less, where without torch.compile the second is None; a
    training step's logits are of a subclass of `Tensor` until something computes them, so
    `type(logits) is Tensor` is False; what is written between head and loss in ways that torch does
    not count (`weight.data.copy_`, numpy memory) counts for the loss, and between forward and
    backward (`weight.data.mul_`, `model.to(dtype)`, which may raise there) for a norm that adds to
    its weight (Gemma's) or has a gate, for experts, and for a loss with reduction="none", and not
    for any other fused loss, where torch has it the other way round; a view of logits that was
    taken before their loss and is looked at after it is beside that loss, so a hook on it sees no
    gradient of it, nor does one that is put on logits after a function of torch's engine (an
    autograd.Function, a checkpoint) was given them; hooks of saved tensors see what our operators
    keep; of torch's functions that somebody replaces after the patch, only those of linear layers
    and cross entropy are asked for at each call (a profiler that wraps `F.silu` does not see ours);
    under autocast q and k leave a rotation in autocast's dtype, where torch's arithmetic gives
    float32 for attention to round (a cache holds them so); a loop of steps within one autocast
    context computes with the weights of its step, where torch keeps rounded copies of those that
    the context began with; projections of a class of the user's that give the same memory at each
    call (a workspace), and those with hooks that write into what another projection gave, are
    called before any of it is read, and what a hook of a projection changes in the norm or
    activation that its layer calls next counts from the layer's next call on; heads of which a part
    is rotated stay in the order in memory in which they came, and are not made contiguous, so torch
    may refuse a write into what attention gives, as it does where whole heads are rotated; a
    tensor's hook on one of two results of an operator (a norm and the sum before it, rotated q and
    k), or on a parameter that only that one is made of, is called with None where a backward comes
    to the other alone, as torch does for its own nodes of several results, and hooks of two such
    results are called in their order; who takes `module.forward` of a patched module and then gives
    its class another forward, with no call of the module between but compiled ones, or calls what
    was taken from elsewhere than its place, has the class's new forward, and without the patch the
    old one, and so has a call whose own forward pre-hook gives the module's class that forward, for
    torch looks a forward up before such hooks; a module over whose forward something was put and
    taken off again has its class's forward of now, where in an unpatched one that of then may stand
    in its place (as accelerate's hooks leave it, and `mock.patch` does not); who took
    `model.loss_function` of a model and calls it outside of any forward has the loss of the model's
    type of now, and a loss that was made of a loss that was made of it has the one of the patch in
    both.

    What a proof takes for granted: that a class answers for an attribute what its modules answer
    (no `types.DynamicClassAttribute`, and no cached property as a forward), and that `_modules` is
    a dict as torch makes it; that torch's own functions and tables, such as that of all modules'
    hooks, are where torch put them; that transformers' functions call what transformers wrote,
    beyond those that a guard reads; that what a projection of the user's does leaves alone the
    norms that its attention has called by then; and that no value is so near to the ends of its
    dtype that an intermediate of torch's would overflow.

    A patched module and its forward refer to each other. So after `del model` its weights are freed
    when Python's cyclic collector runs (`gc.collect()`), or at once if `unpatch()` came before.

    Under a mode of torch (`TorchFunctionMode`, `TorchDispatchMode`) modules run their own forwards.
    Operators stay under a default device, fake tensors, tracing, and selective checkpoints, whose
    policy then decides on an operator of ours as a whole. A mode that comes on for the backward
    alone sees the operators of the forward before it.

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
