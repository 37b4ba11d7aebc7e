"""The life of a patch: hooks, wrappers and threads that come and go while it is there."""

import threading

import torch
from liger_jit.patch import patch
from liger_jit.patch.installed import KEY
from tiny_models import assert_same_step, batch, build, counted, loss_and_gradients, shape_of
from torch import nn
from torch.nn import functional as F


def test_a_hook_that_a_projection_puts_on_a_norm_comes_too_late_for_this_call():
    def seen_by(model):
        seen, attention = [], model.model.layers[0].self_attn

        def put(*args):
            attention.q_norm.register_forward_hook(lambda *rest: seen.append(1))

        attention.v_proj.register_forward_hook(put)
        loss_and_gradients(model)
        return seen

    patched = build("Qwen3")
    patch(patched)
    assert seen_by(patched) == seen_by(build("Qwen3"))


def test_a_patch_that_is_taken_back_inside_a_forward():
    model = build("Qwen3")
    expected = loss_and_gradients(model)
    handle = patch(model)
    hook = model.model.layers[0].self_attn.v_proj.register_forward_hook(
        lambda *args: handle.unpatch()
    )
    assert_same_step(loss_and_gradients(model), expected)
    hook.remove()
    assert_same_step(loss_and_gradients(model), expected)


def test_a_forward_that_the_user_deletes_is_gone_and_comes_back_with_apply(monkeypatch):
    model = build()
    shape = shape_of(model)
    handle = patch(model)
    del model.model.norm.forward
    handle.unpatch()
    assert shape_of(model) == shape
    handle.apply()
    with counted(monkeypatch) as calls:
        loss_and_gradients(model)
    assert calls["rms_norm"] == 3
    del model.model.norm.forward
    handle.apply()  # applied already: what the user took out stays out
    assert KEY in model.model.norm.__dict__


def test_what_a_hook_of_accelerate_leaves_can_be_patched_again(monkeypatch):
    from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module

    model = build()
    handle = patch(model)
    norm = model.model.norm
    add_hook_to_module(norm, ModelHook())
    handle.unpatch()
    remove_hook_from_module(norm)
    status = {row.path: row.status for row in patch(model).report()}["model.norm"]
    assert status == "patched"
    with counted(monkeypatch) as calls:
        loss_and_gradients(model)
    assert calls["rms_norm"] == 3


class Plain(nn.Module):
    def forward(self, x):
        return F.silu(x)


def test_a_compiled_activation_is_called(monkeypatch):
    model = build()
    mlp = model.model.layers[0].mlp
    mlp.act_fn = Plain()
    patch(model)
    with counted(monkeypatch) as calls:
        loss_and_gradients(model)
    assert calls["gated_mlp"] == 2
    called = []

    def backend(graph, inputs):
        called.append(1)
        return graph.forward

    torch._dynamo.reset()
    mlp.act_fn.compile(backend=backend)
    loss_and_gradients(model)
    assert called


def test_models_may_be_patched_on_several_threads():
    models, failed = [build() for _ in range(4)], []

    def work(model):
        try:
            patch(model)
        except BaseException as trouble:
            failed.append(trouble)

    threads = [threading.Thread(target=work, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_hooks_on_saved_tensors_and_modes_do_not_see_the_probes():
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    def pack(tensor):
        seen.append(tensor)
        return tensor

    model = build("Qwen3")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), Watching():
        patch(model, fused_linear_cross_entropy=False)
    assert not seen


def test_a_forward_that_is_covered_and_comes_back_stays():
    model = build()
    first = patch(model, fused_linear_cross_entropy=False)
    second = patch(model)
    first.unpatch()
    first.apply()
    second.unpatch()
    assert model(**batch(), skip_logits=False).loss is not None
    first.unpatch()
    assert "forward" not in model.__dict__
