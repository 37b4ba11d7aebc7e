"""Distillation behind a linear layer against plain torch in float64, whose gradients are autograd's
and not the derivatives that the op has by hand."""

import warnings
from functools import partial

import pytest
import torch
from accuracy import (
    HALVES,
    TOLERANCE,
    assert_refused,
    cast,
    dtypes_of,
    relative_error,
    run,
    strided_forms,
)
from distillation_reference import IGNORED, WRT, distillation_reference, layers
from liger_jit.functional import fused_linear_distillation, fused_linear_jsd
from samples import operator

SOFT = ["jsd", "kl", "reverse_kl", "tvd", "cosine"]
# A product of another height is summed in another order, and differences of logarithms follow.
SLACK_OF_PRODUCTS = 5e-7


def case(dtype, device, **sizes):
    """In 16 bits of so many tokens that no luck of rounding is left."""
    return layers(dtype, device, tokens=500 if dtype in HALVES else 37, **sizes)


def check(inputs, **options):
    """Every output and gradient against float64, no further from it than eager."""
    wrt = [name for name in WRT if name in inputs]
    dtype = inputs["input"].dtype
    tolerance = TOLERANCE[dtype]
    reference = partial(distillation_reference, **options)
    truth = run(reference, cast(inputs, torch.float64), wrt)
    eager = run(reference, inputs, wrt)
    ours = run(
        lambda **tensors: tuple(
            fused_linear_distillation(**tensors, return_hard_loss="target" in inputs, **options)
        ),
        inputs,
        wrt,
    )
    assert truth.keys() == ours.keys()
    for name, exact in truth.items():
        error, allowed = relative_error(ours[name], exact), relative_error(eager[name], exact)
        # In float64 the truth is of as many digits.
        rounded = exact.numel() == 1 or dtype == torch.float64
        slack = tolerance.scalar_slack if rounded else tolerance.slack
        if dtype == torch.float32:
            slack += SLACK_OF_PRODUCTS
        assert error <= tolerance.factor * allowed + slack, (name, error, allowed)
    return ours


@pytest.mark.parametrize("divergence", SOFT)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_every_loss_is_as_exact_as_eager(device, divergence, temperature):
    for dtype in dtypes_of(device):
        options = {"divergence": divergence, "temperature": temperature, "beta": 0.3}
        # The slope of |p - q| jumps where the two are equal, so that all depends on how logits were
        # rounded: without a bias as eager does.
        bias = dtype not in HALVES or divergence != "tvd"
        inputs = case(dtype, device, bias=bias)
        check(inputs, weight_hard_loss=0.7, weight_soft_loss=1.3, **options)
        check(inputs, weight_hard_loss=0.0, weight_soft_loss=1.0, **options)


@pytest.mark.parametrize("beta", [0.0, 0.03, 0.5, 0.97, 1.0])
def test_beta_reaches_its_limits(device, beta):
    for dtype in dtypes_of(device):
        check(case(dtype, device), beta=beta, weight_hard_loss=0.1, weight_soft_loss=0.9)
    inputs = layers(torch.float32, device)
    limit = {0.0: "kl", 1.0: "reverse_kl"}.get(beta)
    if limit:
        named = fused_linear_distillation(**inputs, divergence=limit, beta=0.4)
        assert torch.equal(fused_linear_distillation(**inputs, beta=beta).loss, named.loss)


@pytest.mark.parametrize("divergence", ["jsd", "tvd", "cosine"])
def test_without_labels_and_biases_every_token_counts(device, divergence):
    inputs = layers(torch.float32, device, bias=False)
    del inputs["target"]
    options = {"divergence": divergence, "weight_hard_loss": 0.0}
    check(inputs, **options)


@pytest.mark.parametrize("divergence", SOFT)
@pytest.mark.parametrize(("tokens", "vocabulary"), [(1, 7), (1, 1003), (5, 50257), (3, 1)])
def test_any_sizes(device, divergence, tokens, vocabulary):
    inputs = layers(torch.float32, device, tokens, vocabulary=vocabulary)
    inputs["target"][0] = vocabulary - 1
    if vocabulary > 1:  # of one class all gradients are zero, whatever eager rounds them to
        check(inputs, divergence=divergence, temperature=1.5)
    assert fused_linear_distillation(**inputs, divergence=divergence).loss.isfinite()


@pytest.mark.parametrize("divergence", SOFT)
def test_large_logits_overflow_nowhere(device, divergence):
    """Of some thousands: probabilities are one or zero."""
    inputs = layers(torch.float32, device, scale=3e3)
    inputs["teacher_weight"] = inputs["teacher_weight"].flip(0)
    made = check(inputs, divergence=divergence, weight_hard_loss=0.3)
    assert all(value.isfinite().all() for value in made.values())


# A KL of the student from such a teacher is infinite, as it has to be.
@pytest.mark.parametrize("divergence", ["jsd", "kl", "tvd"])
def test_a_teacher_may_rule_classes_out(device, divergence):
    for dtype in dtypes_of(device):
        inputs = case(dtype, device)
        inputs["teacher_bias"][3::4] = float("-inf")
        made = check(inputs, divergence=divergence, temperature=0.7)
        assert all(value.isfinite().all() for value in made.values())


def test_both_may_rule_classes_out(device):
    for divergence in ("jsd", "kl", "reverse_kl", "tvd"):
        inputs = layers(torch.float32, device)
        inputs["target"][inputs["target"] % 4 == 3] = IGNORED
        for name in ("bias", "teacher_bias"):
            inputs[name][3::4] = float("-inf")
        leaves = {**inputs, "input": inputs["input"].clone().requires_grad_()}
        fewer = {**inputs, "target": inputs["target"].clone()}
        columns = torch.arange(129, device=device) % 4 != 3
        for name in ("weight", "teacher_weight", "bias", "teacher_bias"):
            fewer[name] = inputs[name][columns]
        fewer["target"] = torch.where(
            inputs["target"] == IGNORED,
            inputs["target"],
            (columns.cumsum(0) - 1)[inputs["target"].clamp_min(0)],
        )
        loss = fused_linear_distillation(**leaves, divergence=divergence).loss
        wanted = fused_linear_distillation(**fewer, divergence=divergence).loss
        torch.testing.assert_close(loss, wanted)
        assert torch.autograd.grad(loss, leaves["input"])[0].isfinite().all()


def test_alike_distributions_are_no_distance_apart(device):
    for divergence in SOFT:
        inputs = layers(torch.float32, device, of_teacher=32)
        for name in ("input", "weight", "bias"):
            inputs[f"teacher_{name}"] = inputs[name]
        leaves = {**inputs, "input": inputs["input"].clone().requires_grad_()}
        options = {"weight_hard_loss": 0.0, "divergence": divergence}
        loss = fused_linear_distillation(**leaves, **options).loss
        assert abs(loss.item()) < 1e-6
        assert torch.autograd.grad(loss, leaves["input"])[0].abs().max() < 1e-7


def test_a_row_of_zeros_has_no_direction(device):
    inputs = layers(torch.float32, device, bias=False)
    inputs["input"][0] = 0
    inputs["target"][0] = 5
    leaves = {**inputs, "input": inputs["input"].clone().requires_grad_()}
    options = {"divergence": "cosine", "beta": 1.0, "weight_hard_loss": 0.0}
    out = fused_linear_distillation(**leaves, **options)
    torch.testing.assert_close(out.loss, distillation_reference(**inputs, **options)[0])
    gradient = torch.autograd.grad(out.loss, leaves["input"])[0]
    assert not gradient[0].any() and gradient[2].any()


@pytest.mark.parametrize("divergence", SOFT)
def test_ignored_tokens_may_hold_anything(device, divergence):
    inputs = layers(torch.float32, device)
    ignored = inputs["target"] == IGNORED
    clean = run(
        lambda **t: tuple(fused_linear_distillation(**t, divergence=divergence)), inputs, WRT[:1]
    )
    for name in ("input", "teacher_input"):
        inputs[name][ignored] = float("nan")
    found = run(
        lambda **t: tuple(fused_linear_distillation(**t, divergence=divergence)), inputs, WRT[:1]
    )
    for name, value in clean.items():
        assert torch.equal(found[name], value), name
    assert not found["gradient of input"][ignored].any()


def test_where_no_token_counts_all_is_zero(device):
    for divergence in SOFT:
        inputs = layers(torch.float32, device)
        inputs["target"].fill_(IGNORED)
        found = run(
            lambda **t: tuple(fused_linear_distillation(**t, divergence=divergence)),  # noqa: B023
            inputs,
            WRT,
        )
        assert not any(value.any() for value in found.values())


def test_no_tokens_at_all(device):
    inputs = {
        name: value[:0] if name in ("input", "teacher_input", "target") else value
        for name, value in layers(torch.float32, device).items()
    }
    found = run(lambda **t: tuple(fused_linear_distillation(**t)), inputs, WRT)
    assert not any(value.any() for value in found.values())


def with_chunks(inputs, chunk_tokens, wrt=WRT, **options):
    leaves = {
        name: value.clone().requires_grad_(name in wrt) if value.is_floating_point() else value
        for name, value in inputs.items()
    }
    outputs = torch.ops.liger_jit.fused_linear_distillation(
        **leaves, chunk_tokens=chunk_tokens, **options
    )
    return [*outputs[:3], *torch.autograd.grad(outputs[0], [leaves[name] for name in wrt])]


@pytest.mark.parametrize("divergence", [0, 1, 2])
@pytest.mark.parametrize("chunk_tokens", [1, 16, 1000, -1])
def test_chunks_give_one_loss_and_the_same_bits_each_time(device, divergence, chunk_tokens):
    inputs = layers(torch.float32, device)
    options = {"divergence": divergence, "temperature": 1.5}
    whole = with_chunks(inputs, 0, **options)
    parts = with_chunks(inputs, chunk_tokens, **options)
    for exact, value in zip(whole, parts, strict=True):
        assert relative_error(value, exact) < 2e-6
    again = with_chunks(inputs, chunk_tokens, **options)
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))


def test_leading_dimensions_are_flattened_and_strides_are_free(device):
    inputs = layers(torch.float32, device, tokens=12)
    wanted = run(lambda **t: tuple(fused_linear_distillation(**t)), inputs, WRT)
    shaped = {
        name: value.view(3, 4, *value.shape[1:])
        if name in ("input", "teacher_input", "target")
        else value
        for name, value in inputs.items()
    }
    found = run(lambda **t: tuple(fused_linear_distillation(**t)), shaped, WRT)
    for name, value in wanted.items():
        assert torch.equal(found[name].flatten(), value.flatten()), name
    for of in ("input", "weight", "teacher_input", "teacher_weight"):
        for form, view in strided_forms(inputs[of]):
            assert torch.equal(view, inputs[of])
            found = run(
                lambda **t: tuple(fused_linear_distillation(**t)), {**inputs, of: view}, WRT
            )
            for name, value in wanted.items():
                assert torch.equal(found[name], value), (of, form, name)
    expanded = {**inputs, "teacher_input": inputs["teacher_input"][:1].expand(12, -1)}
    copied = {**inputs, "teacher_input": expanded["teacher_input"].clone()}
    assert torch.equal(
        fused_linear_distillation(**expanded).loss, fused_linear_distillation(**copied).loss
    )


@pytest.mark.parametrize("frozen", ["input", "weight"])
def test_a_frozen_part_gets_no_product(device, frozen):
    inputs = layers(torch.bfloat16, device, bias=False)
    leaves = {
        name: value.requires_grad_(name in WRT and name != frozen)
        if value.is_floating_point()
        else value
        for name, value in inputs.items()
    }
    with warnings.catch_warnings(), torch.profiler.profile() as profile:
        warnings.simplefilter("ignore")
        fused_linear_distillation(**leaves).loss.backward()
    products = sum(e.count for e in profile.key_averages() if e.key in ("aten::mm", "aten::addmm"))
    assert products == 3  # the teacher's logits, the student's, one gradient
    assert inputs[frozen].grad is None


def test_the_gradient_that_arrives_multiplies_and_a_second_backward_is_the_same(device):
    for dtype in dtypes_of(device):
        inputs = layers(dtype, device)
        leaf = inputs["input"].clone().requires_grad_()
        loss = fused_linear_distillation(**{**inputs, "input": leaf}).loss
        once = torch.autograd.grad(loss, leaf, retain_graph=True)[0]
        thrice = torch.autograd.grad(3 * loss, leaf, retain_graph=True)[0]
        torch.testing.assert_close(thrice, 3 * once)
        assert torch.equal(torch.autograd.grad(loss, leaf)[0], once)


def test_jsd_alone_reads_of_labels_only_which_are_ignored(device):
    inputs = layers(torch.float32, device, bias=False)
    labels = inputs.pop("target")
    options = {"beta": 0.2, "temperature": 3.0}
    wanted = distillation_reference(
        **inputs, target=labels, weight_hard_loss=0.0, weight_soft_loss=1.0, **options
    )[0]
    far = torch.where(labels == IGNORED, labels, labels + 1000)
    for given in (labels, far):
        torch.testing.assert_close(fused_linear_jsd(**inputs, labels=given, **options), wanted)
    every = fused_linear_jsd(**inputs, **options)
    assert not torch.isclose(every, wanted)


def test_autocast_lowers_both_layers(device):
    inputs = layers(torch.float32, device)
    lowered = cast(inputs, torch.bfloat16)
    with torch.autocast(device, torch.bfloat16):
        found = fused_linear_distillation(**inputs)
    assert torch.equal(found.loss, fused_linear_distillation(**lowered).loss)


def test_a_teacher_that_wants_a_gradient_is_refused(device):
    inputs = layers(torch.float32, device)
    for name in ("teacher_input", "teacher_weight", "teacher_bias"):
        leaf = inputs[name].clone().requires_grad_()
        with pytest.raises(NotImplementedError, match=name):
            fused_linear_distillation(**{**inputs, name: leaf})


def test_what_makes_no_sense_is_refused_by_name(device):
    inputs = layers(torch.float32, device)
    for options, words in [
        ({"divergence": "hellinger"}, ["'divergence' is 'hellinger'", "'reverse_kl'"]),
        ({"accum_dtype": torch.int8}, ["'accum_dtype' is torch.int8"]),
        ({"beta": 1.5}, ["'beta' is 1.5", "0 to 1"]),
        ({"temperature": 0.0}, ["'temperature' is 0"]),
        ({"weight_soft_loss": float("inf")}, ["'weight_soft_loss' is inf"]),
        ({"target": None}, ["'target' is None", "weight_hard_loss of 0"]),
        ({"target": inputs["target"][:3]}, [r"'target' has shape \[3\]", r"\[37\]"]),
        ({"teacher_input": inputs["teacher_input"][:3]}, ["'teacher_input' has shape"]),
        ({"teacher_weight": inputs["teacher_weight"][:100]}, ["'teacher_weight' has shape"]),
        ({"teacher_bias": inputs["teacher_bias"][:100]}, ["'teacher_bias' has shape"]),
        ({"teacher_input": inputs["teacher_input"].bfloat16()}, ["teacher_input"]),
    ]:
        assert_refused(
            lambda options=options: fused_linear_distillation(**{**inputs, **options}), *words
        )


def test_a_label_out_of_range_on_the_cpu_names_its_place():
    inputs = layers(torch.float32, "cpu")
    inputs["target"][20] = 129
    text = "fused_linear_distillation: element 20 of argument 'target' is 129; allowed: 0 to 128"
    for chunk_tokens in (0, 16):
        with pytest.raises(ValueError, match=text):
            torch.ops.liger_jit.fused_linear_distillation(**inputs, chunk_tokens=chunk_tokens)


@pytest.mark.parametrize("divergence", SOFT)
def test_compiles_without_a_break(device, divergence):
    inputs = layers(torch.float32, device)

    def loss_of(**tensors):
        return tuple(fused_linear_distillation(**tensors, divergence=divergence, temperature=2.0))

    compiled = torch.compile(loss_of, fullgraph=True, backend="aot_eager")
    eager = run(loss_of, inputs, WRT)
    for name, value in run(compiled, inputs, WRT).items():
        assert torch.equal(value, eager[name]), name


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("divergence", ["jsd", "kl", "tvd"])
def test_rows_whose_statistics_are_known_give_the_same(device, divergence, hard):
    rows, classes, temperature = 5, 3000, 1.3
    logits, teacher = (torch.randn(2, rows, classes, device=device) * 3).bfloat16()
    options = {
        "target": torch.randint(classes, (rows,), device=device),
        "share": torch.tensor(0.25, device=device),
        "divergence": {"jsd": 0, "kl": 0, "tvd": 1}[divergence],
        "beta": 0.0 if divergence == "kl" else 0.5,
        "temperature": temperature,
        "with_gradient": True,
    }

    def made(**known):
        soft, cross = torch.full((2, rows), 7.0, device=device)
        dlogits = logits.clone()
        operator("distillation_chunk_")(
            dlogits,
            teacher,
            soft_loss=soft,
            hard_loss=cross if hard else None,
            first_row=0,
            **options,
            **known,
        )
        return dlogits.float(), soft, cross

    def statistics(of):
        top = of.float().amax(-1)
        total = ((of.float() - top[:, None]) / temperature).exp().sum(-1)
        return torch.stack([top, total, torch.zeros_like(top)], 1)

    known = {"statistics": statistics(logits), "teacher_statistics": statistics(teacher)}
    for mine, its in zip(made(**known), made()):
        torch.testing.assert_close(mine, its, rtol=1e-2, atol=1e-6)
    off = known | {"statistics": known["statistics"] + torch.tensor([0, 1e3, 0], device=device)}
    assert relative_error(made(**off)[1], made()[1]) > 0.1


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0),
    reason="needs a GPU of compute capability 9.0",
)
@pytest.mark.parametrize("divergence", ["jsd", "kl", "tvd"])
def test_logits_that_come_with_their_statistics_are_as_exact_as_eager(divergence):
    check(
        layers(torch.bfloat16, "cuda", tokens=2048, hidden=256, vocabulary=32064, bias=False),
        divergence=divergence,
        temperature=1.5,
    )
