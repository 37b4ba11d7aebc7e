"""Functions of torch that somebody has replaced, before or after this package was imported."""

import functools
import math
import os
import re
import subprocess
import sys
import types

import pytest
import torch
from liger_jit.patch import patch
from liger_jit.patch.source.torchs_own import is_torchs, taken, torchs_name
from tiny_models import assert_same_step, build, loss_and_gradients
from torch import nn
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import LlamaRMSNorm


def test_by_what_name_torch_defines_a_function():
    assert torchs_name(nn.Linear.forward) == "Linear.forward"
    assert torchs_name(F.silu) == "silu"
    assert torchs_name(F.linear) == "linear"
    assert torchs_name(torch.rsqrt) == "rsqrt"
    assert torchs_name(math.sqrt) == "sqrt"
    assert is_torchs(torch.Tensor.pow, "pow")
    assert is_torchs(torch.Tensor.split, "split")
    assert is_torchs(torch.special.erf, "erf")


def with_code_of(code):
    function = types.FunctionType(F.silu.__code__, vars(F))
    function.__code__ = code
    return function


@pytest.mark.parametrize(
    "other",
    [
        functools.wraps(F.silu)(lambda *args, **named: F.silu(*args, **named)),
        with_code_of((lambda x: 2 * x).__code__),
        torch.compiler.disable(F.silu),
        functools.partial(F.silu),
        F.relu,
        "silu".strip,
        [].append,
    ],
)
def test_what_only_says_so_is_not_torchs(other):
    assert taken(other, "silu") is None


def lora_forward(self, x):
    """As a file of adapters puts it over all linear layers, with a name of torch's on it."""
    y = F.linear(x, self.weight, self.bias)
    return y if getattr(self, "lora", None) is None else y + x @ self.lora.T


def with_lora(model):
    for index, layer in enumerate(m for m in model.modules() if type(m) is nn.Linear):
        generator = torch.Generator().manual_seed(index)
        noise = torch.randn(layer.weight.shape, generator=generator)
        layer.lora = nn.Parameter(0.05 * noise)
    return model


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_forward_of_all_linear_layers_is_run(monkeypatch, when, compiled):
    def change():
        monkeypatch.setattr(nn.Linear, "forward", functools.wraps(nn.Linear.forward)(lora_forward))

    model = with_lora(build())
    with monkeypatch.context() as changed:
        changed.setattr(nn.Linear, "forward", lora_forward)
        expected = loss_and_gradients(model)
    if when == "before":
        change()
    handle = patch(model)
    if when == "after":
        change()
    else:
        told = {row.status for row in handle.report() if row.role == "fused_linear_cross_entropy"}
        assert told == {"nn.Linear.forward is not torch's own"}
    step = loss_and_gradients(torch.compile(model, backend="eager") if compiled else model)
    found = step[0], {name.removeprefix("_orig_mod."): g for name, g in step[1].items()}
    assert_same_step(found, expected)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ["linear", "cross_entropy"])
def test_a_function_of_the_head_and_of_projections_is_called(monkeypatch, when, name):
    own = getattr(F, name)

    def change(patched=monkeypatch):
        patched.setattr(
            F, name, functools.wraps(own)(lambda *args, **named: 2 * own(*args, **named))
        )

    model = build()
    with monkeypatch.context() as changed:
        change(changed)
        expected = loss_and_gradients(model)
    if when == "before":
        change()
    patch(model)
    if when == "after":
        change()
    assert_same_step(loss_and_gradients(model), expected)


def doubled_linear(self, input):
    return F.linear(input, self.weight, self.bias) * 2


def doubled_call(self, *args, **kwargs):
    result = self.forward(*args, **kwargs)
    return result * 2 if type(self).__name__ == "Linear" else result


def doubled_loss(
    input,
    target,
    weight=None,
    size_average=None,
    ignore_index=-100,
    reduce=None,
    reduction="mean",
    label_smoothing=0.0,
):
    return 2 * torch._C._nn.cross_entropy_loss(input, target, weight, 1, ignore_index)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "function, other",
    [
        (nn.Linear.forward, doubled_linear),
        (nn.Module._call_impl, doubled_call),
        (F.cross_entropy, doubled_loss),
    ],
)
def test_code_that_is_replaced_in_place_is_run(function, other, when):
    model = build()
    own = function.__code__
    try:
        function.__code__ = other.__code__
        expected = loss_and_gradients(model)
        if when == "after":
            function.__code__ = own
        patch(model)
        function.__code__ = other.__code__
        found = loss_and_gradients(model)
    finally:
        function.__code__ = own
    assert_same_step(found, expected)


@pytest.mark.parametrize("owner, name", [(torch, "rsqrt"), (torch.Tensor, "pow"), (F, "silu")])
def test_an_operation_that_is_not_torchs_is_refused_by_name(monkeypatch, owner, name):
    own = getattr(owner, name)
    monkeypatch.setattr(owner, name, functools.wraps(own)(lambda *a, **k: own(*a, **k)))
    model = build()
    told = {row.status for row in patch(model).report() if not row.patched}
    assert any("which is not torch's own" in reason and name in reason for reason in told)


def test_a_layer_norm_of_somebody_else_is_refused(monkeypatch):
    def forward(self, x):
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps + 1e-3)

    monkeypatch.setattr(nn.LayerNorm, "forward", forward)
    # On meta nothing is tried: the answer must come from what is read.
    handle = patch(nn.Sequential(nn.LayerNorm(64, device="meta")))
    assert [row.patched for row in handle.report() if row.module == "LayerNorm"] == [False]


BEFORE_IMPORT = """
import sys
import torch
from torch import nn
seen = []
call = nn.Module.__call__
forward = nn.Linear.forward

def watched(self, *args, **named):
    seen.append(type(self).__name__)
    return call(self, *args, **named)

def doubled(self, x):
    return 2 * forward(self, x)

if sys.argv[1] == "call":
    nn.Module.__call__ = watched
else:
    nn.Linear.forward = doubled
from liger_jit.patch import patch
from tiny_models import assert_same_step, build, loss_and_gradients
model = build("Qwen3")
expected = loss_and_gradients(model)
before = sorted(seen)
handle = patch(model)
seen.clear()
assert_same_step(loss_and_gradients(model), expected)
assert sorted(seen) == before, (len(seen), len(before))
print({row.status for row in handle.report()})
"""


@pytest.mark.parametrize(
    "what, reason",
    [
        ("call", "nn.Module.__call__ is not torch's own"),
        ("forward", "nn.Linear.forward is not torch's own"),
    ],
)
def test_what_was_replaced_before_the_import_is_not_taken_for_torchs(what, reason):
    done = subprocess.run(
        [sys.executable, "-c", BEFORE_IMPORT, what],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert reason in done.stdout


class BySetting(LlamaRMSNorm):
    def forward(self, x):
        return super().forward(x) * torch.liger_jit_test_scale


class ByProfiler(LlamaRMSNorm):
    def forward(self, x):
        return super().forward(2 * x if torch.autograd.profiler._is_profiler_enabled else x)


class ByWhatIsThere(LlamaRMSNorm):
    def forward(self, x):
        y = super().forward(x)
        if hasattr(torch, "liger_jit_test_flag"):
            return 2 * y
        return y


class ByNameOfADtype(LlamaRMSNorm):
    def forward(self, x):
        return super().forward(x.to(torch.liger_jit_test_dtype)).to(x.dtype)


class ByNumber(LlamaRMSNorm):
    def forward(self, x):
        return super().forward(x) * torch.pi / math.pi


class ByConstants(LlamaRMSNorm):
    def forward(self, x):
        return super().forward(x.to(torch.float)).to(x.dtype) * (math.pi / torch.pi)


def status_of(kind):
    norm = kind(16)
    return next(row.status for row in patch(nn.Sequential(norm)).report() if row.path == "0")


@pytest.mark.parametrize("kind", [BySetting, ByProfiler, ByWhatIsThere, ByNameOfADtype])
def test_what_is_kept_in_a_library_and_is_no_constant_is_refused(monkeypatch, kind):
    monkeypatch.setattr(torch, "liger_jit_test_scale", 1.0, raising=False)
    monkeypatch.setattr(torch, "liger_jit_test_dtype", torch.float32, raising=False)
    assert re.search("uses torch|branches on a call", status_of(kind))


def test_a_constant_is_one_by_its_own_name_and_value(monkeypatch):
    assert status_of(ByConstants) == "patched"
    monkeypatch.setattr(torch, "pi", 3.0)
    assert "uses torch.pi" in status_of(ByNumber)
