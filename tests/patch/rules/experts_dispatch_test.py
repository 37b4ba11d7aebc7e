"""What experts' own forwards read of their dispatch and their classes, changed after a patch."""

import contextlib
import copy
import functools

import pytest
import torch
import transformers.integrations.moe as moe
from family_models import tiny
from liger_jit.patch import patch
from liger_jit.patch.probe import Mismatch
from liger_jit.patch.rules.expert_loop import names_of_gate
from torch import nn
from torch.nn import functional as F
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

INTERFACE = moe.ALL_EXPERTS_FUNCTIONS
KIND = type(INTERFACE)
GROUPED = KIND._global_mapping["grouped_mm"]


def experts_of(model):
    kinds = (MixtralExperts, GptOssExperts)
    return [module for module in model.modules() if isinstance(module, kinds)]


def one_call(experts):
    torch.manual_seed(3)
    x = torch.randn(7, 32, requires_grad=True)
    indices = torch.rand(7, experts.num_experts).topk(2, dim=-1).indices
    return x, indices, torch.rand(7, 2)


def doubled(self, x, indices, weights):
    return x * 2


def finds_doubled(*args):
    return doubled


def another_lookup_of_the_class(patched):
    for name in ("get_interface", "__getitem__"):  # of the newest release, and of the first
        patched.setattr(KIND, name, finds_doubled, raising=False)


def another_lookup_of_the_interface(patched):
    # Not by setattr, which in older releases of pytest leaves there what it found in the class.
    patched.setitem(vars(INTERFACE), "get_interface", finds_doubled)


def another_lookup_of_mappings(patched):
    for name in ("get", "__getitem__"):
        patched.setattr(KIND.__mro__[1], name, finds_doubled, raising=False)


def another_class_of_the_interface(patched):
    of_another = {"get_interface": finds_doubled, "__getitem__": finds_doubled}
    patched.setattr(INTERFACE, "__class__", type("Another", (KIND,), of_another))


def another_mapping_of_the_interface(patched):
    patched.setattr(INTERFACE, "_local_mapping", {"grouped_mm": doubled})


def another_mapping_of_the_class(patched):
    patched.setattr(KIND, "_global_mapping", {**KIND._global_mapping, "grouped_mm": doubled})


# Code that is put in place has the arguments of what was there: torch.compile remembers these of a
# function, in torch 2.11 for good.
def another_lookup_in_place(patched):
    def finds(self, experts_implementation, default):
        return lambda module, x, indices, weights: x * 2

    def finds_item(self, key):
        return lambda module, x, indices, weights: x * 2

    interface = hasattr(KIND, "get_interface")
    own, code = (KIND.get_interface, finds) if interface else (KIND.__getitem__, finds_item)
    patched.setattr(own, "__code__", code.__code__.replace(co_freevars=own.__code__.co_freevars))


def another_grouped_product(patched):
    def ones(x, weight, *args, **named):
        return x.new_ones(x.shape[0], weight.shape[1])

    patched.setattr(moe, "_grouped_linear", ones)


def another_grouped_product_in_place(patched):
    def ones(input, weight, offs, bias=None, is_transposed=False):
        return input.new_ones(input.shape[0], weight.shape[1])

    patched.setattr(moe._grouped_linear, "__code__", ones.__code__)


def another_implementation_in_place(patched):
    def twice(self, hidden_states, top_k_index, top_k_weights):
        return hidden_states * 2

    patched.setattr(GROUPED, "__code__", twice.__code__)


CHANGES = (
    another_lookup_of_the_class,
    pytest.param(
        another_lookup_of_the_interface,
        marks=pytest.mark.skipif(not hasattr(KIND, "get_interface"), reason="it is not asked"),
    ),
    another_lookup_of_mappings,
    another_class_of_the_interface,
    another_mapping_of_the_interface,
    another_mapping_of_the_class,
    another_lookup_in_place,
    another_grouped_product,
    another_implementation_in_place,
    another_grouped_product_in_place,
)


@pytest.fixture(scope="module")
def mixtral():
    return tiny("mixtral")[0]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_dispatch_that_changes_after_the_patch_counts(mixtral, change, compiled, monkeypatch):
    model = copy.deepcopy(mixtral)
    handle = patch(model)
    (experts, *_) = experts_of(model)
    inputs = one_call(experts)
    before = experts(*inputs)
    torch._dynamo.reset()
    run = torch.compile(experts, fullgraph=True, backend="aot_eager") if compiled else experts
    torch.testing.assert_close(run(*inputs), before)
    assert not any(row.own_calls for row in handle.report())
    with monkeypatch.context() as patched:
        change(patched)
        assert torch.equal(run(*inputs), type(experts).forward(experts, *inputs))
    torch.testing.assert_close(run(*inputs), before)


def a_wrapper(seen):
    @functools.wraps(GROUPED)
    def wrapper(*args):
        seen.append(args)
        return GROUPED(*args)

    return wrapper


@pytest.mark.parametrize("name", ["grouped_mm", "eager", "batched_mm"])
def test_what_is_registered_by_a_known_name_must_be_transformers_own(mixtral, name, monkeypatch):
    model, seen = copy.deepcopy(mixtral), []
    monkeypatch.setitem(KIND._global_mapping, name, a_wrapper(seen))
    model.set_experts_implementation(name)
    handle = patch(model)
    assert not seen
    (experts, *_) = experts_of(model)
    reasons = [row.status for row in handle.report() if row.module == type(experts).__name__]
    assert any(f"{name!r} is not that of transformers" in str(one) for one in reasons)


def test_others_by_such_a_name_count_where_they_are_called(mixtral, monkeypatch):
    model, seen = copy.deepcopy(mixtral), []
    monkeypatch.setitem(KIND._global_mapping, "grouped_mm", a_wrapper(seen))
    model.set_experts_implementation("eager")
    handle = patch(model)
    (experts, *_) = experts_of(model)
    inputs = one_call(experts)
    for implementation, own_calls in (("eager", 0), ("batched_mm", 0), ("grouped_mm", 1)):
        model.set_experts_implementation(implementation)
        expected = type(experts).forward(experts, *inputs)
        seen.clear()
        torch.testing.assert_close(experts(*inputs), expected)
        assert sum(row.own_calls for row in handle.report()) == own_calls == len(seen)


@pytest.mark.parametrize("implementation, own_calls", [("eager", 0), ("grouped_mm", 1)])
def test_float64_is_the_loops_alone(mixtral, implementation, own_calls):
    model = copy.deepcopy(mixtral)
    model.set_experts_implementation(implementation)
    handle = patch(model)
    (experts, *_) = experts_of(model.double())
    x, indices, weights = one_call(experts)
    inputs = x.double(), indices, weights.double()
    with contextlib.suppress(RuntimeError):  # a release whose product takes it gives its own
        expected = type(experts).forward(experts, *inputs)
        torch.testing.assert_close(experts(*inputs), expected)
    with contextlib.suppress(RuntimeError):
        experts(*inputs)
    assert bool(sum(row.own_calls for row in handle.report())) == bool(own_calls)


@pytest.mark.parametrize(
    "implementation, indices",
    [
        ("eager", torch.tensor([[0, 1], [1, 0]], dtype=torch.int32)),
        ("batched_mm", torch.tensor([[0, 4], [1, 0]])),
        ("batched_mm", torch.tensor([[0, -1], [1, 0]])),
    ],
)
def test_indices_that_an_implementation_has_no_expert_for(mixtral, implementation, indices):
    model = copy.deepcopy(mixtral)
    model.set_experts_implementation(implementation)
    handle = patch(model)
    (experts, *_) = experts_of(model)
    assert experts.num_experts == 4
    inputs = torch.ones(2, 32), indices, torch.ones(2, 2)
    try:
        expected = type(experts).forward(experts, *inputs)
    except Exception as error:
        with pytest.raises(type(error)):
            experts(*inputs)
    else:
        torch.testing.assert_close(experts(*inputs), expected, equal_nan=True)
    assert sum(row.own_calls for row in handle.report()) == 1


def test_a_grouped_product_is_asked_for_what_lies_beyond_no_expert(mixtral):
    """What it gives there is of memory that nobody wrote."""
    model = copy.deepcopy(mixtral)
    model.set_experts_implementation("grouped_mm")
    handle = patch(model)
    (experts, *_) = experts_of(model)
    with contextlib.suppress(Exception):
        experts(torch.ones(2, 32), torch.tensor([[0, 5], [1, 0]]), torch.ones(2, 2))
    assert sum(row.own_calls for row in handle.report()) == 1


def test_pairs_of_no_expert_have_no_bias():
    model = tiny("gpt_oss")[0]
    model.set_experts_implementation("grouped_mm")
    handle = patch(model)
    (experts, *_) = experts_of(model)
    x, indices, weights = one_call(experts)
    experts(x, indices, weights)
    assert sum(row.own_calls for row in handle.report()) == 0
    indices[0, 0] = experts.num_experts
    with contextlib.suppress(IndexError):  # of the newest releases
        experts(x, indices, weights)
    assert sum(row.own_calls for row in handle.report()) == 1


def test_a_loops_result_lies_in_memory_as_its_input(mixtral):
    model = copy.deepcopy(mixtral)
    model.set_experts_implementation("eager")
    patch(model)
    (experts, *_) = experts_of(model)
    x, indices, weights = one_call(experts)
    for y in (x, x.t().contiguous().t()):
        expected = type(experts).forward(experts, y, indices, weights)
        found = experts(y, indices, weights)
        torch.testing.assert_close(found, expected)
        assert found.stride() == expected.stride()


def test_so_must_be_what_finds_them(mixtral, monkeypatch):
    model = copy.deepcopy(mixtral)
    name = "get_interface" if hasattr(KIND, "get_interface") else "__getitem__"
    monkeypatch.setattr(KIND, name, finds_doubled)
    patch(model)
    (experts, *_) = experts_of(model)
    assert torch.equal(experts(*(inputs := one_call(experts))), inputs[0] * 2)


def quick_gelu(self, gate_up):
    gate, up = gate_up.chunk(2, dim=-1)
    return gate * torch.sigmoid(gate * self.alpha) * up


def with_a_factor_of_their_class(model):
    (experts, *_) = experts_of(model)
    experts.__class__ = type(
        "Quick", (MixtralExperts,), {"alpha": 1.702, "_apply_gate": quick_gelu}
    )
    return experts


def another_factor_of_the_class(experts):
    type(experts).alpha = 5.0


def a_factor_of_their_own(experts):
    experts.alpha = 0.1


def a_factor_that_is_computed(experts):
    type(experts).alpha = property(lambda self: 3.0)


def without_a_gate(experts):
    type(experts).has_gate = False


def with_a_bias(experts):
    del experts.has_bias
    type(experts).has_bias = True


FACTORS = (another_factor_of_the_class, a_factor_of_their_own, a_factor_that_is_computed)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("change", FACTORS)
def test_what_their_class_has_is_watched(mixtral, change, compiled):
    model = copy.deepcopy(mixtral)
    model.set_experts_implementation("batched_mm")
    experts = with_a_factor_of_their_class(model)
    handle = patch(model)
    inputs = one_call(experts)
    torch._dynamo.reset()
    run = torch.compile(experts, fullgraph=True, backend="aot_eager") if compiled else experts
    before = run(*inputs)
    assert not any(row.own_calls for row in handle.report())
    change(experts)
    expected = type(experts).forward(experts, *inputs)
    assert torch.equal(run(*inputs), expected)
    assert not torch.allclose(before, expected, rtol=1e-4)


def test_a_factor_of_a_class_is_the_operators(mixtral):
    model = tiny("gpt_oss")[0]
    (experts, *_) = experts_of(model)
    factor = experts.__dict__.pop("alpha")
    experts.__class__ = type("Clamped", (GptOssExperts,), {"alpha": factor})
    handle = patch(model)
    inputs = one_call(experts)
    torch.testing.assert_close(experts(*inputs), type(experts).forward(experts, *inputs))
    type(experts).alpha = 5.0
    assert torch.equal(experts(*inputs), type(experts).forward(experts, *inputs))
    assert sum(row.own_calls for row in handle.report()) == 1


@pytest.mark.parametrize("change", [without_a_gate, with_a_bias])
def test_flags_of_their_class_are_watched(mixtral, change):
    model = copy.deepcopy(mixtral)
    (experts, *_) = experts_of(model)
    experts.__class__ = type("Flagged", (MixtralExperts,), {"has_gate": True})
    experts.__dict__.pop("has_gate", None)
    handle = patch(model)
    assert torch.isfinite(experts(*(inputs := one_call(experts)))).all()
    change(experts)
    with contextlib.suppress(AttributeError):
        experts(*inputs)
    assert sum(row.own_calls for row in handle.report()) == 1


ATTRIBUTES = {
    "a module": ("act_fn", nn.SiLU()),
    "a function": ("act_fn", staticmethod(F.silu)),
    "a property": ("act_fn", property(lambda self: F.silu)),
    "a computed number": ("num_experts", property(lambda self: 4)),
}


@pytest.mark.parametrize("kind", ATTRIBUTES)
def test_what_their_class_computes_or_calls_is_not_taken(mixtral, kind):
    name, value = ATTRIBUTES[kind]
    model = copy.deepcopy(mixtral)
    (experts, *_) = experts_of(model)
    assert name != "num_experts" or experts.num_experts == 4
    experts._modules.pop(name, None)
    experts.__dict__.pop(name, None)
    experts.__class__ = type("Computed", (MixtralExperts,), {name: value})
    handle = patch(model)
    reasons = [str(row.status) for row in handle.report() if row.module == "Computed"]
    assert any(name in one for one in reasons), reasons


def gate_that_gives_itself_away(self, gate_up):
    me = self
    gate, up = gate_up.chunk(2, dim=-1)
    return me.act_fn(gate) * up


def gate_with_a_method(self, gate_up):
    gate, up = self.chunk(gate_up)
    return self.act_fn(gate) * up


def usual_gate(self, gate_up):
    gate, up = gate_up.chunk(2, dim=-1)
    return self.act_fn(gate) * up


@functools.wraps(usual_gate)
def decorated_gate(self, gate_up):
    return usual_gate(self, gate_up) * 2


GATES = [gate_that_gives_itself_away, gate_with_a_method, decorated_gate]


@pytest.mark.parametrize("gate", GATES)
def test_a_gate_reads_attributes_of_known_names(gate):
    assert names_of_gate(usual_gate)
    with pytest.raises(Mismatch):
        names_of_gate(gate)


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
def test_experts_that_nobody_calls_have_no_gradient_where_eager_has_none(mixtral, implementation):
    model = copy.deepcopy(mixtral)
    model.set_experts_implementation(implementation)
    handle = patch(model)
    (experts, *_) = experts_of(model)
    x, indices, weights = one_call(experts)
    indices = torch.full_like(indices, experts.num_experts)
    with contextlib.suppress(RuntimeError):  # the first release has no such index
        expected = type(experts).forward(experts, x, indices, weights)
        assert experts(x, indices, weights).requires_grad == expected.requires_grad
        assert sum(row.own_calls for row in handle.report()) == 1
