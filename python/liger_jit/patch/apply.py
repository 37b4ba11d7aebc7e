"""`patch`: looks at every module of a model, proves what can be replaced, then replaces it all."""

from collections.abc import Hashable

import torch
from torch import nn

from ..warmup import start_background_compile
from . import loss_head
from .add_norm import ADD_NORM
from .glu import GLU
from .handle import Handle, InstanceValue, Row
from .norms import NORM
from .probe import quiet
from .qk_norm import QK_NORM
from .rotary import ROTARY
from .rule import Proof, Refusal, Rule, replaced_by

RULES = (NORM, GLU, QK_NORM, ROTARY, ADD_NORM)
FLAGS = (
    "rope",
    "rms_norm",
    "layer_norm",
    "swiglu",
    "geglu",
    "cross_entropy",
    "fused_linear_cross_entropy",
)


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
    the handle's report says why. A module's new forward goes with it through deepcopy, `to`,
    `train` and torch.compile. In a model that was pickled the loss head alone is still patched.
    `nn.DataParallel` is not supported: its replicas would use the first device's modules.

    Args:
        model: a transformers model, or a PEFT, DistributedDataParallel or torch.compile wrapper of
            one. Weights may be on any device, on meta, quantised or adapted. Patch before the first
            compiled call, and after adapters are added: a head patched before them returns lazy
            logits, which are computed when they are read.
        rope, rms_norm, layer_norm, swiglu, geglu: which roles to replace. A gated MLP becomes one
            node while its projections are plain linear layers, else the activation alone is ours.
            rms_norm also takes the residual sum before a norm into it, inside a decoder layer; with
            rope, norms of the heads of q and k and their rotation become one.
        fused_linear_cross_entropy: never hold the logits of a training step. A forward with labels
            in training mode then returns `logits=None`, unless it is called with skip_logits=False.
            The forward also takes skip_logits, return_token_accuracy, return_predicted_tokens and
            use_token_scaling, and answers in token_accuracy and predicted_tokens of its output.
        cross_entropy: the loss alone, on real logits; needs fused_linear_cross_entropy=False.

    Returns a `Handle`, applied: `report()`, `unpatch()`, `verify()`; also a context manager.

    Raises:
        TypeError: a keyword that is none of the above.
        ValueError: both cross entropies are asked for.
        RuntimeError: from the operators, such as no compiler found. The model is then as it was.
    """
    if unknown:
        raise TypeError(
            f"patch() does not know {', '.join(unknown)}; its flags: {', '.join(FLAGS)}"
        )
    if cross_entropy and fused_linear_cross_entropy:
        raise ValueError(
            "cross_entropy and fused_linear_cross_entropy replace the same loss: choose one"
        )
    asked = {
        name
        for name, wanted in (
            ("rope", rope),
            ("rms_norm", rms_norm),
            ("fused_add_rms_norm", rms_norm),
            ("qk_norm_rope", rms_norm and rope),
            ("layer_norm", layer_norm),
            ("swiglu", swiglu),
            ("geglu", geglu),
        )
        if wanted
    }
    model = inside_wrappers(model)
    rows, changes, calls = [], [], []
    hub = getattr(model, "use_kernels", False)
    with quiet():
        proofs: dict[Hashable, Proof | Refusal] = {}
        for path, module in model.named_modules():
            rule = rule_for(module, asked)
            if rule is None:
                continue
            proof = Refusal("hub kernels own it") if hub else judge(rule, module, asked, proofs)
            if isinstance(proof, Proof):
                changes.append(InstanceValue(module, "forward", proof.forward.__get__(module)))
                calls += [proof.meta] if proof.meta else []
            role = proof.role if isinstance(proof, Proof) else rule.name
            status = "patched" if isinstance(proof, Proof) else proof.reason
            rows.append(Row(path, type(module).__name__, role, status))
        if cross_entropy or fused_linear_cross_entropy:
            patch_loss(model, fused_linear_cross_entropy, rows, changes, calls)
    handle = Handle(model, rows, changes, calls)
    handle.apply()
    start_background_compile(handle)
    return handle


def inside_wrappers(model: nn.Module) -> nn.Module:
    """What torch.compile, DistributedDataParallel or PEFT wrapped, or the model itself."""
    while True:
        if isinstance(model, torch._dynamo.OptimizedModule):
            model = model._orig_mod
        elif isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif hasattr(model, "get_base_model"):
            return model.get_base_model()
        else:
            return model


def rule_for(module: nn.Module, asked: set) -> Rule | None:
    """The first that knows the module's role and is asked for, else the last that knows it."""
    known = [rule for rule in RULES if rule.match(module)]
    return next((rule for rule in known if asked.intersection(rule.flags)), (known or [None])[-1])


def judge(rule: Rule, module: nn.Module, asked: set, proofs: dict) -> Proof | Refusal:
    """The answer of the module's group, unless this module is replaced already or not asked for."""
    if not asked.intersection(rule.flags):
        return Refusal(f"turned off ({rule.flags[0]}=False)")
    reason = replaced_by(module)
    if reason:
        return Refusal(reason)
    key = (rule.name, rule.group(module))
    if key not in proofs:
        proofs[key] = rule.prove(module)
    proof = proofs[key]
    if isinstance(proof, Proof) and proof.role not in asked:
        return Refusal(f"turned off ({proof.role}=False)")
    return proof


def patch_loss(model: nn.Module, fused: bool, rows: list, changes: list, calls: list) -> None:
    found = loss_head.find(model, fused)
    role = "fused_linear_cross_entropy" if fused else "cross_entropy"
    if isinstance(found, Refusal):
        rows.append(Row("", type(model).__name__, role, found.reason))
        return
    path = loss_head.path_of(model, found.head)
    rows.append(Row(path, type(found.head).__name__, role, "patched"))
    changes += found.changes()
    calls.append(loss_head.meta_call(found))
