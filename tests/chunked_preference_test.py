"""CPO, SimPO, ORPO and KTO under Liger Kernel's names: arguments as in Liger Kernel 0.8.5, and what
they compute."""

import inspect

import pytest
import torch
from liger_jit import chunked_loss
from liger_jit.chunked_loss import functional as chunked
from liger_jit.functional import (
    fused_linear_cpo,
    fused_linear_kto,
    fused_linear_orpo,
    fused_linear_simpo,
)
from preference_reference import case

SIGNATURES = {
    "CPO": (
        "_input, weight, target, bias=None, ignore_index=-100, beta=0.1, alpha=1.0, "
        "label_smoothing=0.0, compute_nll_loss=True, compiled=True, average_log_prob=False, "
        "chunk_size=1",
        "ignore_index=-100, beta=0.1, alpha=1.0, label_smoothing=0.0, compute_nll_loss=True, "
        "compiled=True, average_log_prob=False, chunk_size=1",
        "self, lin_weight, _input, target, bias=None",
    ),
    "SimPO": (
        "_input, weight, target, bias=None, ignore_index=-100, beta=0.1, alpha=1.0, "
        "label_smoothing=0.0, compute_nll_loss=False, compiled=True, gamma=0.5, chunk_size=1",
        "ignore_index=-100, beta=0.1, alpha=1.0, label_smoothing=0.0, compute_nll_loss=True, "
        "compiled=True, gamma=0.5, chunk_size=1",
        "self, lin_weight, _input, target, bias=None",
    ),
    "ORPO": (
        "_input, weight, target, bias=None, ignore_index=-100, beta=0.1, compute_nll_loss=True, "
        "nll_target=None, compiled=True, chunk_size=1",
        "ignore_index=-100, beta=0.1, compute_nll_loss=True, compiled=True, chunk_size=1",
        "self, lin_weight, _input, target, bias=None, nll_target=None",
    ),
    "KTO": (
        "_input, weight, target, preference_labels, bias=None, ref_input=None, ref_weight=None, "
        "ref_bias=None, kl=None, ignore_index=-100, beta=0.1, compiled=True, use_ref_model=True, "
        "average_log_prob=False, chunk_size=1",
        "ignore_index=-100, beta=0.1, compiled=True, use_ref_model=False, average_log_prob=False, "
        "chunk_size=1",
        "self, _input, lin_weight, target, bias=None, preference_labels=None, ref_input=None, "
        "ref_weight=None, ref_bias=None, kl=None",
    ),
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_modules_have_liger_kernels_arguments_and_compute_the_function(device, name):
    def names(function):
        each = inspect.signature(function).parameters.values()
        return ", ".join(str(one.replace(annotation=one.empty)) for one in each)

    module = getattr(chunked_loss, f"LigerFusedLinear{name}Loss")
    of_function = getattr(chunked, f"liger_fused_linear_{name.lower()}")
    assert (names(of_function), names(module), names(module.forward)) == SIGNATURES[name]
    inputs, reference = case(device, torch.float32)
    given = {"_input": inputs["input"], "lin_weight": inputs["weight"], "bias": inputs["bias"]}
    given["target"] = inputs["ids"]
    if name == "KTO":
        given |= reference
        given["preference_labels"] = torch.arange(len(inputs["ids"]), device=device) % 2 == 0
    made = module(beta=0.2, **({"use_ref_model": True} if name == "KTO" else {}))
    loss, metrics = made(**given)
    wanted = {
        "CPO": lambda: fused_linear_cpo(**inputs, beta=0.2),
        "SimPO": lambda: fused_linear_simpo(**inputs, beta=0.2, compute_nll_loss=True),
        "ORPO": lambda: fused_linear_orpo(**inputs, beta=0.2),
        "KTO": lambda: fused_linear_kto(
            **inputs, **reference, preference_labels=given["preference_labels"], beta=0.2
        ),
    }[name]()
    assert isinstance(metrics, tuple)
    assert all(map(torch.equal, (loss, *metrics), wanted))
    made.beta = 0.9
    assert not torch.equal(made(**given)[0], loss)
