"""Liger's functions by name: signatures, one instance, whole families, loading, the Trainer."""

import gc
import inspect

import pytest
import torch
import transformers
from liger_jit.patch import patch
from liger_jit.transformers import monkey_patch
from liger_jit.transformers.auto_model import AutoLigerKernelForCausalLM
from liger_jit.transformers.monkey_patch import (
    MODEL_TYPE_TO_APPLY_LIGER_FN,
    _apply_liger_kernel_to_instance,
)
from tiny_models import (
    FAMILIES,
    VOCABULARY,
    assert_same_step,
    batch,
    build,
    counted,
    loss_and_gradients,
    shape_of,
)

COMMON = ["rope", "cross_entropy", "fused_linear_cross_entropy", "rms_norm"]


@pytest.fixture(autouse=True)
def no_family_stays_patched():
    yield
    for model_type in MODEL_TYPE_TO_APPLY_LIGER_FN:
        getattr(monkey_patch, f"revert_liger_kernel_to_{model_type}")()


@pytest.mark.parametrize("family", FAMILIES)
def test_signatures(family):
    name = f"apply_liger_kernel_to_{family.lower()}"
    function = getattr(monkey_patch, name)
    assert MODEL_TYPE_TO_APPLY_LIGER_FN[family.lower()] is function
    parameters = inspect.signature(function).parameters
    assert list(parameters) == [*COMMON, "geglu" if family == "Gemma" else "swiglu", "model"]
    assert [p.default for p in parameters.values()] == [True, False, True, True, True, None]
    assert function.__name__ == name
    assert family in function.__doc__
    with pytest.raises(TypeError):
        function(layer_norms=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_instance(family):
    model = build(family)
    expected = loss_and_gradients(model)
    apply = MODEL_TYPE_TO_APPLY_LIGER_FN[family.lower()]
    handle = apply(rope=None, model=model)
    roles = {row.role for row in handle.report() if row.patched}
    gate = "geglu" if family == "Gemma" else "swiglu"
    assert roles == {"rms_norm", "fused_add_rms_norm", gate, "fused_linear_cross_entropy"}
    assert_same_step(loss_and_gradients(model), expected)


def test_a_family_is_patched_at_the_first_forward(monkeypatch):
    before = build()
    expected = loss_and_gradients(before)
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
    assert "post_init" not in family.base_class.__dict__
    assert "from_pretrained" not in family.base_class.__dict__
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
    monkey_patch.apply_liger_kernel_to_llama(rope=False)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.liger_handle.report().counts["rms_norm"] == (5, 5)
    assert not any(row.role == "rope" for row in model.liger_handle.report())
    expected = loss_and_gradients(source)
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


def test_instance_function_ignores_foreign_flags(caplog):
    handle = _apply_liger_kernel_to_instance(model=build(), relu_squared=True, rope=False)
    assert "relu_squared" in caplog.text
    assert handle.report().counts["swiglu"] == (2, 2)


class Tokens(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        ids = torch.randint(3, VOCABULARY, (11,), generator=generator)
        return {"input_ids": ids, "labels": ids.clone()}


def train(model, folder):
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
    trainer = transformers.Trainer(model, arguments, train_dataset=Tokens(), eval_dataset=Tokens())
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
