"""Ranks that call ops with sharded tensors: sharded_ops_rank.py FOLDER gloo|nccl RANKS.

Tells of each call how far its results are from those of the call on whole tensors, how they are
placed, and how many collectives it took.
"""

import sys
from pathlib import Path

import torch
from liger_jit import functional
from ranks import as_ranks
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "ops"))
from samples import OPS, arguments, operator, tensors_of  # noqa: E402

WHOLE = Replicate()


def text(placements):
    return " ".join(
        f"S{one.dim}" if one.is_shard() else "P" if one.is_partial() else "R" for one in placements
    )


def distributed(value, mesh, placement):
    if not isinstance(value, torch.Tensor):
        return value
    if placement.is_partial():
        whole = value if not value.is_floating_point() or mesh.get_local_rank() == 0 else value * 0
        kind = Partial() if value.is_floating_point() else WHOLE
        return DTensor.from_local(whole.detach(), mesh, [kind])
    fits = not placement.is_shard() or placement.dim < value.dim()
    return distribute_tensor(value.detach(), mesh, [placement if fits else WHOLE])


def difference(found, wanted):
    """0 for the same bits, else the relative error."""
    found = found.full_tensor().detach()
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return f"{found.dtype} {tuple(found.shape)}"
    if torch.equal(found.nan_to_num(7.0), wanted.nan_to_num(7.0)):
        return 0.0
    return ((found - wanted).double().norm() / wanted.double().norm()).item()


# Each op of the registry, its tensors placed in many ways.
ARRIVALS = {
    "whole": lambda i: WHOLE,
    "first dims": lambda i: Shard(0),
    "second dims": lambda i: Shard(1),
    "one of each": lambda i: Shard(i % 2),
    "the first alone": lambda i: Shard(0) if i == 0 else WHOLE,
    "all but the first": lambda i: WHOLE if i == 0 else Shard(0),
    "sums to be made": lambda i: Partial(),
}


def of_registry(mesh, device):
    told = {}
    for name, op in OPS.items():
        if any(one["written"] for one in op["inputs"]):
            continue
        torch.manual_seed(3)
        values = arguments(name, device)
        wanted = tensors_of(operator(name)(**values))
        told[name] = {"sharding": op["sharding"]}
        for arrival, placement in ARRIVALS.items():
            sharded = {
                key: distributed(value, mesh, placement(i))
                for i, (key, value) in enumerate(values.items())
            }
            found = tensors_of(operator(name)(**sharded))
            told[name][arrival] = [
                [difference(one, other), text(one.placements)]
                for one, other in zip(found, wanted, strict=True)
            ]
    return told


# Functions as people call them, with all gradients. Each has a batch of 4 and 6 tokens.
def rows(*dims):
    return torch.randn(4, 6, *dims)


def heads(number, size=8):
    return torch.randn(4, number, 6, size)


def angles(*batch, tokens=6):
    shape = (*(batch or (1,)), tokens, 8)
    return {"cos": torch.rand(shape) - 0.5, "sin": torch.rand(shape) - 0.5}


def side_by_side(number):
    return torch.randn(4, 6, number, 8)


def calls():
    """{name: (function, tensors, those that get no gradient)}."""
    f = functional
    x, residual, weight, bias = rows(16), rows(16), torch.randn(16), torch.randn(16)
    q, k, size = heads(4), heads(2), torch.randn(8)
    gate, up = rows(16), rows(16)
    table = ("cos", "sin")
    return {
        "rms_norm": (f.rms_norm, {"x": x, "weight": weight}, ()),
        "rms_norm without weight": (f.rms_norm, {"x": x}, ()),
        "rms_norm of Gemma": (
            lambda x, weight: f.rms_norm(x, weight, 1e-5, 1.0, "gemma"),
            {"x": x, "weight": weight},
            (),
        ),
        "rms_norm of a frozen weight": (f.rms_norm, {"x": x, "weight": weight}, ("weight",)),
        "rms_norm of a frozen input": (f.rms_norm, {"x": x, "weight": weight}, ("x",)),
        "layer_norm": (f.layer_norm, {"x": x, "weight": weight, "bias": bias}, ()),
        "layer_norm without bias": (f.layer_norm, {"x": x, "weight": weight}, ()),
        "layer_norm without weight": (
            lambda x, bias: f.layer_norm(x, None, bias),
            {"x": x, "bias": bias},
            (),
        ),
        "fused_add_rms_norm": (
            f.fused_add_rms_norm,
            {"x": x, "residual": residual, "weight": weight},
            (),
        ),
        "fused_add_rms_norm, the norm alone": (
            lambda **tensors: f.fused_add_rms_norm(**tensors)[0],
            {"x": x, "residual": residual, "weight": weight},
            (),
        ),
        "fused_add_rms_norm, the sum alone": (
            lambda **tensors: f.fused_add_rms_norm(**tensors)[1],
            {"x": x, "residual": residual, "weight": weight},
            (),
        ),
        "fused_add_layer_norm": (
            f.fused_add_layer_norm,
            {"x": x, "residual": residual, "weight": weight, "bias": bias},
            (),
        ),
        "rms_norm_add": (f.rms_norm_add, {"x": x, "residual": residual, "weight": weight}, ()),
        "layer_norm_add": (
            f.layer_norm_add,
            {"x": x, "residual": residual, "weight": weight, "bias": bias},
            (),
        ),
        "gated_rms_norm": (f.gated_rms_norm, {"x": x, "gate": gate, "weight": weight}, ()),
        "gated_rms_norm of groups": (
            lambda **tensors: f.gated_rms_norm(**tensors, gate_first=True, group_size=8),
            {"x": x, "gate": gate, "weight": weight},
            (),
        ),
        "modulated_rms_norm": (
            f.modulated_rms_norm,
            {"x": x, "scale": torch.randn(4, 1, 16), "weight": weight},
            (),
        ),
        "modulated_rms_norm of each row": (
            f.modulated_rms_norm,
            {"x": x, "scale": rows(16), "shift": rows(16), "weight": weight},
            (),
        ),
        "modulated_rms_norm, one for all": (
            lambda x, bias, weight: f.modulated_rms_norm(x, bias, None, weight),
            {"x": x, "bias": bias, "weight": weight},
            (),
        ),
        "poly_norm": (
            f.poly_norm,
            {"x": x, "weight": torch.randn(3), "bias": torch.randn(1)},
            (),
        ),
        "dyt": (f.dyt, {"x": x, "alpha": torch.ones(1), "gamma": weight, "beta": bias}, ()),
        "relu_squared": (f.relu_squared, {"x": x}, ()),
        "swiglu": (f.swiglu, {"gate": gate, "up": up}, ()),
        "geglu": (f.geglu, {"gate": gate, "up": up}, ()),
        "geglu, exact": (lambda gate, up: f.geglu(gate, up, "none"), {"gate": gate, "up": up}, ()),
        "rope": (f.rope, {"q": q, "k": k, **angles()}, table),
        "rope of each batch": (f.rope, {"q": q, "k": k, **angles(4)}, table),
        "rope of queries": (
            lambda q, cos, sin: f.rope(q, None, cos, sin)[0],
            {"q": q, **angles()},
            table,
        ),
        "rope, the keys unused": (
            lambda **tensors: f.rope(**tensors)[0],
            {"q": q, "k": k, **angles()},
            table,
        ),
        "rope_by_position": (
            f.rope,
            {
                "q": q,
                "k": k,
                **{name: one[0] for name, one in angles(tokens=9).items()},
                "position_ids": torch.randint(9, (1, 6)),
            },
            (*table, "position_ids"),
        ),
        "rope_by_position of each batch": (
            f.rope,
            {
                "q": q,
                "k": k,
                **{name: one[0] for name, one in angles(tokens=9).items()},
                "position_ids": torch.randint(9, (4, 6)),
            },
            (*table, "position_ids"),
        ),
        "mrope": (
            lambda **tensors: f.mrope(**tensors, sections=(1, 2, 1)),
            {"q": q, "k": k, **angles(3, 1)},
            table,
        ),
        "mrope of each batch": (
            lambda **tensors: f.mrope(**tensors, sections=(1, 2, 1)),
            {"q": q, "k": k, **angles(3, 4)},
            table,
        ),
        "complex_rope": (
            f.complex_rope,
            {"q": q, "k": k, "freqs": angles(4)["cos"]},
            ("freqs",),
        ),
        "qk_norm_rope": (
            f.qk_norm_rope,
            {"q": q, "k": k, "weight_q": size, "weight_k": size + 1, **angles()},
            table,
        ),
        "qk_norm_rope, the queries unused": (
            lambda **tensors: f.qk_norm_rope(**tensors)[1],
            {"q": q, "k": k, "weight_q": size, "weight_k": size + 1, **angles(4)},
            table,
        ),
        "full_qk_norm_rope": (
            f.full_qk_norm_rope,
            {
                "q": q,
                "k": k,
                "weight_q": torch.randn(q.shape[1] * q.shape[3]),
                "weight_k": torch.randn(k.shape[1] * k.shape[3]),
                **angles(),
            },
            table,
        ),
        "rope, heads third": (
            lambda **tensors: f.rope(**tensors, unsqueeze_dim=2),
            {"q": side_by_side(4), "k": side_by_side(2), **angles()},
            table,
        ),
        "cross_entropy": (
            f.cross_entropy,
            {"logits": rows(16), "target": torch.randint(16, (4, 6))},
            ("target",),
        ),
        "cross_entropy of each token": (
            lambda logits, target: f.cross_entropy(logits, target, reduction="none"),
            {"logits": rows(16), "target": torch.randint(16, (4, 6))},
            ("target",),
        ),
        "fused_linear_cross_entropy": (
            f.fused_linear_cross_entropy,
            {"input": x, "weight": torch.randn(12, 16), "target": torch.randint(12, (4, 6))},
            ("target",),
        ),
        "gated_mlp": (
            f.gated_mlp,
            {
                "x": x,
                "gate_weight": torch.randn(12, 16),
                "up_weight": torch.randn(12, 16),
                "down_weight": torch.randn(16, 12),
            },
            (),
        ),
    }


# Where the tensors with a batch of four are split; a table of angles has the tokens second.
PLANS = {
    "whole": lambda name, value: WHOLE,
    "batch": lambda name, value: Shard(0) if value.shape[0] == 4 else WHOLE,
    "tokens": lambda name, value: (
        WHOLE
        if 6 not in value.shape
        else Shard(value.shape.index(6, 1 if value.dim() < 4 or value.shape[1] == 6 else 2))
    ),
    "heads": lambda name, value: Shard(1) if name in ("q", "k") else WHOLE,
    "columns": lambda name, value: Shard(value.dim() - 1) if value.is_floating_point() else WHOLE,
}


def leaves(tensors, constants, distribute=lambda name, value: value):
    return {
        name: distribute(name, value.clone()).requires_grad_(name not in constants)
        for name, value in tensors.items()
    }


def backward(outputs, leaf):
    """Gradients of leaves, from gradients of the outputs that are the same on each call."""
    seeds = []
    for i, output in enumerate(outputs):
        generator = torch.Generator().manual_seed(i)
        seed = torch.randn(output.shape, generator=generator).to(output.device, output.dtype)
        if isinstance(output, DTensor):
            seed = distribute_tensor(seed, output.device_mesh, output.placements)
        seeds.append(seed)
    wanted = {name: value for name, value in leaf.items() if value.requires_grad}

    def run():
        gradients = torch.autograd.grad(outputs, tuple(wanted.values()), seeds, allow_unused=True)
        return {name: one for name, one in zip(wanted, gradients) if one is not None}

    return run


class Collectives:
    """Counts those of the default group from here on; a mode of torch would keep compile out."""

    def __init__(self):
        self.group = torch.distributed.group.WORLD
        self.before = self.group._get_sequence_number_for_group()

    def count(self):
        return self.group._get_sequence_number_for_group() - self.before


def compared(function, tensors, constants, distribute):
    plain = leaves(tensors, constants)
    expected = tensors_of(function(**plain))
    expected_gradients = backward(expected, plain)()
    sharded = leaves(tensors, constants, distribute)
    forward = Collectives()
    outputs = tensors_of(function(**sharded))
    in_forward = forward.count()
    run = backward(outputs, sharded)
    in_backward = Collectives()
    gradients = run()
    collectives = in_forward + in_backward.count()
    assert gradients.keys() == expected_gradients.keys()
    return {
        "outputs": [
            [difference(one, other), text(one.placements)]
            for one, other in zip(outputs, expected, strict=True)
        ],
        "gradients": {
            name: [difference(one, expected_gradients[name]), text(one.placements)]
            for name, one in gradients.items()
        },
        "collectives": collectives,
    }


def of_functions(mesh, device):
    told = {}
    for name, (function, tensors, constants) in calls().items():
        tensors = {key: value.to(device) for key, value in tensors.items()}
        told[name] = {}
        for plan, placement in PLANS.items():
            if plan == "tokens" and "cross_entropy" in name:
                continue  # torch does not join a batch with tokens that are split
            told[name][plan] = compared(
                function,
                tensors,
                constants,
                lambda key, value, place=placement: distribute_tensor(
                    value, mesh, [place(key, value)]
                ),
            )
    return told


def of_uneven_rows(mesh, device):
    """Three rows on two ranks, and one row, which one rank has none of."""
    told = {}
    for number in (3, 1):
        tensors = {"x": torch.randn(number, 16, device=device)}
        tensors["weight"] = torch.randn(16, device=device)
        told[number] = compared(
            functional.rms_norm,
            tensors,
            (),
            lambda key, value: distribute_tensor(value, mesh, [Shard(0) if key == "x" else WHOLE]),
        )
    return told


def of_two_dimensions(device):
    """A mesh for batches and one for tokens, and one of both."""
    told = {}
    x, weight = rows(16).to(device), torch.randn(16, device=device)
    for shape in ((2, 1), (1, 2)):
        mesh = init_device_mesh(device.type, shape)
        told[str(shape)] = compared(
            functional.rms_norm,
            {"x": x, "weight": weight},
            (),
            lambda key, value, mesh=mesh: distribute_tensor(
                value, mesh, [Shard(0), Shard(1)] if key == "x" else [WHOLE, WHOLE]
            ),
        )
    return told


def of_options(mesh, device):
    """One op called with other options each time, its tensors placed alike: what torch remembers
    of a call must not be taken for another."""
    told = []
    x, weight, dy = (rows(16).to(device), torch.randn(16, device=device), rows(16).to(device))
    rstd = x.square().mean(-1).rsqrt()
    op = operator("rms_norm_backward")
    for wants in ([True, True], [False, True], [True, False], [False, False]):
        for has_weight in (True, False):
            tensors = (dy, x, weight if has_weight else None, rstd)
            sharded = (
                distributed(one, mesh, WHOLE if one is weight else Shard(1)) for one in tensors
            )
            scalars = (1e-6, 0.0, 0, False, wants)
            told += [
                difference(one, other)
                for one, other in zip(op(*sharded, *scalars), op(*tensors, *scalars), strict=True)
            ]
    return told


def of_a_compiled_call(mesh, device):
    x, weight = rows(16).to(device), torch.randn(16, device=device)
    return compared(
        torch.compile(functional.rms_norm, backend="aot_eager", fullgraph=True),
        {"x": x, "weight": weight},
        (),
        lambda key, value: distribute_tensor(value, mesh, [Shard(1) if key == "x" else WHOLE]),
    )


def run(rank, folder, device):
    torch.manual_seed(20)
    mesh = init_device_mesh(device.type, (2,))
    return {
        "registry": of_registry(mesh, device),
        "functions": of_functions(mesh, device),
        "uneven": of_uneven_rows(mesh, device),
        "two dimensions": of_two_dimensions(device),
        "options": of_options(mesh, device),
        "compiled": of_a_compiled_call(mesh, device),
    }


if __name__ == "__main__":
    as_ranks(run)
