"""The rule for experts whose weights are stacked: one node for all of them.

The classes are those that transformers dispatches by the experts' implementation of their config.
Their own forwards loop over the experts that have tokens: `expert_loop` says what such a loop may
be made of, and then it is probed. All that its names stand for in the module and its file is
guarded. Routers stay as they are.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType

import torch
from torch import Tensor, nn

from ... import functional
from ...meta_calls import MetaCall
from ..autocasting import autocast_dtype
from ..guard import DTYPES, Guard, guard_of_child, parts_of
from ..installed import guarded
from ..lookup import ABSENT, answers_for
from ..modes import DISPATCH_MODES
from ..probe import (
    Mismatch,
    assert_same,
    compute_dtype,
    live_device,
    random,
    twin_of,
)
from ..rule import Proof, Refusal, Rule, group_of, own_class_forward
from ..source.compared import function_of, is_immutable
from ..source.torchs_own import replaced_linear
from .expert_dispatch import DISPATCHER, IMPLEMENTATIONS, dispatch_of, finders_of
from .expert_gate import ExpertGate, gate_of
from .expert_loop import BIASES, WEIGHTS, attributes_of, names_of_gate, names_of_loop

# What modules say of their layout, and what the releases mean that do not say it.
FLAGS = {"has_gate": True, "has_bias": False, "is_transposed": False, "is_concatenated": True}
# What a module may have beside these, and must not.
MUST_LACK = ("has_post_expert_norm", "_is_expert_parallel")
# Tokens, experts of a token and sizes of a probe: no two alike.
PROBE_TOKENS, PROBE_SLOTS, PROBE_HIDDEN, PROBE_WIDTH = 29, 3, 8, 16


def is_experts(module: nn.Module) -> bool:
    """At least two kinds of matrices, one of each kind for each of several experts."""
    kinds = [p for p in module._parameters.values() if p is not None and p.dim() == 3]
    numbers = {kind.shape[0] for kind in kinds}
    return len(kinds) > 1 and len(numbers) == 1 and numbers != {1}


@dataclass(frozen=True, eq=False, kw_only=True)
class ExpertsProof(Proof):
    """gate: what stands between the products."""

    gate: ExpertGate


def prove(module: nn.Module) -> ExpertsProof | Refusal:
    try:
        guard = experts_guard(module)
        gate = gate_of(module)
        for dtype in (torch.float32, torch.bfloat16):
            check(module, formula(gate), torch.device("cpu"), dtype)
    except Mismatch as mismatch:
        return Refusal(str(mismatch))
    run = experts_run(gate)
    forward = guarded(run, guard, takes, count=3)
    return ExpertsProof(gate.role, forward, guard, run, meta_call(module, gate), gate=gate)


def confirm(module: nn.Module, proof: ExpertsProof) -> ExpertsProof | Refusal:
    device = live_device(module)
    if device.type == "cuda" and not has_grouped_product(device):
        return Refusal("no grouped product of torch takes its experts on this GPU")
    try:
        check(module, proof.run, device, compute_dtype(module))
    except Mismatch as mismatch:
        return Refusal(str(mismatch))
    return proof


def experts_guard(module: nn.Module) -> Guard:
    """Raises Mismatch unless the module is dispatched, and made of known words alone."""
    own = own_class_forward(module)
    loop = getattr(own, "__wrapped__", None)
    if own.__globals__.get("__name__") != DISPATCHER or type(loop) is not FunctionType:
        raise Mismatch("transformers does not dispatch its forward by an experts' implementation")
    finders = finders_of(own)
    implementations = guards_of_implementations(own, implementation_of(module))
    check_layout(module)
    gate = type(module)._apply_gate
    words = names_of_loop(loop) | names_of_gate(gate)
    read = attributes_of(loop) | attributes_of(gate)
    if strange := sorted(read.intersection(BIASES).difference(parameters_of(module))):
        raise Mismatch(f"it reads {strange}, and says that it has no bias")
    children = sorted(read & module._modules.keys())
    numbers = {*read, *FLAGS, *MUST_LACK}.difference(WEIGHTS, BIASES, children, ("_apply_gate",))
    return Guard(
        own,
        *parts_of([*map(function_of, (own, loop, gate)), *finders.functions]),
        values=tuple((name, number_of(module, name)) for name in sorted(numbers)),
        methods=(("_apply_gate", gate),),
        defined=finders.defined,
        names=(
            *finders.names,
            *(
                (scope, name, scope[name])
                for scope in (loop.__globals__, gate.__globals__)
                for name in sorted(words & scope.keys())
            ),
        ),
        tensors=parameters_of(module),
        children=tuple((name, guard_of_child(module, name)) for name in children),
        chosen=((implementation_of, implementations),),
    )


def guards_of_implementations(own: FunctionType, chosen: str | None) -> dict[object, Guard]:
    """Of the one that is chosen, by its name, and of the others that its config may come to name.
    Raises Mismatch if the chosen one cannot be watched."""
    found = {}
    for name in {chosen: None, **dict.fromkeys(IMPLEMENTATIONS)}:
        try:
            dispatch = dispatch_of(own, name)
        except Mismatch:
            if name == chosen:
                raise
            continue
        found[name] = Guard(own, *parts_of(dispatch.functions), names=dispatch.names)
    return found


def number_of(module: nn.Module, name: str) -> object:
    """Its attribute, wherever it is found; Mismatch if it is no number, or one that is computed."""
    held, found = inspect.getattr_static(module, name, ABSENT), getattr(module, name, ABSENT)
    if held is not found or not (found is ABSENT or is_immutable(found)):
        raise Mismatch(f"it reads {name}, which is a function, a module or computed")
    return found


def check_layout(module: nn.Module) -> None:
    """Raises Mismatch where the operator has nothing for what the module says of itself."""
    if not flag_of(module, "has_gate"):
        raise Mismatch("its experts have no gate")
    for name in MUST_LACK:
        if getattr(module, name, False):
            raise Mismatch(f"it has {name}")
    for name in parameters_of(module):
        if module._parameters.get(name) is None:
            raise Mismatch(f"it has no parameter {name}")
        if answers_for(type(module), name):
            raise Mismatch(f"its class may give another {name} than it holds")


def flag_of(module: nn.Module, name: str) -> bool:
    return getattr(module, name, FLAGS[name])


def parameters_of(module: nn.Module) -> tuple[str, ...]:
    return (*WEIGHTS, *BIASES) if flag_of(module, "has_bias") else WEIGHTS


def implementation_of(module: nn.Module) -> str | None:
    return getattr(getattr(module, "config", None), "_experts_implementation", None)


def is_looped(module: nn.Module) -> bool:
    """Whether its class's own loop runs, which calls torch's linear layer."""
    return implementation_of(module) == IMPLEMENTATIONS[0]


def is_grouped(module: nn.Module) -> bool:
    """Whether torch's grouped product runs, which knows pairs of no expert, and any integers."""
    return implementation_of(module) == "grouped_mm"


# Of the GPUs on which modules were proved, the dtypes whose grouped products have matrix units and
# do not ask the GPU where their groups end. A trace reads this, and asks no driver.
_grouped: dict[int, tuple[torch.dtype, ...]] = {}


def has_grouped_product(device: torch.device) -> bool:
    capability = torch.cuda.get_device_capability(device)
    dtypes: tuple[torch.dtype, ...] = ()
    if torch.version.hip is None and capability == (9, 0):  # the operator's own
        dtypes = (torch.bfloat16, torch.float16)
    elif torch.version.hip is None and capability[0] == 10:  # torch's
        dtypes = (torch.bfloat16,)
    _grouped[device.index] = dtypes
    return bool(dtypes)


def is_multiplied_fast(module: nn.Module, x: Tensor, dtype: torch.dtype) -> bool:
    """Whether the products have matrix units: those of other calls are slower than the module's."""
    if x.device.type != "cuda":
        return True
    sizes = [size for name in WEIGHTS for size in module._parameters[name].shape[1:]]
    fits = all(size % 8 == 0 for size in sizes)
    return fits and dtype in _grouped.get(x.device.index, ())


def takes(module: nn.Module, x: Tensor, indices: Tensor, weights: Tensor) -> bool:
    """Whether the implementation that the config asks for computes this, in x's dtype, and the
    operator takes it and is quick at it."""
    if replaced_linear() is not None and is_looped(module):
        return False
    autocast = autocast_dtype(x.device)
    if autocast is not None and autocast != x.dtype and not is_looped(module):
        return False  # the other implementations multiply in the weights' dtype
    if x.dtype == torch.float64 and not is_looped(module):
        return False  # torch's grouped product takes none
    parameters = [module._parameters[name] for name in parameters_of(module)]
    if autocast is None and any(one.dtype != x.dtype for one in parameters):
        return False
    if not have_one_arithmetic([x, weights, *parameters]) or any(0 in p.shape for p in parameters):
        return False
    if not has_biases_of_its_weights(module):
        return False
    if not is_multiplied_fast(module, x, autocast or x.dtype):
        return False
    # Where no expert is called nothing has a gradient, which is not one of zeros.
    return (
        indices.shape == weights.shape
        and x.dim() == indices.dim() == 2
        and x.shape[0] == indices.shape[0]
        and may_have_elements(indices)
        and (x.is_contiguous() or not is_looped(module))  # a loop's result lies as x does
        and (indices.dtype == torch.int64 or (indices.dtype == torch.int32 and is_grouped(module)))
        and not are_beside_the_experts(indices, module)
    )


def has_biases_of_its_weights(module: nn.Module) -> bool:
    """Whether each output of each expert has a bias, if there are biases: none is broadcast."""
    step = 2 if flag_of(module, "is_transposed") else 1  # from experts to outputs
    return not flag_of(module, "has_bias") or all(
        module._parameters[bias].shape == module._parameters[weight].shape[: step + 1 : step]
        for weight, bias in zip(WEIGHTS, BIASES)
    )


def have_one_arithmetic(tensors: list[Tensor]) -> bool:
    """Whether an operator takes these dtypes together: float64 with nothing else."""
    dtypes = {one.dtype for one in tensors}
    return dtypes == {torch.float64} or dtypes <= set(DTYPES)


def may_have_elements(indices: Tensor) -> bool:
    """Whether there are some, or nobody knows their number yet, as a trace may not."""
    if torch.compiler.is_compiling():
        from torch.fx.experimental.symbolic_shapes import guard_or_true

        return guard_or_true(indices.numel() > 0)
    return indices.numel() > 0


def are_beside_the_experts(indices: Tensor, module: nn.Module) -> bool:
    """Whether the module's own forward has another meaning for one that is no expert's, or no
    gradient as all are of none, where that is seen at once: on the CPU, and in no trace."""
    if not indices.is_cpu or type(indices) is not Tensor or torch.compiler.is_compiling():
        return False
    if DISPATCH_MODES() or torch._C._are_functorch_transforms_active():
        return False
    lowest, highest = map(int, indices.aminmax())
    if not 0 <= lowest < module.num_experts or highest > module.num_experts:
        return True
    return highest == module.num_experts and (flag_of(module, "has_bias") or not is_grouped(module))


def experts_run(gate: ExpertGate) -> Callable:
    """The operator with a module's parameters, in x's dtype whatever autocast computes in."""

    def run(self, x: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        up, down = (self._parameters[name] for name in WEIGHTS)
        biases = [self._parameters[name] for name in BIASES if flag_of(self, "has_bias")]
        y = functional.experts(
            x,
            indices,
            weights,
            up,
            down,
            *biases,
            activation=gate.activation,
            transposed=flag_of(self, "is_transposed"),
            interleaved=gate.interleaved,
            limit=gate.limit,
            alpha=gate.alpha,
        )
        return y if y.dtype is x.dtype else y.to(x.dtype)

    return run


def formula(gate: ExpertGate) -> Callable:
    """The same in plain torch: each expert for all tokens, times the weight it has there."""

    def run(self, x: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for expert in range(self.num_experts):
            matrices = [self._parameters[name][expert] for name in WEIGHTS]
            up, down = matrices if flag_of(self, "is_transposed") else [m.t() for m in matrices]
            gate_up = x @ up
            if flag_of(self, "has_bias"):
                gate_up = gate_up + self.gate_up_proj_bias[expert]
            y = gate(gate_up) @ down
            if flag_of(self, "has_bias"):
                y = y + self.down_proj_bias[expert]
            weight = (weights * (indices == expert)).sum(-1, keepdim=True)
            total = total + (y * weight).to(x.dtype)
        return total

    return run


def check(module: nn.Module, candidate: Callable, device: torch.device, dtype: torch.dtype) -> None:
    """`Mismatch` unless the candidate equals the module's own forward with small weights."""
    generator = torch.Generator().manual_seed(19)
    experts = module.num_experts
    twin = twin_of(module, parameters=small_parameters(module, generator, device, dtype))
    slots = min(PROBE_SLOTS, experts)
    scores = torch.rand(PROBE_TOKENS, experts, generator=generator)
    spread = scores.topk(slots, dim=-1).indices
    # All on the last experts as well, so that the others have no token; and one on the first
    # expert, two on the second, three on the third.
    last = torch.arange(experts - slots, experts).expand_as(spread)
    few = torch.arange(slots).repeat_interleave(torch.arange(slots) + 1)[:, None]
    for indices in (spread, last, few):
        indices = indices.contiguous().to(device)
        x = random((len(indices), PROBE_HIDDEN), generator, dtype).to(device)
        # A model's own may be scaled, or have any sign.
        weights = (torch.rand(indices.shape, generator=generator) * 4 - 2).to(device, dtype)

        def own(x, weights, indices=indices):
            try:
                return type(module).forward(twin, x, indices, weights)
            except Exception as error:
                raise Mismatch(f"its own forward failed in the probe: {error}") from error

        def ours(x, weights, indices=indices):
            return candidate(twin, x, indices, weights)

        parameters = [twin._parameters[name] for name in twin._parameters]
        assert_same(own, ours, [x, weights], parameters, "the experts")


def small_parameters(
    module: nn.Module, generator: torch.Generator, device: torch.device, dtype: torch.dtype
) -> dict[str, nn.Parameter]:
    experts, both = module.num_experts, 2 * PROBE_WIDTH
    shapes = {
        "gate_up_proj": (experts, both, PROBE_HIDDEN),
        "down_proj": (experts, PROBE_HIDDEN, PROBE_WIDTH),
    }
    if flag_of(module, "is_transposed"):
        shapes = {name: (experts, b, a) for name, (experts, a, b) in shapes.items()}
    if flag_of(module, "has_bias"):
        shapes |= {
            "gate_up_proj_bias": (experts, both),
            "down_proj_bias": (experts, PROBE_HIDDEN),
        }
    return {
        name: nn.Parameter((random(shape, generator) * 0.5).to(device, dtype))
        for name, shape in shapes.items()
    }


def meta_call(module: nn.Module, gate: ExpertGate) -> MetaCall | None:
    """Of a token's usual number of experts, if the config says it."""
    slots = getattr(module.config, "num_experts_per_tok", None)
    if type(slots) is not int:
        return None
    dtype = compute_dtype(module)
    parameters = {
        name: (tuple(p.shape), dtype) for name, p in module._parameters.items() if p is not None
    }
    hidden = parameters["down_proj"][0][2 if flag_of(module, "is_transposed") else 1]
    turned = flag_of(module, "is_transposed")

    def run(batch: int, tokens: int) -> None:
        def empty(shape, dtype=dtype, needs_grad=True):
            return torch.empty(shape, dtype=dtype, device="meta", requires_grad=needs_grad)

        weights = {name: empty(shape) for name, (shape, _) in parameters.items()}
        pairs = batch * tokens, slots
        functional.experts(
            empty((pairs[0], hidden)),
            empty(pairs, torch.int64, False),
            empty(pairs),
            *(weights.get(name) for name in (*WEIGHTS, *BIASES)),
            activation=gate.activation,
            transposed=turned,
            interleaved=gate.interleaved,
            limit=gate.limit,
            alpha=gate.alpha,
        ).sum().backward()

    return MetaCall("experts", (tuple(parameters.items()), slots, gate, turned), run)


EXPERTS: Rule[ExpertsProof] = Rule(
    "experts", ("swiglu", "geglu"), is_experts, group_of, prove, confirm
)
