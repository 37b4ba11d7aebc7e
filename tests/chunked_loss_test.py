"""Losses behind a linear layer under Liger Kernel's names: arguments, returns, what they stand for.

The signatures were read from the public modules of Liger Kernel 0.8.5.
"""

import importlib
import inspect

import pytest
import torch
from liger_jit import chunked_loss
from liger_jit.chunked_loss import functional as chunked
from liger_jit.functional import fused_linear_dpo, fused_linear_grpo

_REFERENCE = "ref_input=None, ref_weight=None, ref_bias=None"
_LOGPS = "ref_per_token_logps=None, old_per_token_logps=None"
_SAPO = "sapo_temperature_pos=1.0, sapo_temperature_neg=1.05"
_VESPO = "vespo_k_pos=2.0, vespo_lambda_pos=3.0, vespo_k_neg=3.0, vespo_lambda_neg=2.0"
_CLIP = (
    "epsilon_low=0.2, epsilon_high=0.2, loss_type='dapo', max_completion_length=None, "
    f"importance_sampling_level='token', {_SAPO}, temperature=1.0"
)

# The module of the functions' class, and of it the constructor and forward of the loss.
LOSSES = {
    "DPO": (
        f"_input, weight, target, bias=None, {_REFERENCE}, ignore_index=-100, beta=0.1, "
        "compute_nll_loss=False, compiled=True, use_ref_model=True, average_log_prob=False, "
        "chunk_size=1, loss_type='sigmoid', label_smoothing=0.0, discopop_tau=0.05, alpha=1.0",
        "ignore_index=-100, beta=0.1, alpha=1.0, compute_nll_loss=False, compiled=True, "
        "use_ref_model=True, average_log_prob=False, chunk_size=1, loss_type='sigmoid', "
        "label_smoothing=0.0, discopop_tau=0.05",
        f"lin_weight, _input, target, bias=None, {_REFERENCE}",
    ),
    "GRPO": (
        "_input, weight, selected_token_ids, attention_mask, advantages, bias=None, "
        f"{_LOGPS}, {_REFERENCE}, beta=0.04, {_CLIP}, compiled=True, use_ref_model=True, "
        "chunk_size=1, vllm_is_ratio=None, delta=None, use_bias_correction_kl=False, "
        f"{_VESPO}, num_items_in_batch=None",
        f"beta=0.04, compiled=True, use_ref_model=True, chunk_size=1, {_CLIP}, delta=None, "
        f"use_bias_correction_kl=False, {_VESPO}",
        "_input, lin_weight, selected_token_ids, attention_mask, advantages, bias=None, "
        f"{_LOGPS}, {_REFERENCE}, vllm_is_ratio=None, num_items_in_batch=None",
    ),
}

# Of each constructor's argument, a value that is not the default and may change the loss.
OTHERS = {
    "ignore_index": 3,
    "beta": 0.5,
    "alpha": 0.3,
    "compute_nll_loss": True,
    "compiled": False,
    "use_ref_model": False,
    "average_log_prob": True,
    "chunk_size": 7,
    "label_smoothing": 0.2,
    "discopop_tau": 0.3,
    "epsilon_low": 0.01,
    "epsilon_high": 0.02,
    "max_completion_length": 3,
    "importance_sampling_level": "sequence",
    "sapo_temperature_pos": 0.4,
    "sapo_temperature_neg": 3.0,
    "temperature": 0.7,
    "delta": 1.01,
    "use_bias_correction_kl": True,
    "vespo_k_pos": 1.2,
    "vespo_lambda_pos": 1.3,
    "vespo_k_neg": 1.4,
    "vespo_lambda_neg": 1.5,
}
# The loss type with which an option counts, and what else it then needs.
SEEN_WITH = {
    "label_smoothing": {"loss_type": "robust"},
    "discopop_tau": {"loss_type": "discopop"},
    "alpha": {"compute_nll_loss": True},
    "max_completion_length": {"loss_type": "dr_grpo", "max_completion_length": 9},
    "importance_sampling_level": {"loss_type": "grpo"},
    **{name: {"loss_type": "sapo"} for name in OTHERS if name.startswith("sapo")},
    **{name: {"loss_type": "vespo"} for name in OTHERS if name.startswith("vespo")},
}
IDLE = {"compiled", "chunk_size"}


def signature(function, bound=False):
    """Names and defaults in order."""
    parameters = [*inspect.signature(function).parameters.values()][bound:]
    return ", ".join(str(parameter.replace(annotation=parameter.empty)) for parameter in parameters)


def loss_class(name):
    return getattr(chunked_loss, f"LigerFusedLinear{name}Loss")


def tensors_of(name, device, dtype=torch.float32):
    """Arguments of forward by name: four sequences of five tokens."""
    shape, hidden, vocabulary = (4, 5), 16, 31

    def layer():
        return (
            torch.randn(*shape, hidden, device=device, dtype=dtype),
            (torch.randn(vocabulary, hidden, device=device) / 4).to(dtype),
            torch.randn(vocabulary, device=device, dtype=dtype),
        )

    ids = torch.randint(vocabulary, shape, device=device)
    ids[0, 0] = 3
    inputs = dict(zip(("_input", "lin_weight", "bias"), layer(), strict=True))
    if name == "DPO":
        reference = zip(("ref_input", "ref_weight", "ref_bias"), layer(), strict=True)
        return inputs | {"target": ids} | dict(reference)
    logits = inputs["_input"] @ inputs["lin_weight"].t() + inputs["bias"]
    chosen = logits.float().log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    mask = torch.ones(shape, device=device, dtype=torch.int64)
    mask[1, 3:] = 0
    return inputs | {
        "selected_token_ids": ids,
        "attention_mask": mask,
        "advantages": torch.tensor([1.0, -0.5, 0.3, -1.2], device=device),
        "ref_per_token_logps": chosen + torch.randn(shape, device=device) / 4,
        "old_per_token_logps": chosen + torch.randn(shape, device=device) / 4,
    }


def result(module, inputs):
    """The loss, the metrics, and the gradients of the layer."""
    names = ["_input", "lin_weight", "bias"]
    leaves = inputs | {name: inputs[name].detach().clone().requires_grad_() for name in names}
    loss, metrics = module(**leaves)
    gradients = torch.autograd.grad(loss, [leaves[name] for name in names])
    return [loss.detach(), *metrics, *gradients]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", LOSSES)
def test_names_arguments_and_defaults_are_those_of_liger_kernel(name):
    of_function, of_module, of_forward = LOSSES[name]
    module = importlib.import_module(f"liger_jit.chunked_loss.{name.lower()}_loss")
    function = getattr(module, f"LigerFusedLinear{name}Function")
    assert signature(function.apply) == of_function
    assert signature(getattr(chunked, f"liger_fused_linear_{name.lower()}")) == of_function
    assert signature(loss_class(name)) == of_module
    assert signature(loss_class(name).forward, bound=True) == of_forward


@pytest.mark.parametrize("name", LOSSES)
def test_attributes_are_read_at_each_forward(device, name):
    inputs = tensors_of(name, device)
    for option in inspect.signature(loss_class(name)).parameters:
        if option == "loss_type":
            continue
        with_option = SEEN_WITH.get(option, {})
        module = loss_class(name)(**with_option)
        before = result(module, inputs)
        setattr(module, option, OTHERS[option])
        after = result(module, inputs)
        assert same(
            after, result(loss_class(name)(**with_option | {option: OTHERS[option]}), inputs)
        )
        assert same(before, after) == (option in IDLE), option
    module = loss_class(name)()
    module.loss_type = "hinge" if name == "DPO" else "cispo"
    assert same(
        result(module, inputs), result(loss_class(name)(loss_type=module.loss_type), inputs)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dpo_returns_a_loss_and_seven_metrics_on_the_device(device, dtype):
    inputs = tensors_of("DPO", device, dtype)
    inputs["_input"].requires_grad_()
    loss, metrics = chunked_loss.LigerFusedLinearDPOLoss()(**inputs)
    assert isinstance(metrics, tuple)
    assert [one.shape for one in metrics] == [(2,), (2,), (), (), (), (2,), (2,)]
    for one in (loss, *metrics):
        assert one.dtype == torch.float32 and one.device == inputs["_input"].device
    assert loss.requires_grad and not any(one.requires_grad for one in metrics)
    wanted = fused_linear_dpo(
        *(inputs[name] for name in ("_input", "lin_weight", "target", "bias")),
        *(inputs[name] for name in ("ref_input", "ref_weight", "ref_bias")),
    )
    assert same([loss, *metrics], wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_grpo_returns_a_loss_and_its_metrics_on_the_device(device, beta, dtype):
    inputs = tensors_of("GRPO", device, dtype)
    inputs["_input"].requires_grad_()
    loss, metrics = chunked_loss.LigerFusedLinearGRPOLoss(beta=beta)(**inputs)
    assert isinstance(metrics, tuple) and len(metrics) == (1 if beta == 0.0 else 2)
    for one in (loss, *metrics):
        assert one.shape == () and one.dtype == torch.float32
        assert one.device == inputs["_input"].device
    assert loss.requires_grad and not any(one.requires_grad for one in metrics)
    names = ("_input", "lin_weight", "selected_token_ids", "attention_mask", "advantages", "bias")
    wanted = fused_linear_grpo(
        *(inputs[name] for name in (*names, "ref_per_token_logps", "old_per_token_logps")),
        beta=beta,
    )
    assert same([loss, *metrics], [wanted.loss, *([wanted.kl] if beta else []), wanted.clip_ratio])


def test_what_a_constructor_cannot_serve_is_refused():
    with pytest.raises(ValueError, match="'loss_type' is 'kto'; allowed: 'sigmoid'"):
        chunked_loss.LigerFusedLinearDPOLoss(loss_type="kto")
    with pytest.raises(ValueError, match="label_smoothing=0.0.*exo_pair"):
        chunked_loss.LigerFusedLinearDPOLoss(loss_type="exo_pair")
    with pytest.raises(ValueError, match="label_smoothing=0.5.*robust"):
        chunked_loss.LigerFusedLinearDPOLoss(loss_type="robust", label_smoothing=0.5)
    for option in ("sapo_temperature_pos", "sapo_temperature_neg", "delta"):
        with pytest.raises(ValueError, match=f"{option}=0; allowed: a positive number"):
            chunked_loss.LigerFusedLinearGRPOLoss(**{option: 0})


@pytest.mark.parametrize("name", LOSSES)
def test_a_reference_that_is_asked_for_must_be_there(device, name):
    inputs = tensors_of(name, device)
    inputs = {key: value for key, value in inputs.items() if not key.startswith("ref_")}
    with pytest.raises(ValueError, match="use_ref_model is True.*allowed"):
        loss_class(name)()(**inputs)
    loss_class(name)(use_ref_model=False)(**inputs)


def test_dr_grpo_needs_its_length(device):
    with pytest.raises(ValueError, match="max_completion_length is None"):
        chunked_loss.LigerFusedLinearGRPOLoss(loss_type="dr_grpo")(**tensors_of("GRPO", device))


@pytest.mark.parametrize("name", LOSSES)
def test_a_module_compiles_without_breaks(device, name):
    inputs = tensors_of(name, device)
    module = loss_class(name)()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    assert same(result(compiled, inputs), result(module, inputs))
