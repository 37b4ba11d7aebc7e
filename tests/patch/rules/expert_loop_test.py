"""Loops over experts: what they may be made of, so that a few tokens of a probe see all of it."""

import copy
import inspect
from types import SimpleNamespace

import pytest
import torch
from liger_jit.patch import patch
from liger_jit.patch.probe import Mismatch
from liger_jit.patch.rules.expert_gate import ExpertGate
from liger_jit.patch.rules.expert_loop import names_of_gate, names_of_loop
from liger_jit.patch.rules.experts import check, formula
from torch import nn
from transformers.integrations.moe import use_experts_implementation
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
from transformers.models.mixtral.modeling_mixtral import MixtralExperts


def with_a_capacity(self, hidden_states, top_k_index, top_k_weights):
    final_hidden_states = torch.zeros_like(hidden_states)
    with torch.no_grad():
        expert_mask = nn.functional.one_hot(top_k_index, num_classes=self.num_experts + 1)
        expert_mask = expert_mask.permute(2, 1, 0)
        expert_hit = torch.greater(expert_mask.sum(dim=(-1, -2)), 0).nonzero()
    for expert_idx in expert_hit:
        expert_idx = expert_idx[0]
        if expert_idx == self.num_experts:
            continue
        top_k_pos, token_idx = torch.where(expert_mask[expert_idx])
        top_k_pos, token_idx = top_k_pos[:64], token_idx[:64]
        state = hidden_states[token_idx]
        gate, up = nn.functional.linear(state, self.gate_up_proj[expert_idx]).chunk(2, dim=-1)
        state = nn.functional.linear(self.act_fn(gate) * up, self.down_proj[expert_idx])
        weights = top_k_weights[token_idx, top_k_pos, None]
        state = state * weights
        final_hidden_states.index_add_(0, token_idx, state.to(final_hidden_states.dtype))
    return final_hidden_states


def with_a_threshold(self, hidden_states, top_k_index, top_k_weights):
    return hidden_states * (top_k_weights > 0)[..., None].sum(1)


def with_a_branch(self, hidden_states, top_k_index, top_k_weights):
    if hidden_states == self.num_experts:
        return hidden_states
    return hidden_states


def with_a_condition(self, hidden_states, top_k_index, top_k_weights):
    return hidden_states if self.num_experts else top_k_weights


def with_a_write(self, hidden_states, top_k_index, top_k_weights):
    hidden_states[0] = 0
    return hidden_states


def with_a_small_number(self, hidden_states, top_k_index, top_k_weights):
    return hidden_states + 1e-9


def with_another_name(self, hidden_states, top_k_index, top_k_weights):
    return hidden_states.relu()


LOOPS = [
    with_a_capacity,
    with_a_threshold,
    with_a_branch,
    with_a_condition,
    with_a_write,
    with_a_small_number,
    with_another_name,
]


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_what_a_probe_may_not_see_is_refused(loop):
    with pytest.raises(Mismatch, match="its loop over experts"):
        names_of_loop(loop)


CAPACITY = "        top_k_pos, token_idx = top_k_pos[:64], token_idx[:64]\n"
LOOP = (
    inspect.getsource(with_a_capacity).replace(CAPACITY, "").replace("with_a_capacity", "forward")
)
SKIP = "if expert_idx == self.num_experts:"
COUNT = f"count = expert_mask[expert_idx].sum()\n        {SKIP}".replace(
    "if expert_idx", "if count"
)
# name -> (text, what stands in its place)
CHANGES = {
    "experts of one token are left out": ("-2)), 0)", "-2)), 1)"),
    "experts of two tokens are left out": ("-2)), 0)", "-2)), 2)"),
    "experts of so many tokens are left out": (SKIP, COUNT),
    "tokens of the first slot alone count": ("sum(dim=(-1, -2)", "sum(dim=(-1, 0)"),
    "another class is left out": ("num_experts + 1)", "num_experts + 2)"),
    "another expert is left out": (SKIP, "if expert_idx == 2:"),
    "all that follow are left out": ("continue", "return final_hidden_states"),
    "negative weights are none": (
        "* weights",
        "* torch.where(torch.greater(weights, 0), weights, weights * 0)",
    ),
    "large weights are less": (
        "* weights",
        "* torch.where(torch.greater(weights, 1), weights * 0 + 1, weights)",
    ),
    "weights are whole numbers": ("= top_k_weights[", "= top_k_weights.to(top_k_index.dtype)["),
    "large states are none": (
        "state = hidden_states[token_idx]",
        "state = hidden_states[token_idx] * torch.greater(hidden_states.sum(), 2 * 2 * 2)",
    ),
    "a token more": ("state = hidden_states[token_idx]", "state = hidden_states[token_idx + 0]"),
    "one token": ("state = hidden_states[token_idx]", "state = hidden_states[token_idx[0]]"),
    "the experts before count": ("* weights", "* weights + final_hidden_states[token_idx]"),
    "a name is another": ("top_k_pos, token_idx =", "expert_idx, token_idx ="),
    "a name is a library": ("state = hidden_states[token_idx]", "nn = hidden_states[token_idx]"),
    "it writes": ("weights = top", "top_k_index = top"),
    "it is added elsewhere": ("index_add_(0, token_idx", "index_add_(0, top_k_pos"),
    "something follows": ("return final_hidden_states", "return final_hidden_states + 1"),
    "something is there before": ("zeros_like(hidden_states)", "zeros_like(top_k_index)"),
}


def loop_of(text, folder):
    path = folder / "a_loop_over_experts.py"
    path.write_text(f"import torch\nfrom torch import nn\n{text}")
    scope = {"__name__": "a_loop_over_experts"}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    return scope["forward"]


def test_a_loop_of_the_form_is_taken(tmp_path):
    assert "gate_up_proj" in names_of_loop(loop_of(LOOP, tmp_path))


@pytest.mark.parametrize("change", CHANGES)
def test_a_loop_that_is_another_in_one_place_is_refused(change, tmp_path):
    before, after = CHANGES[change]
    assert before in LOOP
    with pytest.raises(Mismatch, match="its loop over experts has a part"):
        names_of_loop(loop_of(LOOP.replace(before, after), tmp_path))


class NotTorchs:
    """By torch's names, functions that are torch's for the sizes of a probe alone."""

    functional = property(lambda self: self)
    one_hot = staticmethod(nn.functional.one_hot)

    @staticmethod
    def linear(x, weight):
        return nn.functional.linear(x, weight if weight.shape[0] % 16 else weight.half().float())


def test_what_bears_the_names_of_torchs_libraries_must_be_these(tmp_path, monkeypatch):
    loop = loop_of(LOOP, tmp_path)
    monkeypatch.setitem(loop.__globals__, "nn", NotTorchs())
    with pytest.raises(Mismatch, match="nn that is not torch's"):
        names_of_loop(loop)


def test_torchs_functions_must_be_torchs(tmp_path, monkeypatch):
    loop = loop_of(LOOP, tmp_path)
    monkeypatch.setattr(nn.functional, "linear", NotTorchs.linear)
    with pytest.raises(Mismatch, match="linear"):
        names_of_loop(loop)


def gate_with_a_part(self, gate_up):
    gate, up = gate_up.chunk(2, dim=-1)
    gate[..., :1] = 0
    return self.act_fn(gate) * up


def gate_with_a_comparison(self, gate_up):
    gate, up = gate_up.chunk(2, dim=-1)
    return self.act_fn(gate) * up * (gate > 0)


def gate_with_a_bound_of_its_own(self, gate_up):
    gate, up = gate_up.chunk(2, dim=-1)
    return self.act_fn(gate.clamp(max=self.limit * 2)) * up


GATES = [gate_with_a_part, gate_with_a_comparison, gate_with_a_bound_of_its_own]


@pytest.mark.parametrize("gate", GATES, ids=lambda gate: gate.__name__)
def test_so_is_a_gate(gate):
    with pytest.raises(Mismatch, match="its gate"):
        names_of_gate(gate)


@pytest.mark.parametrize("kind", [MixtralExperts, GptOssExperts])
def test_loops_and_gates_of_models_are_taken(kind):
    assert "gate_up_proj" in names_of_loop(kind.forward.__wrapped__)
    assert "chunk" in names_of_gate(MixtralExperts._apply_gate)
    assert {"limit", "alpha"} <= names_of_gate(GptOssExperts._apply_gate)


@use_experts_implementation
class Experts(nn.Module):
    """They drop what is beyond 64 tokens of an expert."""

    def __init__(self, config):
        super().__init__()
        self.num_experts, self.act_fn = 4, nn.SiLU()
        self.gate_up_proj = nn.Parameter(torch.randn(4, 64, 48))
        self.down_proj = nn.Parameter(torch.randn(4, 48, 32))

    forward = with_a_capacity


def test_experts_with_a_capacity_stay_as_they_are():
    torch.manual_seed(0)
    model = nn.Sequential(Experts(SimpleNamespace(_experts_implementation="eager")))
    patched = copy.deepcopy(model)
    patch(patched)
    x, weights = torch.randn(200, 48), torch.rand(200, 2)
    indices = torch.rand(200, 4).topk(2).indices
    assert torch.equal(patched[0](x, indices, weights), model[0](x, indices, weights))


def without_small_ones(most):
    """What leaves out experts of so many tokens, and of fewer."""

    def run(self, x, indices, weights):
        counts = torch.bincount(indices.flatten(), minlength=self.num_experts)
        return formula(GATE)(self, x, indices, weights * (counts > most)[indices])

    return run


def with_weights(change):
    return lambda self, x, indices, weights: formula(GATE)(self, x, indices, change(weights))


GATE = ExpertGate("silu", interleaved=False)
OTHERS = {
    "one token": without_small_ones(1),
    "two tokens": without_small_ones(2),
    "three tokens": without_small_ones(3),
    "negative weights": with_weights(lambda weights: weights.clamp(min=0)),
    "large weights": with_weights(lambda weights: weights.clamp(max=1)),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_probe_has_experts_of_few_tokens_and_weights_of_any_size(other):
    config = SimpleNamespace(
        num_local_experts=4,
        hidden_size=48,
        intermediate_size=32,
        hidden_act="silu",
        _experts_implementation="eager",
    )
    experts = MixtralExperts(config)
    experts.config = config
    check(experts, formula(GATE), torch.device("cpu"), torch.float32)
    with pytest.raises(Mismatch):
        check(experts, OTHERS[other], torch.device("cpu"), torch.float32)
