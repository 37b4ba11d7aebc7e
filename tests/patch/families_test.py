"""Liger's functions by name: each on a model of its own, whole families, loading, the Trainer."""

import copy
import gc
import inspect
import sys
import warnings

import pytest
import torch
import transformers
from family_models import fails_by_itself, step_of, tiny
from liger_jit.patch import patch
from liger_jit.patch.apply import flags_of
from liger_jit.patch.families import FAMILIES as ALL_FAMILIES
from liger_jit.patch.families import FAMILY_OF_TYPE, covers
from liger_jit.transformers import monkey_patch
from liger_jit.transformers.auto_model import AutoLigerKernelForCausalLM
from liger_jit.transformers.monkey_patch import (
    MODEL_TYPE_TO_APPLY_LIGER_FN,
    _apply_liger_kernel,
    _apply_liger_kernel_to_instance,
)
from tiny_models import (
    VOCABULARY,
    adapt,
    assert_same_step,
    batch,
    build,
    counted,
    loss_and_gradients,
    shape_of,
)


@pytest.fixture(autouse=True)
def no_family_stays_patched():
    yield
    for family in ALL_FAMILIES:
        revert(family.model_type)


def apply_of(model_type):
    return MODEL_TYPE_TO_APPLY_LIGER_FN[model_type]


def revert(model_type):
    getattr(monkey_patch, f"revert_liger_kernel_to_{model_type}")()


def installed(model_type):
    return FAMILY_OF_TYPE[model_type].model_type in transformers.CONFIG_MAPPING


def says_that_it_is_missing(model_type):
    message = f"transformers {transformers.__version__} has no models of type"
    return pytest.raises(ImportError, match=message)


def kinds_of_hooks(model):
    """`shape_of` without the numbers that hooks have."""
    return {
        path: {key: None if value is None else len(value) for key, value in entries.items()}
        for path, entries in shape_of(model).items()
    }


def assert_is_the_step(found, expected):
    assert found[0] == pytest.approx(expected[0], rel=2e-5)
    assert found[1].keys() == expected[1].keys()
    # Some gradients are zero but for rounding.
    noise = 1e-6 * max(gradient.norm() for gradient in expected[1].values())
    for name, gradient in expected[1].items():
        assert (found[1][name] - gradient).norm() <= 1e-3 * gradient.norm() + noise, name


def assert_is_exactly(found, expected):
    assert found[0] == expected[0]
    assert all(torch.equal(found[1][name], gradient) for name, gradient in expected[1].items())


@pytest.mark.parametrize("model_type", sorted(FAMILY_OF_TYPE))
def test_a_patched_step_of_each_type_is_the_step(model_type):
    if not installed(model_type):
        with says_that_it_is_missing(model_type):
            apply_of(model_type)()
        return
    model, inputs = tiny(model_type)
    if fails_by_itself(model, inputs):
        return
    expected, before = step_of(model, inputs), kinds_of_hooks(model)
    handle = apply_of(model_type)(model=model)
    told = str(handle.report())
    assert handle is model.liger_handle
    patched = {row.role for row in handle.report() if row.patched}
    assert patched.intersection(("rms_norm", "layer_norm", "rope")), told
    asked = inspect.signature(apply_of(model_type)).parameters
    if model.get_output_embeddings() is not None:
        fused = asked["fused_linear_cross_entropy"].default
        assert ("fused_linear_cross_entropy" if fused else "cross_entropy") in patched, told
    # Whatever is on has a row, done or with a reason.
    answered = {flag for row in handle.report() for flag in flags_of(row)}
    assert {name for name, one in asked.items() if one.default is True} <= answered, told
    assert_is_the_step(step_of(model, inputs), expected)
    handle.unpatch()
    del model.liger_handle
    assert kinds_of_hooks(model) == before
    assert_is_exactly(step_of(model, inputs), expected)
    counts = handle.report().counts
    del model, handle
    # And for one that is built afterwards, whose first step is patched already.
    apply_of(model_type)()
    later, inputs = tiny(model_type)
    assert_is_the_step(step_of(later, inputs), expected)
    assert later.liger_handle.report().counts == counts
    revert(model_type)
    assert_is_exactly(step_of(later, inputs), expected)
    # After a step of its own, as `before` is: a recorder of outputs leaves the class's forward.
    assert kinds_of_hooks(later) == before


@pytest.mark.parametrize("family", ALL_FAMILIES, ids=lambda family: family.model_type)
def test_the_table_has_all_base_classes(family):
    if not installed(family.model_type):
        with says_that_it_is_missing(family.model_type):
            apply_of(family.model_type)()
        return
    deferred = apply_of(family.model_type)()
    module = sys.modules[family.module]
    bases = {
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and transformers.PreTrainedModel in value.__bases__
        and value.__module__ == family.module
    }
    assert set(deferred.bases) == bases
    assert all("post_init" in vars(base) for base in bases)
    revert(family.model_type)
    assert not any("post_init" in vars(base) for base in bases)


def test_values_of_none_are_the_defaults():
    asked = dict.fromkeys(("rope", "cross_entropy", "fused_linear_cross_entropy", "swiglu"))
    handle = monkey_patch.apply_liger_kernel_to_llama(**asked, rms_norm=False, model=build())
    roles = {row.role for row in handle.report() if row.patched}
    assert roles == {"rope", "swiglu", "fused_linear_cross_entropy"}


@pytest.mark.parametrize(
    ("family", "asked", "loss"),
    [
        ("llama", {"cross_entropy": True}, "cross_entropy"),
        ("llama", {"cross_entropy": True, "fused_linear_cross_entropy": None}, "cross_entropy"),
        ("granite", {}, "cross_entropy"),
        ("granite", {"fused_linear_cross_entropy": True}, "fused_linear_cross_entropy"),
        ("llama", {"fused_linear_cross_entropy": False}, None),
    ],
)
def test_the_loss_that_is_asked_for_takes_the_place_of_the_other(family, asked, loss):
    handle = apply_of(family)(**asked, model=build(family.capitalize()))
    roles = [row.role for row in handle.report() if row.role.endswith("cross_entropy")]
    assert roles == ([loss] if loss else [])


def test_what_is_wrong_is_said_at_the_call():
    with pytest.raises(ValueError, match="choose one"):
        monkey_patch.apply_liger_kernel_to_llama(
            cross_entropy=True, fused_linear_cross_entropy=True
        )
    with pytest.raises(TypeError, match="layer_norms"):
        monkey_patch.apply_liger_kernel_to_llama(layer_norms=True)
    with pytest.raises(TypeError, match="layer_norms"):
        monkey_patch.apply_liger_kernel_to_llava(layer_norms=True)
    assert "post_init" not in vars(transformers.LlamaPreTrainedModel)


def test_a_type_that_transformers_lacks(monkeypatch):
    name = "transformers.models.llama.modeling_llama"
    monkeypatch.setitem(sys.modules, name, None)
    with says_that_it_is_missing("llama"):
        monkey_patch.apply_liger_kernel_to_llama()


def test_an_error_inside_a_file_of_transformers_is_not_a_missing_type(monkeypatch):
    import transformers.models.llama.modeling_llama  # noqa: F401

    def fails(name):
        raise ModuleNotFoundError("No module named 'flashy'", name="flashy")

    monkeypatch.setattr(monkey_patch.importlib, "import_module", fails)
    with pytest.raises(ModuleNotFoundError, match="flashy"):
        monkey_patch.apply_liger_kernel_to_llama()


def test_by_type_before_a_model_is_built():
    assert _apply_liger_kernel("no_such_type", rope=False) is None
    assert _apply_liger_kernel("") is None
    # Keywords that the family's function does not take are dropped.
    family = _apply_liger_kernel("qwen2", rope=False, geglu=True, anything=1)
    model = build("Qwen2")
    model(**batch())
    assert [handle.model for handle in family.handles] == [model]
    assert not any(row.role == "rope" for row in model.liger_handle.report())


def test_models_built_before_are_warned_of():
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monkey_patch.apply_liger_kernel_to_llama()
    revert("llama")
    model = build()
    with pytest.warns(
        UserWarning, match=r"left as it is: LlamaForCausalLM\. .*model=\.\.\."
    ) as told:
        monkey_patch.apply_liger_kernel_to_llama()
    assert told[0].filename == __file__
    monkey_patch.apply_liger_kernel_to_llama(model=model)
    waiting = build()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # One is patched, one waits for its first forward, and one is of another family.
        other = build("Mistral")
        monkey_patch.apply_liger_kernel_to_llama()
    assert waiting is not other


def test_a_second_call_is_for_models_built_after_it():
    monkey_patch.apply_liger_kernel_to_llama(rope=False)
    first, waiting = build(), build()
    first(**batch())
    monkey_patch.apply_liger_kernel_to_llama(swiglu=False)
    second = build()
    roles = []
    for model in (first, waiting, second):
        model(**batch())
        roles.append({row.role for row in model.liger_handle.report() if row.patched})
    assert roles[0] == roles[1]
    assert "swiglu" in roles[0] and "rope" not in roles[0]
    assert "swiglu" not in roles[2] and "rope" in roles[2]
    revert("llama")
    for model in (first, waiting, second):
        assert "forward" not in vars(model.model.norm)


def test_two_families_may_share_a_class():
    monkey_patch.apply_liger_kernel_to_gemma3()
    monkey_patch.apply_liger_kernel_to_gemma3_text(rope=False)
    text, inputs = tiny("gemma3_text")
    step_of(text, inputs)
    assert not any(row.role == "qk_norm_rope" for row in text.liger_handle.report())
    revert("gemma3")
    assert "forward" in vars(text.model.norm)
    assert "post_init" in vars(transformers.Gemma3PreTrainedModel)
    # The family of the text alone has the text of a model with a tower, and nothing else of it.
    whole, inputs = tiny("gemma3")
    step_of(whole, inputs)
    assert "forward" in vars(whole.model.language_model.norm)
    assert "liger_handle" not in vars(whole)
    revert("gemma3_text")
    assert "forward" not in vars(text.model.norm)
    assert "post_init" not in vars(transformers.Gemma3PreTrainedModel)


def test_a_tower_belongs_to_the_whole_and_not_to_the_text():
    families = {name: FAMILY_OF_TYPE[name] for name in ("gemma4", "gemma4_text")}
    assert covers(families["gemma4"], "gemma4_vision")
    assert not covers(families["gemma4_text"], "gemma4_vision")
    assert not covers(families["gemma4"], "gemma4_text")


def test_what_was_put_over_a_class_goes_on():
    base, seen = transformers.LlamaPreTrainedModel, []
    monkey_patch.apply_liger_kernel_to_llama()
    ours = base.post_init
    base.post_init = lambda model: (seen.append(model), ours(model))[1]
    try:
        revert("llama")
        model = build()
    finally:
        del base.post_init
    assert model in seen
    assert not model._forward_pre_hooks


def test_a_model_that_is_patched_by_hand_waits_no_longer():
    monkey_patch.apply_liger_kernel_to_llama()
    model = build()
    handle = monkey_patch.apply_liger_kernel_to_llama(rope=False, model=model)
    model(**batch())
    assert model.liger_handle is handle
    assert "forward" not in vars(model.model.layers[0].self_attn)
    revert("llama")
    assert handle.applied


def test_a_family_is_patched_at_the_first_forward(monkeypatch):
    before = build()
    expected = loss_and_gradients(before)
    with pytest.warns(UserWarning, match="built after it"):
        family = monkey_patch.apply_liger_kernel_to_llama()
    model = build()
    assert "forward" not in model.model.norm.__dict__
    # Weights loaded after construction are the ones that count.
    model.load_state_dict(before.state_dict())
    with counted(monkeypatch) as calls:
        assert_same_step(loss_and_gradients(model), expected)
    assert calls["fused_linear_cross_entropy"] > 0
    assert [handle.model for handle in family.handles] == [model]
    assert "forward" not in before.model.norm.__dict__
    assert "forward" not in build("Mistral").model.norm.__dict__
    other = build()
    shape = shape_of(build())
    monkey_patch.revert_liger_kernel_to_llama()
    assert shape_of(build()).keys() == shape.keys()
    assert family.bases == [transformers.LlamaPreTrainedModel]
    assert "post_init" not in vars(transformers.LlamaPreTrainedModel)
    assert "from_pretrained" not in vars(transformers.LlamaPreTrainedModel)
    for reverted in (model, other):
        assert_same_step(loss_and_gradients(reverted), expected)
        assert "forward" not in reverted.model.norm.__dict__
        assert not reverted._forward_pre_hooks
        assert not reverted.model._forward_pre_hooks


def test_the_first_step_of_a_family_is_fused_already():
    monkey_patch.apply_liger_kernel_to_qwen2()
    assert build("Qwen2")(**batch()).logits is None


def test_a_forward_that_was_put_over_one_that_waits():
    expected = loss_and_gradients(build())
    monkey_patch.apply_liger_kernel_to_llama()
    model = build()
    early = model.forward
    model.forward = lambda *args, **kwargs: early(*args, **kwargs)
    between = model.forward
    for _ in range(2):
        assert_same_step(loss_and_gradients(model), expected)
    assert model(**batch()).logits is None
    # What was kept from before the patch may be put over it as well.
    late = build()
    early = late.forward
    assert_same_step(loss_and_gradients(late), expected)
    late.forward = lambda *args, **kwargs: early(*args, **kwargs)
    assert_same_step(loss_and_gradients(late), expected)
    assert late(**batch()).logits is None
    monkey_patch.revert_liger_kernel_to_llama()
    assert model.forward is between
    for one in (model, late):
        assert one(**batch()).logits is not None


def test_a_family_keeps_no_model_alive():
    family = monkey_patch.apply_liger_kernel_to_llama()
    model = build()
    model(**batch())
    assert len(family.handles) == 1
    del model
    gc.collect()
    assert not family.handles


def test_a_family_is_patched_when_loaded(tmp_path):
    source = build()
    source.save_pretrained(tmp_path)
    expected = loss_and_gradients(source)
    del source
    monkey_patch.apply_liger_kernel_to_llama(rope=False)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.liger_handle.report().counts["rms_norm"] == (5, 5)
    assert not any(row.role == "rope" for row in model.liger_handle.report())
    assert_same_step(loss_and_gradients(model.train()), expected)


def test_auto_model_takes_its_flags_only(tmp_path):
    source = build()
    source.save_pretrained(tmp_path)
    model = AutoLigerKernelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, attn_implementation="eager", swiglu=False
    )
    assert model.config._attn_implementation == "eager"
    assert model.liger_handle.report().counts["rope"] == (2, 2)
    assert "forward" not in model.model.layers[0].mlp.__dict__
    assert_same_step(loss_and_gradients(model.train()), loss_and_gradients(source))


def test_auto_model_builds_from_a_config():
    config = build("Qwen2").config
    model = AutoLigerKernelForCausalLM.from_config(
        config, attn_implementation="eager", rope=False, relu_squared=True, layer_norm=None
    )
    assert model.config._attn_implementation == "eager"
    counts = model.liger_handle.report().counts
    assert counts["rms_norm"] == (5, 5)
    assert counts["rotary"] == (0, 2)


def test_the_instance_function_drops_what_the_family_lacks():
    handle = _apply_liger_kernel_to_instance(
        model=build(), relu_squared=True, layer_norm=True, anything=1, rope=False
    )
    assert handle.report().counts["swiglu"] == (2, 2)
    roles = {row.role for row in handle.report()}
    assert roles == {
        *("rotary", "rms_norm", "fused_add_rms_norm", "swiglu", "fused_linear_cross_entropy")
    }


def test_the_instance_function_patches_types_without_a_row():
    model = build("Olmo")
    expected = loss_and_gradients(model)
    handle = _apply_liger_kernel_to_instance(model=model, swiglu=False, anything=1)
    assert handle.report().counts["rope"] == (2, 2)
    assert handle.report().counts["glu"] == (0, 2)
    assert_same_step(loss_and_gradients(model), expected)


def test_a_second_patch_that_finds_nothing_keeps_the_handle():
    model = build()
    handle = monkey_patch.apply_liger_kernel_to_llama(model=model)
    assert _apply_liger_kernel_to_instance(model) is handle
    assert model.liger_handle is handle
    handle.unpatch()
    assert _apply_liger_kernel_to_instance(model) is not handle


def test_what_found_nothing_is_told():
    model, _ = tiny("nemotron")
    rows = {row.role: row for row in apply_of("nemotron")(model=model).report()}
    assert rows["relu_squared"].patched
    rows = {row.role: row for row in apply_of("nemotron")(model=build()).report()}
    assert rows["relu_squared"].status == "no module of this role was recognised"
    rows = apply_of("nemotron")(relu_squared=False, model=build()).report()
    assert "relu_squared" not in {row.role for row in rows}
    model, _ = tiny("llama4_text")
    rows = [row for row in apply_of("llama4")(model=model).report() if row.role == "experts"]
    assert rows
    assert all(row.status.startswith("transformers does not dispatch") for row in rows)
    model, _ = tiny("qwen2_vl_text")
    rows = {row.role: row for row in apply_of("qwen2_vl")(model=model).report()}
    assert rows["layer_norm"].status == "no module of this role was recognised"
    # Norms of heads and their rotation are one row, which answers for both.
    rows = apply_of("qwen3")(model=build("Qwen3")).report()
    assert all(row.patched for row in rows)
    # A model with a tower in one tensor has no experts.
    model, _ = tiny("internvl")
    assert not any(row.role == "experts" for row in apply_of("internvl")(model=model).report())


class Tokens(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        ids = torch.randint(3, VOCABULARY, (11,), generator=generator)
        return {"input_ids": ids, "labels": ids.clone()}


def trainer_of(model, folder):
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=2,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        seed=3,
        prediction_loss_only=True,
    )
    return transformers.Trainer(model, arguments, train_dataset=Tokens(), eval_dataset=Tokens())


def train(model, folder):
    trainer = trainer_of(model, folder)
    result = trainer.train()
    return result.training_loss, trainer.evaluate()["eval_loss"], model.state_dict()


def test_trainer_takes_the_same_two_steps(tmp_path, monkeypatch):
    expected = train(build(), tmp_path)
    model = build()
    _apply_liger_kernel_to_instance(model=model)
    with counted(monkeypatch) as calls:
        found = train(model, tmp_path)
    # Two steps of two micro-batches; evaluation keeps its logits.
    assert calls["fused_linear_cross_entropy"] == 4
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert found[1] == pytest.approx(expected[1], rel=1e-4)
    for name, weight in expected[2].items():
        assert torch.allclose(found[2][name], weight, atol=2e-4), name


def test_trainer_evaluates_with_skip_logits(tmp_path):
    model = build().eval()
    with torch.no_grad():
        expected = model(**batch()).loss
        patch(model)
        output = model(**batch(), skip_logits=True)
    assert torch.allclose(output.loss, expected)
    assert "logits" not in output


def test_trainer_evaluates_without_a_fused_loss(tmp_path):
    model = strict()
    expected = trainer_of(model, tmp_path).evaluate()["eval_loss"]
    _apply_liger_kernel_to_instance(model=model, fused_linear_cross_entropy=False)
    trainer = trainer_of(model, tmp_path)
    trainer.args.use_liger_kernel = True  # it gives skip_logits now
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-4)


class Strict(transformers.LlamaForCausalLM):
    """Takes what it names, as many models do."""

    def forward(self, input_ids, labels=None):
        return super().forward(input_ids, labels=labels)


def strict():
    model = build()
    model.__class__ = Strict
    return model.eval()


def with_own_head(model):
    """One that no loss head of ours can be made of."""
    adapt(model)
    model.lm_head = torch.nn.Sequential(model.lm_head)
    return model


@pytest.mark.parametrize(
    ("prepare", "fused"),
    [(lambda model: model, False), (with_own_head, False), (with_own_head, True)],
)
def test_skip_logits_is_taken_where_nothing_is_skipped(prepare, fused):
    model = prepare(strict())
    expected = model(**batch())
    parameters, before = inspect.signature(model.forward), shape_of(model)
    handle = patch(model, fused_linear_cross_entropy=fused)
    assert inspect.signature(model.forward) == parameters
    for one in (model, copy.deepcopy(model)):
        output = one(**batch(), skip_logits=True)
        assert torch.allclose(output.loss, expected.loss, rtol=1e-5)
        assert torch.allclose(output.logits, expected.logits, rtol=1e-4, atol=1e-5)
    # PEFT and others call the forward itself.
    assert torch.allclose(model.forward(**batch(), skip_logits=True).loss, expected.loss)
    handle.unpatch()
    assert shape_of(model) == before
    with pytest.raises(TypeError, match="skip_logits"):
        model(**batch(), skip_logits=True)


@pytest.mark.parametrize("adapters", [False, True])
def test_a_second_patch_leaves_skip_logits_to_the_loss_head(adapters):
    model = strict()
    if adapters:
        adapt(model)
    before = shape_of(model)
    handles = [patch(model, rope=False), patch(model, fused_linear_cross_entropy=False)]
    assert "logits" not in model(**batch(), skip_logits=True)
    for handle in reversed(handles):
        handle.unpatch()
    assert shape_of(model) == before
    # Nor is it taken twice.
    patch(model, fused_linear_cross_entropy=False)
    forward = model.forward
    patch(model, fused_linear_cross_entropy=False)
    assert model.forward is forward


def test_skip_logits_is_taken_in_a_compiled_model():
    model = strict()
    expected = model(**batch()).loss
    patch(model, fused_linear_cross_entropy=False)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(**batch(), skip_logits=True).loss, expected, rtol=1e-5)


def test_a_forward_of_a_trainer_goes_on_without_skip_logits():
    model = strict()
    seen = []

    def trainers(input_ids, labels=None):
        seen.append(labels)
        return Strict.forward(model, input_ids, labels)

    model.forward = trainers
    handle = patch(model, fused_linear_cross_entropy=False)
    model(**batch(), skip_logits=True)
    assert len(seen) == 1
    handle.unpatch()
    assert model.forward is trainers
