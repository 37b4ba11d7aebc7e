"""Under torch.compile no mask is made where eager attention gets none; everything else has one."""

import ast
import copy
import functools

import pytest
import torch
from liger_jit.patch import patch
from liger_jit.patch.flags import FLAGS
from liger_jit.patch.probe import Mismatch
from liger_jit.patch.rules.causal_mask import check_positions, is_exporting
from tiny_models import adapt, batch, build
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from transformers import masking_utils
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama import modeling_llama

ALONE = {name: name == "causal_mask" for name in FLAGS}
TOKENS = 11


def model_of(family="Llama", **settings):
    settings = {"attn_implementation": "sdpa", "use_cache": False} | settings
    return build(family, **settings)


def row_of(model):
    (row,) = (row for row in patch(model, **ALONE).report() if row.role == "causal_mask")
    return row


def attention_of(model, **inputs):
    """(whether scaled dot product attention was given a mask, is_causal) of a compiled forward,
    which has the logits of the eager one."""
    torch._dynamo.reset()
    seen = set()

    def backend(graph, examples):
        for node in graph.graph.nodes:
            if "scaled_dot_product_attention" in str(node.target):
                asked = node.kwargs
                seen.add((asked.get("attn_mask") is not None, asked.get("is_causal", False)))
        return graph.forward

    expected = model(**inputs).logits
    found = torch.compile(model, backend=backend, fullgraph=True)(**inputs).logits
    torch.testing.assert_close(found, expected)
    return seen


OTHERS = (
    *("input_ids.cumsum(-1)", "torch.arange(0, n, 2)", "torch.arange(n) * 2", "self.p"),
    *("torch.arange(n).view(2, -1)", "torch.arange(n).expand(-1, b)", "torch.arange(n) + self.p"),
)
MASKED, CAUSAL = {(True, False)}, {(False, True)}


@pytest.mark.parametrize("family", ["Llama", "Olmo2", "Qwen3"])
@pytest.mark.parametrize("use_cache", [False, True])
def test_a_compiled_forward_that_is_given_ids_alone_is_told_that_it_is_causal(family, use_cache):
    model = model_of(family, use_cache=use_cache)
    ids = {"input_ids": batch()["input_ids"]}
    if not use_cache:
        # This is what is wanted of the patch: without it there is a mask.
        assert attention_of(model, **ids) == MASKED
    assert row_of(model).patched
    assert attention_of(model, **ids) == CAUSAL


def packed():
    positions = torch.cat((torch.arange(5), torch.arange(TOKENS - 5)))
    return {"position_ids": positions.expand(2, -1)}


def padded():
    mask = torch.ones(2, TOKENS, dtype=torch.long)
    mask[0, :3] = 0
    return {"attention_mask": mask}


@pytest.mark.parametrize("given", [packed, padded], ids=lambda given: given.__name__)
def test_what_is_given_is_masked(given):
    model = model_of()
    assert row_of(model).patched
    assert attention_of(model, input_ids=batch()["input_ids"], **given()) == MASKED


def test_a_compiled_step_is_the_eager_one():
    model = model_of()
    expected = model(**batch()).loss
    patch(model)
    loss = torch.compile(model, backend="aot_eager")(**batch()).loss
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_attention_that_cannot_be_told_keeps_its_mask():
    rows = patch(model_of(attn_implementation="eager"), **ALONE).report()
    assert not any(row.role == "causal_mask" for row in rows)


def test_what_eager_gives_a_mask_keeps_it(monkeypatch):
    interface = masking_utils.ALL_MASK_ATTENTION_FUNCTIONS
    own = interface["sdpa"]
    always = lambda *args, **named: own(*args, **named | {"allow_is_causal_skip": False})  # noqa: E731
    monkeypatch.setitem(interface._global_mapping, "sdpa", always)
    model = model_of()
    assert "without torch.compile as well" in row_of(model).status
    monkeypatch.undo()
    # And where that comes after the patch.
    model = model_of()
    assert row_of(model).patched
    monkeypatch.setitem(interface._global_mapping, "sdpa", always)
    assert attention_of(model, input_ids=batch()["input_ids"]) == MASKED


def attends_by_a_mask(module, query, key, value, attention_mask, scaling=None, **_):
    groups = module.num_key_value_groups
    key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    attend = torch.nn.functional.scaled_dot_product_attention
    return attend(query, key, value, attention_mask, scale=scaling).transpose(1, 2), None


def test_attention_that_masks_only_where_it_is_given_a_mask_keeps_it(monkeypatch):
    def made(model):
        torch._dynamo.reset()
        return torch.compile(model, backend="eager")(batch()["input_ids"]).logits

    model = model_of()
    assert row_of(model).patched
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "sdpa", attends_by_a_mask)
    expected = made(model_of())
    torch.testing.assert_close(made(model), expected)
    # And where that comes before the patch.
    model = model_of()
    assert "attends_by_a_mask" in row_of(model).status
    torch.testing.assert_close(made(model), expected)


def test_attention_that_is_said_not_to_be_causal_keeps_its_mask():
    model = model_of()
    all_see_all(model)
    assert "none of its attention is causal" in row_of(model).status


class AttendsByAMask(torch.nn.Module):
    """Sees all that no mask hides."""

    def __init__(self, own):
        super().__init__()
        self.own, self.layer_idx = own, own.layer_idx

    def forward(self, hidden_states, attention_mask=None, **_):
        heads = (*hidden_states.shape[:-1], -1, self.own.head_dim)
        query, key, value = (
            getattr(self.own, name)(hidden_states).view(heads).transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        attended, _ = attends_by_a_mask(self.own, query, key, value, attention_mask)
        return self.own.o_proj(attended.reshape(hidden_states.shape)), None


def all_see_all(model):
    for layer in model.model.layers:
        layer.self_attn.is_causal = False


def one_sees_all(model):
    model.model.layers[1].self_attn.is_causal = False


def a_class_that_sees_all(model):
    own = model.model.layers[0].self_attn
    own.__class__ = type("Bidirectional", (type(own),), {"is_causal": False})


def another_module(model):
    model.model.layers[0].self_attn = AttendsByAMask(model.model.layers[0].self_attn)


def another_forward(model):
    own = model.model.layers[0].self_attn
    own.forward = functools.partial(AttendsByAMask.forward, AttendsByAMask(copy.copy(own)))


def another_module_in_a_wrapper(model):
    another_module(model)
    model.model.layers[0] = checkpoint_wrapper(model.model.layers[0])


def a_hook_on_attention(model):
    model.model.layers[0].self_attn.register_forward_pre_hook(sees_all, with_kwargs=True)


def a_hook_on_a_layer(model):
    model.model.layers[0].register_forward_pre_hook(sees_all, with_kwargs=True)


def sees_all(_, given, named):
    return given, {**named, "is_causal": False}


def a_cover_that_edits_masks(model):
    layer = model.model.layers[0]
    own = layer.forward

    def edits(hidden_states, attention_mask=None, **named):
        if attention_mask is not None:
            attention_mask = attention_mask.clone()
            attention_mask[..., 5:, :5] = False
        return own(hidden_states, attention_mask=attention_mask, **named)

    layer.forward = edits


def another_implementation_in_one(model):
    own = model.model.layers[0].self_attn
    own.config = copy.deepcopy(own.config)
    own.config._attn_implementation = "eager"


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "change",
    [
        *(all_see_all, one_sees_all, a_class_that_sees_all, another_module, another_forward),
        *(another_module_in_a_wrapper, a_hook_on_attention, a_hook_on_a_layer),
        *(a_cover_that_edits_masks, another_implementation_in_one),
    ],
)
def test_each_attention_must_be_causal_by_itself(change, when):
    plain, model = model_of(), model_of()
    change(plain)
    if when == "before":
        change(model)
    patch(model, **ALONE)
    if when == "after":
        change(model)
    losses = []
    for one in (plain, model):
        torch._dynamo.reset()
        losses.append(torch.compile(one, backend="eager")(**batch(ignored=False)).loss)
    torch.testing.assert_close(*losses, rtol=1e-6, atol=1e-6)


def test_what_leaves_masks_alone_keeps_it_unneeded():
    model = model_of()
    adapt(model)
    patch(model, **ALONE)
    model.model.layers[0] = checkpoint_wrapper(model.model.layers[0])
    model.model.layers[1].mlp.register_forward_hook(lambda module, given, made: None)
    assert attention_of(model, input_ids=batch()["input_ids"]) == CAUSAL


def test_what_is_set_after_the_patch_counts():
    model = model_of()
    assert row_of(model).patched
    model.config._attn_implementation = "eager"
    assert CAUSAL != attention_of(model, input_ids=batch()["input_ids"])
    model.config._attn_implementation = "sdpa"
    assert attention_of(model, input_ids=batch()["input_ids"]) == CAUSAL


def test_another_function_for_masks_is_called(monkeypatch):
    model = model_of()
    assert row_of(model).patched
    asked = []

    def own(**named):
        asked.append(named)
        return masking_utils.create_causal_mask(**named)

    monkeypatch.setattr(modeling_llama, "create_causal_mask", own)
    assert attention_of(model, input_ids=batch()["input_ids"]) == MASKED
    assert asked
    # And one that is there before a patch is not taken for transformers'.
    assert "not that of transformers" in row_of(model_of()).status


def test_positions_that_are_not_counted_are_looked_at():
    source = """
def forward(self, input_ids, attention_mask=None, position_ids=None):
    if position_ids is None:
        position_ids = {positions}
    return create_causal_mask(position_ids=position_ids)
"""

    def check(positions):
        check_positions(ast.parse(source.format(positions=positions)).body[0])

    check("torch.arange(n, device=d)")
    check("(torch.arange(n, device=d) + seen).unsqueeze(0)")
    check("torch.arange(seen, seen + n, device=d)")
    check("(torch.arange(n) + 2).view(1, 1, -1).expand(4, b, -1)")
    for other in OTHERS:
        with pytest.raises(Mismatch, match="may not be one after the other"):
            check(other)


def test_it_is_taken_back():
    model = model_of()
    ids = {"input_ids": batch()["input_ids"]}
    handle = patch(model, **ALONE)
    assert "forward" in vars(model.model)
    handle.unpatch()
    assert "forward" not in vars(model.model)
    assert attention_of(model, **ids) == MASKED


def test_an_exported_program_has_its_mask_whatever_its_attention_says():
    model = model_of().eval()
    ids = {"input_ids": batch()["input_ids"]}

    def exported():
        with torch.no_grad():
            return torch.export.export(model, (), ids, strict=False).module()(**ids).logits

    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    expected = exported()
    for layer in model.model.layers:
        layer.self_attn.is_causal = True
    assert row_of(model).patched
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    torch.testing.assert_close(exported(), expected)


@pytest.mark.parametrize("place", ["mask", "attention"])
def test_a_wrapper_is_not_transformers_own(place, monkeypatch):
    """Though it says that it comes from there."""
    calls = []
    mapping = ALL_ATTENTION_FUNCTIONS._global_mapping
    own = modeling_llama.create_causal_mask if place == "mask" else mapping["sdpa"]

    @functools.wraps(own)
    def logged(*args, **kwargs):
        calls.append(None)
        return own(*args, **kwargs)

    if place == "mask":
        monkeypatch.setattr(modeling_llama, "create_causal_mask", logged)
    else:
        monkeypatch.setitem(mapping, "sdpa", logged)
    assert not row_of(model_of()).patched
    assert place == "attention" or not calls


def test_what_is_compiled_is_not_exported():
    class Asks(torch.nn.Module):
        def forward(self, x):
            return x + 1 if is_exporting() else x - 1

    x = torch.zeros(2)
    assert torch.compile(Asks(), backend="eager", fullgraph=True)(x).tolist() == [-1, -1]
    for strict in (False, True):
        assert torch.export.export(Asks(), (x,), strict=strict).module()(x).tolist() == [1, 1]
    assert Asks()(x).tolist() == [-1, -1]
