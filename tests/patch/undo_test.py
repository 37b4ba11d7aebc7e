"""The way back, and what a patch must not reach: other models, copies, saved weights."""

import copy
import io
import itertools
import pickle

import pytest
import torch
from liger_jit import functional
from liger_jit.patch import patch
from tiny_models import (
    FAMILIES,
    assert_same_step,
    batch,
    build,
    counted,
    loss_and_gradients,
    shape_of,
)


def same_bits(found, expected):
    return torch.equal(found[0], expected[0]) and all(
        torch.equal(found[1][name], gradient) for name, gradient in expected[1].items()
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_unpatch_restores_everything(family):
    model = build(family, torch.bfloat16)
    expected, shape = loss_and_gradients(model), shape_of(model)
    handle = patch(model)
    loss_and_gradients(model)
    assert shape_of(model) != shape
    handle.unpatch()
    assert shape_of(model) == shape
    assert same_bits(loss_and_gradients(model), expected)
    handle.unpatch()
    assert shape_of(model) == shape


def test_a_class_forward_that_stood_in_a_module_stands_there_again():
    """As recorders of outputs leave it in each layer."""
    model = build()
    for module in (*model.model.layers, model.model.norm):
        module.forward = type(module).forward.__get__(module)
    shape = shape_of(model)
    for of in (model, copy.deepcopy(model)):
        handle = patch(of)
        assert "fused_add_rms_norm" in {row.role for row in handle.report() if row.patched}
        handle.unpatch()
        assert shape_of(of).keys() == shape.keys() and "forward" in vars(of.model.norm)
    assert shape_of(model) == shape


def another_class_forward(module):
    own = type(module).forward
    module.__class__ = type("Another", (type(module),), {"forward": lambda *args, **named: own})


def covered_and_another_class_forward(module):
    taken = module.forward
    module.forward = lambda *args, **named: taken(*args, **named)
    another_class_forward(module)


@pytest.mark.parametrize("change", [another_class_forward, covered_and_another_class_forward])
def test_no_later_forward_of_a_class_counts_where_one_stood_in_a_module(change):
    model = build()
    parts = ["model.norm", "model.layers.0", "model.layers.0.mlp", "model.layers.0.self_attn"]
    for path in parts:
        module = model.get_submodule(path)
        module.forward = type(module).forward.__get__(module)
    expected = loss_and_gradients(model)
    handle = patch(model)
    twin = copy.deepcopy(model)
    assert_same_step(loss_and_gradients(model), expected)
    for of in (model, twin):
        for path in parts:
            change(of.get_submodule(path))
        for _ in range(2):
            assert_same_step(loss_and_gradients(of), expected)
    handle.unpatch()
    assert_same_step(loss_and_gradients(model), expected)


BORROWED = ["post_attention_layernorm", "input_layernorm", "mlp", "self_attn.q_norm"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("path", BORROWED)
def test_a_forward_that_a_module_has_from_another_is_that_ones(path, when):
    model = build("Qwen3", num_hidden_layers=2)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(torch.rand_like(weight) + 0.5)
    own, patched = copy.deepcopy(model), copy.deepcopy(model)
    handle = patch(patched) if when == "after" else None
    for one in (model, patched):
        layers = one.model.layers
        layers[0].get_submodule(path).forward = layers[1].get_submodule(path).forward
    handle = handle or patch(patched)
    expected = loss_and_gradients(model)
    assert not torch.equal(loss_and_gradients(own)[0], expected[0])
    for _ in range(2):
        assert_same_step(loss_and_gradients(patched), expected)
        handle.unpatch()
    assert "forward" in vars(patched.model.layers[0].get_submodule(path))


def test_handles_of_different_roles_are_undone_in_any_order():
    for first in (0, 1):
        model = build()
        shape = shape_of(model)
        handles = [
            patch(model, rope=False, fused_linear_cross_entropy=False),
            patch(model),
        ]
        statuses = {row.status for row in handles[1].report() if row.role in ("norm", "glu")}
        assert statuses == {"already patched"}
        handles[first].unpatch()
        handles[1 - first].unpatch()
        assert shape_of(model) == shape


@pytest.mark.parametrize("order", [*itertools.permutations(range(3))])
def test_handles_of_several_heads_are_undone_in_any_order(order):
    model = build()
    step, shape = loss_and_gradients(model), shape_of(model)
    own, handles, forwards = model.lm_head, [], []
    for _ in range(3):
        model.set_output_embeddings(copy.deepcopy(own))
        handles.append(patch(model))
        forwards.append(model.forward)
    for again in (False, True):
        for index in order:
            handles[index].unpatch()
            assert_same_step(loss_and_gradients(model), step)
        model.set_output_embeddings(own)
        assert shape_of(model) == shape
        if again:
            break
        # What was taken out from under another is put in again, alone and with the others.
        for handle, forward in reversed([*zip(handles, forwards, strict=True)]):
            with handle:
                handle.apply()
                assert model.forward is forward
            assert shape_of(model) == shape
        for handle in handles:
            handle.apply()


def test_a_second_patch_finds_everything_patched():
    model = build()
    first = patch(model)
    between = shape_of(model)
    second = patch(model)
    assert {row.status for row in second.report()} == {"already patched"}
    second.unpatch()
    assert shape_of(model) == between
    assert first.applied


def test_context_manager():
    model = build()
    shape = shape_of(model)
    with pytest.raises(KeyError), patch(model) as handle:
        assert handle.applied
        raise KeyError
    assert shape_of(model) == shape


def test_an_operator_that_fails_leaves_the_model_as_it_was(monkeypatch):
    model = build()
    shape = shape_of(model)

    def no_compiler(*args, **kwargs):
        raise RuntimeError("no compiler found")

    monkeypatch.setattr(functional, "swiglu", no_compiler)
    with pytest.raises(RuntimeError, match="no compiler found"):
        patch(model)
    assert shape_of(model) == shape


def test_a_failing_change_undoes_those_before_it():
    model = build()
    shape = shape_of(model)
    handle = patch(model)
    handle.unpatch()

    class Failing:
        def apply(self):
            raise OSError("disk on fire")

    handle._changes.append(Failing())
    with pytest.raises(OSError):
        handle.apply()
    assert shape_of(model) == shape


def test_another_model_of_the_class_is_untouched(monkeypatch):
    model, other = build(), build()
    shape = shape_of(other)
    patch(model)
    with counted(monkeypatch) as calls:
        loss_and_gradients(other)
    assert not calls
    assert shape_of(other) == shape


def test_a_deep_copy_is_patched_on_its_own_weights(monkeypatch):
    model = build()
    handle = patch(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(0.9)
    reference = build()
    reference.load_state_dict(twin.state_dict())
    expected = loss_and_gradients(reference)
    with counted(monkeypatch) as calls:
        assert_same_step(loss_and_gradients(twin), expected)
    assert (calls["rms_norm"], calls["fused_add_rms_norm"]) == (3, 2)
    assert calls["fused_linear_cross_entropy"] == 1
    handle.unpatch()
    assert_same_step(loss_and_gradients(twin), expected)


def test_a_handle_kept_on_the_model_is_copied_and_saved_with_it():
    model = build()
    shape = shape_of(model)
    model.liger_handle = patch(model)
    twin = copy.deepcopy(model)
    twin.liger_handle.unpatch()
    del twin.liger_handle
    assert shape_of(twin) == shape
    assert model.liger_handle.applied
    loaded = pickle.loads(pickle.dumps(model))
    assert loaded.liger_handle.report() == model.liger_handle.report()


def test_state_dict_keys_stay():
    model = build()
    keys = list(model.state_dict())
    patch(model)
    assert list(model.state_dict()) == keys
    assert not model.load_state_dict(build().state_dict()).missing_keys


def test_a_saved_model_loads_with_the_forwards_of_its_classes():
    model = build().eval()
    patch(model)
    expected = loss_and_gradients(model)
    loaded = pickle.loads(pickle.dumps(model))
    assert_same_step(loss_and_gradients(loaded), expected)
    stored = io.BytesIO()
    torch.save(model, stored)
    stored.seek(0)
    loaded = torch.load(stored, weights_only=False)
    assert "forward" not in loaded.model.norm.__dict__ or loaded.model.norm.forward.__func__ is (
        type(loaded.model.norm).forward
    )
    counts = patch(loaded).report().counts
    assert counts["rms_norm"] == (5, 5)
    assert_same_step(loss_and_gradients(loaded), expected)


def test_modes_and_moves_keep_the_patch(monkeypatch):
    model = build()
    patch(model)
    model.eval().train().to(torch.float64).to(torch.float32).requires_grad_(True)
    with counted(monkeypatch) as calls:
        loss_and_gradients(model)
    assert calls["fused_linear_cross_entropy"] == 1
    assert calls["rope"] == 2


def test_verify_passes_and_names_what_differs(monkeypatch):
    model = build()
    handle = patch(model)
    result = handle.verify()
    assert result.passed
    assert handle.applied
    assert model.training
    right = functional.gated_mlp
    monkeypatch.setattr(functional, "gated_mlp", lambda *inputs: right(*inputs) * 1.1)
    with pytest.raises(RuntimeError, match="gradient of model"):
        handle.verify()
    assert handle.applied
    handle.unpatch()
    with pytest.raises(RuntimeError, match="taken back"):
        handle.verify()


def test_meta_calls_replay_each_distinct_call(monkeypatch):
    model = build("Qwen3")
    handle = patch(model)
    replay = handle.meta_calls(batch=2, tokens=16)
    with counted(monkeypatch) as calls:
        replay()
    # Two widths of norms: hidden, and one head. The loss with a number of items and without. The
    # activation and the rotation stand in for the MLP and for norms with their rotation.
    once = ("fused_add_rms_norm", "gated_mlp", "qk_norm_rope", "swiglu", "rope")
    assert calls == {"rms_norm": 2, **dict.fromkeys(once, 1), "fused_linear_cross_entropy": 2}


def test_report_reads_as_a_table():
    text = str(patch(build()).report())
    assert "model.layers.1.self_attn" in text
    assert "rms_norm: 5 of 5 patched" in text


def test_labels_do_not_reach_a_later_call():
    model = build()
    patch(model)
    model(**batch())
    assert type(model(input_ids=batch()["input_ids"]).logits) is torch.Tensor


def test_a_forward_put_on_between_undo_and_the_next_apply_is_called():
    model = build()
    handle = patch(model)
    handle.unpatch()
    calls, own = [], model.forward

    def wrapper(*args, **kwargs):
        calls.append(1)
        return own(*args, **kwargs)

    model.forward = wrapper
    handle.apply()
    model(**batch())
    assert calls == [1]
    handle.unpatch()
    assert model.forward is wrapper


def test_verify_leaves_every_mode_and_buffer_as_it_was():
    class Counting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))
            self.register_buffer("last", torch.zeros(()))

        def forward(self, module, inputs, output):
            self.seen += 1
            self.last = self.seen * 2

    model = build().train()
    model.model.layers[0].eval()
    counting = Counting()
    model.counting = counting
    model.lm_head.register_forward_hook(counting)
    before = counting.last
    handle = patch(model)
    assert handle.verify().passed
    assert counting.seen == 0
    assert counting.last is before
    modes = {path: module.training for path, module in model.named_modules()}
    assert modes == {path: not path.startswith("model.layers.0") for path in modes}
