"""Distillation under Liger Kernel's names: arguments, returns, and losses of one's own.

The signatures were read from the public modules of Liger Kernel 0.8.5.
"""

import importlib
import inspect

import pytest
import torch
import torch.nn.functional as F
from accuracy import relative_error
from distillation_reference import IGNORED, distillation_reference, layers
from liger_jit import chunked_loss
from liger_jit.chunked_loss import functional as chunked
from liger_jit.chunked_loss.fused_linear_distillation import LigerFusedLinearDistillationBase
from liger_jit.functional import fused_linear_distillation, fused_linear_jsd
from liger_jit.transformers import LigerFusedLinearJSD
from liger_jit.transformers.functional import liger_fused_linear_jsd

# Of the loss, its module, its function and its divergence.
LOSSES = {
    "JSD": ("jsd_loss", "liger_fused_linear_jsd", "jsd"),
    "CosineSimilarity": ("cosine_similarity_loss", "liger_fused_linear_cosine", "cosine"),
}
LAYERS = "student_input, student_weight, teacher_input, teacher_weight, true_labels"
OPTIONS = (
    "weight_hard_loss=0.5, weight_soft_loss=0.5, beta=0.5, ignore_index=-100, temperature=1.0, "
    "compiled=True, chunk_size=1024, return_soft_hard_loss=False"
)
OTHERS = {
    "weight_hard_loss": 0.1,
    "weight_soft_loss": 0.2,
    "beta": 0.3,
    "ignore_index": 3,
    "temperature": 2.0,
    "compiled": False,
    "chunk_size": 7,
}
# A direction has no temperature.
IDLE = {"JSD": {"compiled", "chunk_size"}}
IDLE["CosineSimilarity"] = IDLE["JSD"] | {"temperature"}


def signature(function, bound=False):
    parameters = [*inspect.signature(function).parameters.values()][bound:]
    return ", ".join(str(parameter.replace(annotation=parameter.empty)) for parameter in parameters)


def loss_class(name):
    return getattr(chunked_loss, f"LigerFusedLinear{name}Loss")


def function_class(name):
    module = importlib.import_module(f"liger_jit.chunked_loss.{LOSSES[name][0]}")
    return getattr(module, f"LigerFusedLinear{name}Function")


def sequences(device, dtype=torch.float32):
    """Arguments of forward by name: three sequences of five tokens."""
    found = layers(dtype, device, tokens=15)
    found["target"][0] = 3
    names = dict(zip(found, LAYERS.split(", ") + ["student_bias", "teacher_bias"], strict=True))
    named = {names[name]: value for name, value in found.items()}
    for name in ("student_input", "teacher_input", "true_labels"):
        named[name] = named[name].view(3, 5, *named[name].shape[1:])
    return named


def result(module, inputs):
    """What it returns, and the gradients of the layer."""
    names = ["student_input", "student_weight", "student_bias"]
    leaves = inputs | {name: inputs[name].detach().clone().requires_grad_() for name in names}
    returned = module(**leaves)
    losses = returned if isinstance(returned, tuple) else (returned,)
    gradients = torch.autograd.grad(losses[0], [leaves[name] for name in names])
    return [*(one.detach() for one in losses), *gradients]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", LOSSES)
def test_names_arguments_and_defaults_are_those_of_liger_kernel(name):
    of_function = f"{LAYERS}, student_bias, teacher_bias, {OPTIONS}"
    assert signature(function_class(name).apply) == of_function
    assert signature(getattr(chunked, LOSSES[name][1])) == of_function
    assert signature(loss_class(name)) == OPTIONS
    of_forward = f"{LAYERS}, student_bias=None, teacher_bias=None"
    assert signature(loss_class(name).forward, bound=True) == of_forward


@pytest.mark.parametrize("name", LOSSES)
def test_attributes_are_read_at_each_forward(device, name):
    inputs = sequences(device)
    inputs["true_labels"] = inputs["true_labels"].clamp_min(3)  # none is ignored but where 3 is
    for option, value in OTHERS.items():
        module = loss_class(name)()
        before = result(module, inputs)
        setattr(module, option, value)
        after = result(module, inputs)
        assert same(after, result(loss_class(name)(**{option: value}), inputs))
        assert same(before, after) == (option in IDLE[name]), option


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
def test_soft_and_hard_losses_come_where_they_are_asked_for(device, name, dtype):
    inputs = sequences(device, dtype)
    options = {"weight_hard_loss": 0.0, "beta": 0.2, "temperature": 1.5}
    alone = loss_class(name)(**options)(**inputs)
    assert alone.shape == () and alone.dtype == torch.float32
    inputs["student_input"].requires_grad_()
    loss, soft, hard = loss_class(name)(**options, return_soft_hard_loss=True)(**inputs)
    assert loss.requires_grad and not soft.requires_grad and not hard.requires_grad
    assert torch.equal(loss, alone) and torch.equal(loss, 0.5 * soft) and hard > 0
    wanted = fused_linear_distillation(
        *inputs.values(), divergence=LOSSES[name][2], return_hard_loss=True, **options
    )
    assert same([loss, soft, hard], wanted)


def test_no_temperature_is_refused():
    for module in (*map(loss_class, LOSSES), LigerFusedLinearJSD):
        with pytest.raises(ValueError, match="temperature=0; allowed: a positive number"):
            module(temperature=0)


@pytest.mark.parametrize("name", LOSSES)
def test_a_module_compiles_without_breaks(device, name):
    inputs = sequences(device)
    module = loss_class(name)(return_soft_hard_loss=True)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    assert same(result(compiled, inputs), result(module, inputs))


@pytest.mark.parametrize("labelled", [False, True])
def test_linear_jsd_of_modules_is_that_of_the_function(device, labelled):
    found = layers(torch.float32, device, bias=False)
    labels = found.pop("target").int()
    labels = labels if labelled else None
    given = (*found.values(), labels)
    loss = LigerFusedLinearJSD(jsd_beta=0.1, temperature=2.0)(*given)
    assert loss.shape == () and loss.dtype == torch.float32
    assert torch.equal(loss, liger_fused_linear_jsd(*given, 0.1, -100, 2.0, torch.float32))
    long = labels if labels is None else labels.long()
    wanted = fused_linear_jsd(*found.values(), long, beta=0.1, temperature=2.0)
    assert torch.equal(loss, wanted)


class OwnLoss(LigerFusedLinearDistillationBase):
    """As one that is written for Liger Kernel."""

    @staticmethod
    def distillation_loss_fn(student, teacher, target=None, ignore_index=None, beta=0.5, power=1.0):
        log_q, p = student.log_softmax(-1), teacher.softmax(-1)
        each = beta * (p * (p.log() - log_q)).sum(-1).clamp_min(0).pow(power)
        return each.masked_fill(target == ignore_index, 0.0).sum()

    @classmethod
    def forward(cls, ctx, student, weight, teacher, of_teacher, labels, bias, shift, *options):
        chunk_size, hard, temperature, both = options
        return super().forward(
            cls=cls,
            ctx=ctx,
            student_input=student,
            student_weight=weight,
            teacher_input=teacher,
            teacher_weight=of_teacher,
            target=labels,
            student_bias=bias,
            teacher_bias=shift,
            chunk_size=chunk_size,
            weight_hard_loss=hard,
            weight_soft_loss=0.8,
            beta=0.4,
            temperature=temperature,
            return_soft_hard_loss=both,
            power=1.0,
        )

    @staticmethod
    def backward(ctx, grad_output, *grads):
        gradients = LigerFusedLinearDistillationBase.backward(ctx, grad_output, *grads)[:6]
        return *gradients, None, None, None, None, None


@pytest.mark.parametrize("hard", [0.0, 0.3])
@pytest.mark.parametrize("chunk_size", [1, 4, 1024])
def test_a_loss_of_ones_own_has_the_gradients_of_the_whole(device, chunk_size, hard):
    inputs = sequences(device)
    inputs = {name: v.double() if v.is_floating_point() else v for name, v in inputs.items()}
    for bias in (True, False):
        if not bias:
            inputs["student_bias"] = inputs["teacher_bias"] = None
        leaves = [
            one.clone().requires_grad_(name.startswith("student"))
            if one is not None and one.is_floating_point()
            else one
            for name, one in inputs.items()
        ]
        loss, soft, part = OwnLoss.apply(*leaves, chunk_size, hard, 1.7, True)
        names = ("input", "weight", "teacher_input", "teacher_weight", "target")
        given = dict(zip((*names, "bias", "teacher_bias"), leaves, strict=True))
        _, of_kl, of_labels = distillation_reference(
            **given, divergence="kl", temperature=1.7, weight_hard_loss=0.0
        )
        wanted, _, _ = distillation_reference(
            **given,
            divergence="kl",
            temperature=1.7,
            weight_soft_loss=0.8 * 0.4,
            weight_hard_loss=hard,
        )
        torch.testing.assert_close(loss, wanted)
        torch.testing.assert_close(soft, 0.4 * of_kl)
        torch.testing.assert_close(part, of_labels)
        students = [one for one in leaves if one is not None and one.requires_grad]
        made = torch.autograd.grad(2 * loss, students)
        for found, exact in zip(made, torch.autograd.grad(2 * wanted, students), strict=True):
            assert relative_error(found, exact) < 1e-12


def test_a_loss_of_ones_own_makes_no_logits_of_all_tokens(device):
    """A vocabulary that a teacher was padded to is padded in the student, and frozen parts are."""
    inputs = sequences(device)
    inputs["true_labels"][inputs["true_labels"] >= 120] = IGNORED
    inputs["student_weight"] = inputs["student_weight"][:120]
    inputs["student_bias"] = inputs["student_bias"][:120]
    inputs["student_input"].requires_grad_()
    tallest = []

    class Watched(OwnLoss):
        @staticmethod
        def distillation_loss_fn(student, teacher, **options):
            tallest.append((student.shape, teacher.shape))
            assert not student[:, 120:].any()
            return OwnLoss.distillation_loss_fn(student, teacher, **options)

    loss = Watched.apply(*inputs.values(), 4, 0.5, 1.0, False)
    loss.backward()
    assert inputs["student_input"].grad.isfinite().all() and inputs["student_weight"].grad is None
    shape = torch.Size([4, 129])
    assert set(tallest[:-1]) == {(shape, shape)} and len(tallest) == 4
    logits = F.linear(*(inputs[name] for name in ("student_input", "student_weight")))
    assert logits.shape[-1] == 120
