"""How results lie in memory: as those of eager arithmetic, so that a view finds what it found."""

import copy
import itertools
from functools import partial

import pytest
import torch
from liger_jit.patch.rules.rope import RotaryFunction
from norm_forms_test import WIDTH, Gemma, Llama, Olmo2, WeightlessNorm, applied
from tiny_models import counted
from torch import nn
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb


def permutations(*shape):
    """Tensors of that shape, for each order in which their dims may lie in memory."""
    for order in itertools.permutations(range(len(shape))):
        back = [order.index(dim) for dim in range(len(shape))]
        yield torch.randn([shape[dim] for dim in order]).permute(back)


def others():
    """Parts of something larger, and rows that are there once."""
    yield torch.randn(2, 5, 2 * WIDTH)[..., :WIDTH]
    yield torch.randn(5, 2, 2 * WIDTH).transpose(0, 1)[..., WIDTH:]
    yield torch.randn(2, 5, 2 * WIDTH)[..., ::2]
    yield torch.randn(2, 1, WIDTH).expand(2, 3, WIDTH)
    yield torch.randn(WIDTH).expand(3, WIDTH)
    yield torch.randn(1, WIDTH).expand(3, WIDTH).expand(2, 3, WIDTH).transpose(0, 1)
    yield torch.randn(2, 1, 4, WIDTH).transpose(1, 2)


def order(x):
    return [step for step, size in zip(x.stride(), x.shape, strict=True) if size > 1]


NORMS = {
    **{form.__name__: form for form in (Llama, Gemma, Olmo2, WeightlessNorm)},
    "RMSNorm": lambda: nn.RMSNorm(WIDTH, eps=1e-6),
    "LayerNorm": lambda: nn.LayerNorm(WIDTH),
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norms_result_lies_in_memory_as_eagers(name, dtype):
    norm = NORMS[name]().to(dtype)
    own = copy.deepcopy(norm)
    assert applied(norm).patched
    for x in (*permutations(2, 3, 5, WIDTH), *permutations(3, 5, WIDTH), *others()):
        x = x.to(dtype)
        found, expected = norm(x), own(x)
        torch.testing.assert_close(found, expected)
        assert order(found) == order(expected), (x.shape, x.stride())


@pytest.mark.parametrize("name", NORMS)
def test_a_norms_result_is_no_view(name):
    """A write into a view would part it from its hooks."""
    norm = NORMS[name]()
    own = copy.deepcopy(norm)
    assert applied(norm).patched
    steps = []
    for one in (norm, own):
        torch.manual_seed(5)
        x, called = torch.randn(2, 5, 4, WIDTH, requires_grad=True), []
        y = one(x.transpose(1, 2))
        assert not y._is_view()
        y.register_hook(lambda gradient, called=called: called.append(1) or gradient * 10)
        y.mul_(3)
        (gradient,) = torch.autograd.grad(y.sin().sum(), x)
        with torch.no_grad():
            untracked = one(x.transpose(1, 2))
        untracked.mul_(torch.ones(WIDTH, requires_grad=True))
        one(x.transpose(1, 2)).detach_()
        assert called == [1] and untracked.requires_grad
        steps.append((y.detach(), gradient))
    torch.testing.assert_close(*steps, rtol=1e-4, atol=1e-3)


def test_heads_that_are_transposed_are_normed_where_they_lie(monkeypatch):
    norm = Llama()
    own = copy.deepcopy(norm)
    assert applied(norm).patched
    results = []
    for one in (norm, own):
        leaf = torch.randn(2, 5, 3, WIDTH, generator=torch.Generator().manual_seed(3))
        leaf.requires_grad_()
        with counted(monkeypatch) as calls:
            y = one(leaf.transpose(1, 2))
        assert calls["rms_norm"] == (1 if one is norm else 0)
        y.transpose(1, 2).view(2, 5, -1).square().sum().backward()
        results.append((y, leaf.grad, one.weight.grad))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("form", [Llama, Gemma, WeightlessNorm])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_columns_are_normed_where_they_lie_in_training(form, dtype, monkeypatch):
    """As a convolution leaves them. Without a backward copies cost more than they save."""
    norm = form().to(dtype)
    own = copy.deepcopy(norm)
    assert applied(norm).patched
    leaf = torch.randn(2, 3, WIDTH, 5, generator=torch.Generator().manual_seed(3)).to(dtype)
    leaf.requires_grad_()
    results = []
    for one in (norm, own):
        with counted(monkeypatch) as calls:
            y = one(leaf.permute(0, 3, 1, 2))
            with torch.no_grad():
                one(leaf.permute(0, 3, 1, 2))
            one(leaf.detach().permute(0, 3, 1, 2))
        trained = len(list(one.parameters()))
        assert calls["rms_norm"] == (1 + trained if one is norm else 0)
        total = y.permute(0, 2, 3, 1).view(2, -1).float().sin().sum()
        results.append((y, *torch.autograd.grad(total, (leaf, *one.parameters()))))
    tolerance = {} if dtype is torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, **tolerance)


def test_columns_stay_with_a_norm_that_gives_rows(monkeypatch):
    class InRows(Llama):
        def forward(self, x):
            return super().forward(x).contiguous()

    norm = InRows()
    own = copy.deepcopy(norm)
    assert applied(norm).patched
    x = torch.randn(2, WIDTH, 5, requires_grad=True).transpose(1, 2)
    with counted(monkeypatch) as calls:
        assert order(norm(x)) == order(own(x))
    assert not calls["rms_norm"]


def test_a_permuted_input_may_be_viewed_after_the_norm():
    norm = Llama()
    assert applied(norm).patched
    x = torch.randn(2, WIDTH, 5)
    assert norm(x.transpose(1, 2)).transpose(1, 2).view(2, -1).shape == (2, 5 * WIDTH)


@pytest.mark.parametrize("dim", [1, 2])
def test_a_rotations_results_lie_in_memory_as_eagers(dim, monkeypatch):
    replacement = RotaryFunction("rotate", apply_rotary_pos_emb, True).replacement
    rotate = partial(replacement, nn.Module(), apply_rotary_pos_emb)
    tables = [torch.randn(2, 5, 8) for _ in range(2)]
    sizes = [(2, heads, 5, 8) if dim == 1 else (2, 5, heads, 8) for heads in (4, 3)]
    rotated = 0
    for q, k in zip(*(permutations(*one) for one in sizes), strict=True):
        with counted(monkeypatch) as calls:
            found = rotate(q, k, *tables, dim)
        expected = apply_rotary_pos_emb(q, k, *tables, dim)
        for one, own in zip(found, expected, strict=True):
            torch.testing.assert_close(one, own)
            assert order(one) == order(own), q.stride()
        rotated += calls["rope"]
    assert rotated == 6  # where the last dim lies innermost
