"""Norms as models write them: each form is recognised, with its roundings and result dtypes."""

import pytest
import torch
from liger_jit.patch import patch
from liger_jit.patch.rules import norm as norms
from tiny_models import assert_same_step, counted, error, loss_and_gradients, shape_of
from torch import nn

WIDTH = 32


class Norm(nn.Module):
    def __init__(self, weight=True, eps=1e-5):
        super().__init__()
        self.eps = eps
        if weight:
            self.weight = nn.Parameter(torch.randn(WIDTH))

    def scaled(self, x):
        return x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + self.eps)


class Llama(Norm):
    def forward(self, x):
        return self.weight * self.scaled(x).to(x.dtype)


class Gemma(Norm):
    def forward(self, x):
        return (self.scaled(x) * (1.0 + self.weight.float())).type_as(x)


class Olmo2(Norm):
    def forward(self, x):
        return (self.weight * self.scaled(x)).to(x.dtype)


class PowerOfMinusHalf(Norm):
    def forward(self, x):
        mean = x.float().pow(2).mean(-1, keepdim=True) + self.eps
        return (x.float() * torch.pow(mean, -0.5) * self.weight.float()).type_as(x)


class WeightlessNorm(Norm):
    def __init__(self):
        super().__init__(weight=False)

    def forward(self, hidden_states):
        return self.scaled(hidden_states).to(hidden_states.dtype)


class OnlyTheScale(Norm):
    def forward(self, x):
        return torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + self.eps).to(x.dtype)


class Grouped(Norm):
    def forward(self, x):
        groups = x.float().view(*x.shape[:-1], 2, -1)
        groups = groups * torch.rsqrt(groups.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * groups.reshape(x.shape).to(x.dtype)


def applied(norm):
    """The report's row of one norm, after patching a model that holds nothing else."""
    return patch(nn.Sequential(norm)).report()[0]


@pytest.mark.parametrize("form", [Llama, Gemma, Olmo2, PowerOfMinusHalf, WeightlessNorm])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_known_forms(form, dtype):
    norm = form().to(dtype)
    x = torch.randn(3, 7, WIDTH).to(dtype).requires_grad_()
    expected = norm(x)
    gradient = torch.randn_like(expected)
    (expected_gradient,) = torch.autograd.grad(expected, x, gradient)
    row = applied(norm)
    assert (row.role, row.status) == ("rms_norm", "patched")
    found = norm(x)
    limit = {torch.float32: 1e-6, torch.bfloat16: 1e-3, torch.float16: 2e-4}[dtype]
    assert error(found, expected) <= limit
    (found_gradient,) = torch.autograd.grad(found, x, gradient)
    assert error(found_gradient, expected_gradient) <= 16 * limit


@pytest.mark.parametrize("form", [Llama, Gemma, Olmo2])
def test_mixed_dtypes_give_the_original_dtype(form):
    norm = form()
    x = torch.randn(4, WIDTH, dtype=torch.bfloat16)
    expected = norm(x)
    assert applied(norm).patched
    found = norm(x)
    assert found.dtype == expected.dtype
    assert error(found, expected) <= 1e-3


@pytest.mark.parametrize(
    "form, reason", [(OnlyTheScale, "no known norm"), (Grouped, "needs its last dimension")]
)
def test_unknown_forms(form, reason):
    assert reason in applied(form()).status


def test_epsilon_is_read_where_the_module_keeps_it():
    norm = Llama(eps=1e-5)
    norm.variance = 1e-3  # a second small number, which the forward does not use
    x = torch.randn(4, WIDTH) * 1e-2
    assert applied(norm).patched
    expected = Llama.forward(norm, x)
    assert error(norm(x), expected) <= 1e-6
    norm.eps = 1e-2
    assert error(norm(x), Llama.forward(norm, x)) <= 1e-6


def test_keyword_input():
    norm = WeightlessNorm()
    x = torch.randn(4, WIDTH)
    expected = norm(hidden_states=x)
    assert applied(norm).patched
    assert error(norm(hidden_states=x), expected) <= 1e-6


def test_layer_norms():
    for norm in (nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH, bias=False)):
        nn.init.normal_(norm.weight)
        x = torch.randn(4, WIDTH)
        expected = norm(x)
        row = applied(norm)
        assert (row.role, row.status) == ("layer_norm", "patched")
        assert error(norm(x), expected) <= 1e-6
    assert not applied(nn.LayerNorm((2, WIDTH))).patched
    assert not applied(nn.GroupNorm(2, WIDTH)).patched


class TorchsOwn(nn.RMSNorm):
    def __init__(self):
        super().__init__(WIDTH, eps=1e-5)


class InItsOwnDtype(Norm):
    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight.to(x.dtype)


@pytest.mark.parametrize(
    "kind, is_autocast", [(Llama, False), (Gemma, False), (TorchsOwn, True), (InItsOwnDtype, True)]
)
def test_what_autocast_on_a_gpu_would_make_float32_is_known(kind, is_autocast):
    """Of a norm that does not convert its input itself."""
    norm = kind()
    assert norms.is_autocast(norm, norm.weight) == is_autocast


@pytest.mark.parametrize("kind", [Llama, TorchsOwn])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_on_a_gpu_a_norm_has_the_dtype_of_torch(cuda, kind, dtype):
    layer = nn.Sequential(kind()).to(cuda)
    x = torch.randn(3, WIDTH, device=cuda, dtype=dtype)
    with torch.autocast("cuda", torch.bfloat16):
        expected = layer(x)
        patch(layer)
        assert layer(x).dtype == expected.dtype
    assert error(layer(x), expected) < 1e-2


class T5Norm(Norm):
    def forward(self, x):
        x = x * torch.rsqrt(x.to(torch.float32).pow(2).mean(-1, keepdim=True) + self.eps)
        if self.weight.dtype in [torch.float16, torch.bfloat16]:
            x = x.to(self.weight.dtype)
        return self.weight * x


class ByDtypeOfInput(Norm):
    def forward(self, x):
        if x.dtype == torch.float64:
            x = 2 * x
        return self.weight * self.scaled(x).to(x.dtype)


class AnotherIn16Bits(Norm):
    def forward(self, x):
        scaled = self.scaled(x).to(x.dtype)
        if self.weight.dtype == torch.bfloat16:
            scaled = scaled * 0.5
        return self.weight * scaled


def test_the_dtype_of_a_weight_may_decide(monkeypatch):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        norm = T5Norm().to(dtype)
        x = torch.randn(3, 7, WIDTH).to(dtype).requires_grad_()
        expected = norm(x)
        row = applied(norm)
        assert (row.role, row.status) == ("rms_norm", "patched")
        with counted(monkeypatch) as calls:
            found = norm(x)
        assert calls["rms_norm"] == 1 and found.dtype == expected.dtype
        assert error(found, expected) <= {torch.float32: 1e-6}.get(dtype, 1e-3)
        # Where its roundings are others, its own forward runs.
        for other in {torch.float32, torch.bfloat16, torch.float16} - {dtype}:
            mixed = x.detach().to(other)
            found, expected = norm(mixed), T5Norm.forward(norm, mixed)
            assert found.dtype == expected.dtype and error(found, expected) <= 1e-3
        norm.to(torch.float32 if dtype != torch.float32 else torch.bfloat16)
        found, expected = norm(x), T5Norm.forward(norm, x)
        assert found.dtype == expected.dtype and error(found, expected) <= 1e-3


def test_that_of_an_input_may_not_and_each_of_a_weight_is_tried():
    assert "branches on its input" in applied(ByDtypeOfInput()).status
    assert "no known norm" in applied(AnotherIn16Bits()).status


def test_a_model_of_such_norms_trains_as_before(monkeypatch):
    import transformers

    torch.manual_seed(2)
    config = transformers.T5Config(
        vocab_size=97, d_model=32, d_ff=48, d_kv=8, num_layers=1, num_decoder_layers=1,
        num_heads=4, dropout_rate=0.0, decoder_start_token_id=0, pad_token_id=0,
    )  # fmt: skip
    model = transformers.T5ForConditionalGeneration(config).train()
    ids = torch.randint(3, 97, (2, 9))
    expected = loss_and_gradients(model, input_ids=ids, labels=ids)
    before, handle = shape_of(model), patch(model)
    with counted(monkeypatch) as calls:
        assert_same_step(loss_and_gradients(model, input_ids=ids, labels=ids), expected)
    assert calls["rms_norm"] == handle.report().counts["rms_norm"][0] == 7
    handle.unpatch()
    assert shape_of(model) == before
    assert_same_step(loss_and_gradients(model, input_ids=ids, labels=ids), expected, 0.0)


class ByMoments(Norm):
    """The variance is the mean square less the squared mean, which cancels far from zero."""

    def forward(self, x):
        mean = x.float().mean(-1, keepdim=True)
        variance = x.float().pow(2).mean(-1, keepdim=True) - mean.pow(2)
        return (self.weight * (x.float() - mean) * torch.rsqrt(variance + self.eps)).to(x.dtype)


class InDouble(Norm):
    def forward(self, x):
        y = x.double()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * y.to(x.dtype)


class ScaledAgainstOverflow(Norm):
    def forward(self, x):
        y = x.float() * 0.125
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps / 64)
        return self.weight * y.to(x.dtype)


@pytest.mark.parametrize("kind", [ByMoments, InDouble])
def test_one_formula_on_paper_is_not_taken_for_another(kind):
    norm = nn.Sequential(kind())
    rows = patch(norm).report()
    assert rows and not any(row.patched for row in rows)


def test_a_norm_that_scales_against_overflow_stays():
    norm = nn.Sequential(ScaledAgainstOverflow())
    patch(norm)
    x = torch.full((2, WIDTH), 4e19)
    assert torch.equal(norm(x), type(norm[0]).forward(norm[0], x))
