"""A patch that was taken back and comes again: it leaves what the user put there in between."""

import copy

import accelerate
import pytest
import torch
from liger_jit.patch import patch
from tiny_models import assert_same_step, batch, build, counted, loss_and_gradients, shape_of
from torch.nn import functional as F


def small():
    return build(num_hidden_layers=1)


def compiled(model):
    torch._dynamo.reset()
    return torch.compile(model, backend="aot_eager", fullgraph=True)


def step(model, how=lambda model: model):
    loss, gradients = loss_and_gradients(how(model))
    return loss, {name.removeprefix("_orig_mod."): g for name, g in gradients.items()}


def smoothed(logits, labels, vocab_size, **kwargs):
    rows, target = logits[:, :-1].reshape(-1, vocab_size), labels[:, 1:].reshape(-1)
    return F.cross_entropy(rows, target, label_smoothing=0.3)


def set_loss(model):
    model.loss_function = smoothed


class WithAWeight(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(1.5))

    def forward(self, logits, labels, vocab_size, **kwargs):
        return smoothed(logits, labels, vocab_size) * self.weight


def set_module_as_loss(model):
    model._loss_function = WithAWeight()


def set_forward_of_head(model):
    own = model.lm_head.forward
    model.lm_head.forward = lambda states: own(states) * 2


def set_forward(model):
    own = model.forward

    def forward(*args, **kwargs):
        output = own(*args, **kwargs)
        output.loss = output.loss * 3
        return output

    model.forward = forward


def set_forward_of_norm(model):
    own = model.model.norm.forward
    model.model.norm.forward = lambda x: own(x) * 2


def places(model):
    forwards = [vars(one).get("forward") for one in (model, model.lm_head, model.model.norm)]
    return [*forwards, vars(model).get("_loss_function")]


CHANGES = {
    "loss": set_loss,
    "loss with a weight": set_module_as_loss,
    "head": set_forward_of_head,
    "model": set_forward,
    "norm": set_forward_of_norm,
}


@pytest.mark.parametrize("how", [lambda model: model, compiled], ids=["eager", "compiled"])
@pytest.mark.parametrize("change", CHANGES)
def test_what_was_set_in_between_counts_and_stays(change, how):
    model, own = small(), small()
    handle = patch(model)
    handle.unpatch()
    for one in (model, own):
        CHANGES[change](one)
    before, expected = places(model), step(own)
    for _ in range(2):
        handle.apply()
        assert_same_step(step(model, how), expected)
        handle.unpatch()
        assert places(model) == before
        assert_same_step(step(model), expected)


def test_a_loss_with_a_weight_that_was_set_over_ours_stays():
    model, own = small(), small()
    handle = patch(model)
    for one in (model, own):
        set_module_as_loss(one)
    expected = step(own)
    for _ in range(2):
        handle.unpatch()
        handle.apply()
        for one in (model, copy.deepcopy(model)):
            assert_same_step(step(one), expected)


@pytest.mark.parametrize(
    ("change", "path"), [("head", "lm_head"), ("norm", "model.norm")], ids=["head", "norm"]
)
def test_the_report_says_what_stayed_out(change, path):
    model = small()
    handle = patch(model)

    def status():
        return {row.path: row.status for row in handle.report()}[path]

    handle.unpatch()
    CHANGES[change](model)
    handle.apply()
    assert "already replaced on the instance" in status()
    assert sum(not row.patched for row in handle.report()) == 1
    handle.unpatch()
    del model.get_submodule(path).forward
    handle.apply()
    assert status() == "patched"


def test_what_stayed_out_comes_in_when_its_place_is_free_again(monkeypatch):
    for change, free in (
        (set_loss, lambda model: vars(model).pop("_loss_function")),
        (set_forward_of_head, lambda model: vars(model.lm_head).pop("forward")),
    ):
        model = small()
        handle = patch(model)
        patched = shape_of(model)
        handle.unpatch()
        change(model)
        handle.apply()
        handle.unpatch()
        free(model)
        handle.apply()
        assert shape_of(model) == patched
        with counted(monkeypatch) as calls:
            step(model)
        assert calls["fused_linear_cross_entropy"] == 1


def test_a_head_that_stays_out_takes_skip_logits_still():
    model = small()
    handle = patch(model)
    handle.unpatch()
    set_forward_of_head(model)
    handle.apply()
    assert model(**batch(), skip_logits=True).logits is not None


@pytest.mark.parametrize("first", [0, 1])
def test_a_handle_that_comes_back_leaves_a_later_one_in_its_place(first, monkeypatch):
    model = small()
    shape = shape_of(model)
    handles = [patch(model)]
    handles[0].unpatch()
    handles.append(patch(model))
    handles[0].apply()
    statuses = {row.status for row in handles[0].report()}
    assert statuses == {"already patched"}
    with counted(monkeypatch) as calls:
        output = model(**batch(), return_token_accuracy=True)
    assert calls["fused_linear_cross_entropy"] == 1 and output.token_accuracy is not None
    for handle in (handles[first], handles[1 - first]):
        handle.unpatch()
    assert shape_of(model) == shape


def test_arguments_of_a_forward_that_was_set_in_between_are_its_own():
    model = small()
    handle = patch(model)
    handle.unpatch()
    own, asked = model.forward, []

    def forward(*args, return_token_accuracy=None, **kwargs):
        asked.append(return_token_accuracy)
        return own(*args, **kwargs)

    model.forward = forward
    handle.apply()
    model(**batch(), return_token_accuracy="mine")
    assert asked == ["mine"]


def test_a_copy_of_a_handle_that_is_off_leaves_them_as_well():
    model = small()
    model.handle = patch(model)
    model.handle.unpatch()
    twin, own = copy.deepcopy(model), small()
    for one in (twin, own):
        set_loss(one)
    twin.handle.apply()
    assert_same_step(step(twin), step(own))
    model.handle.apply()
    assert_same_step(step(model), step(small()))


def test_a_head_that_hooks_of_accelerate_gave_back_can_be_patched_again(monkeypatch):
    model = small()
    before = places(model)
    handle = patch(model)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    handle.unpatch()
    accelerate.hooks.remove_hook_from_submodules(model)
    again = patch(model)
    assert again.report()[-1].status == "patched"
    with counted(monkeypatch) as calls:
        assert_same_step(step(model), step(small()))
    assert calls["fused_linear_cross_entropy"] == 1
    again.unpatch()
    assert places(model)[1:] == before[1:]
    handle.apply()
    with counted(monkeypatch) as calls:
        step(model)
    assert calls["fused_linear_cross_entropy"] == 1
