"""What is measured: the cases that ops declare, as tensors."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import functional
from ..library import native, ops
from .peers import Absent, eager

DTYPES = {
    "bf16": torch.bfloat16,
    "f32": torch.float32,
    "i64": torch.int64,
    "i32": torch.int32,
    "i8": torch.int8,
    "u8": torch.uint8,
}
IGNORED = 0.6  # of the labels, where prompts are long or padding is much
IGNORE_INDEX = eager.IGNORE_INDEX
LABELS = ("target", "ids")
# Rows, size and all others of a call whose time is the host's, and of a run that only tries
# everything.
SMALL = (8, 128, 8)

# The same of a case on the CPU, whose declared sizes are a GPU's: some milliseconds a call.
ON_CPU = (256, 4096, 256)


@dataclass(frozen=True)
class Case:
    op: dict[str, Any]  # its entry of the registry
    name: str
    sizes: dict[str, int]  # all that the op's example has
    dtype: str = "bf16"
    ignored: float = 0.0  # of the labels
    ignored_first: float = 0.0  # of each sequence's labels, the first ones
    options: dict[str, Any] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    skew: float = 1.0  # how often the lower half of integers comes, beside the upper one

    @property
    def rows(self) -> int:
        return self.sizes["rows"]

    def with_rows(self, rows: int) -> Case:
        return replace(self, sizes=self.sizes | {"rows": rows})

    def at_most(self, rows: int, size: int, others: int) -> Case:
        most = {"rows": rows, "size": size}
        sizes = {name: min(most.get(name, others), value) for name, value in self.sizes.items()}
        return replace(self, sizes=sizes)

    def values(self, device: str, op: str | None = None) -> dict[str, Any]:
        """{argument: value}, the same each time: the tensors, and numbers that our function has no
        default for; with `op` all arguments of another op, the backward."""
        torch.manual_seed(0)
        example = native()._example(op or self.op["name"], self.dtype, self.sizes)
        needed = () if op else needed_by(self.op["name"])
        values = {}
        for one in json.loads(example):
            if one["kind"] == "tensor":
                values[one["name"]] = self._tensor(one, device)
            elif op or one["name"] in needed:
                values[one["name"]] = one.get("value")
        return values

    def _tensor(self, one: dict[str, Any], device: str) -> Tensor:
        shape, dtype = one["shape"], DTYPES[one["dtype"]]
        if one["name"] in LABELS and dtype == torch.int64:
            labels = torch.randint(one["below"], shape, device=device)
            labels[..., : int(self.ignored_first * shape[-1])] = IGNORE_INDEX
            return labels.masked_fill(torch.rand(shape, device=device) < self.ignored, IGNORE_INDEX)
        if not dtype.is_floating_point and self.skew != 1:
            odds = torch.ones(one["below"], device=device)
            odds[: one["below"] // 2] = self.skew
            drawn = odds.multinomial(math.prod(shape), replacement=True)
            return drawn.view(shape).to(dtype)
        if not dtype.is_floating_point:
            return torch.randint(one["below"], shape, device=device, dtype=dtype)
        if one["heads_second"]:
            batch, heads, tokens, size = shape
            value = torch.randn(batch, tokens, heads, size, device=device, dtype=dtype)
            return value.transpose(1, 2)
        value = torch.randn(shape, device=device, dtype=dtype)
        if one["probabilities"]:
            return value.softmax(-1)
        if one["name"].endswith("weight") and len(shape) == 2:
            value *= shape[1] ** -0.5  # logits of a trained model's size
        return value

    def differentiable(self) -> list[str]:
        """The inputs that have a gradient and are not frozen: asked for that of another, the
        function refuses, or what it returns has none."""

        def accepts(name: str) -> bool:
            values = self.values("meta")
            value = values[name]
            if (
                name in self.frozen
                or not isinstance(value, Tensor)
                or not value.is_floating_point()
            ):
                return False
            value.requires_grad_()
            try:
                outputs = tensors_of(ours(self.op["name"])(**values))
            except NotImplementedError:
                return False
            return any(output.requires_grad for output in outputs)

        return [name for name in self.values("meta") if accepts(name)]

    def told(self, function: Callable, values: dict[str, Any]) -> Callable:
        """The function with the case's options and, where labels are ignored and it takes such a
        number, with how many count, as a patched model knows it when it comes to its loss.

        An option that eager PyTorch has no word for says how ours works; others go without.
        Raises Absent for a function without an option of the loss."""
        ignores = self.ignored or self.ignored_first
        if not ignores and not self.options:
            return function
        named = inspect.signature(function).parameters
        known = {name: value for name, value in self.options.items() if name in named}
        missing = [name for name in self.options if name not in named]
        if any(
            name in inspect.signature(getattr(eager, self.op["name"])).parameters
            for name in missing
        ):
            raise Absent(f"it has no {', '.join(missing)}")
        if ignores and "counted_tokens" in named:
            (labels,) = (values[name] for name in LABELS if name in values)
            known["counted_tokens"] = int(labels.ne(IGNORE_INDEX).sum())
        return partial(function, **known) if known else function

    @property
    def about(self) -> dict[str, Any]:
        return {"op": self.op["name"], "case": self.name, "dtype": self.dtype, **self.sizes}


def ours(op: str) -> Callable:
    return getattr(functional, op)


def needed_by(op: str) -> set[str]:
    """The arguments that the function, or else the operator, cannot be called without."""
    function = getattr(functional, op, None)
    if function is None:
        return set()
    parameters = inspect.signature(function).parameters.values()
    return {one.name for one in parameters if one.default is inspect.Parameter.empty}


def tensors_of(outputs) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def cut_for_cpu(cases: list[Case]) -> list[Case]:
    """Those that differ still at sizes for a CPU, each in float32 and bfloat16."""
    found: list[Case] = []
    for case in cases:
        for dtype in ("f32", "bf16"):
            cut = replace(case.at_most(*ON_CPU), dtype=dtype)
            if all(replace(cut, name=one.name) != one for one in found):
                found.append(cut)
    return [replace(case, name=f"{case.name}, cut for the CPU") for case in found]


def declared(names: list[str]) -> list[Case]:
    """The cases of the ops named, or of all. Raises ValueError for one that declares none."""
    with_cases = [op for op in ops() if op["cases"] and not op["internal"]]
    known = [op["name"] for op in with_cases]
    for name in names:
        if name not in known:
            raise ValueError(f"no op {name!r} declares a case; those that do: {', '.join(known)}")
    found = []
    for op in with_cases:
        if names and op["name"] not in names:
            continue
        for case in op["cases"]:
            sizes = {one["name"]: case[one["name"]] for one in op["sizes"]}
            plain = Case(
                op,
                case["name"],
                sizes,
                case["dtype"],
                ignored_first=case["ignored_first"],
                options=case["options"],
                frozen=tuple(case["frozen"]),
                skew=case["skew"],
            )
            found.append(plain)
            if op["composite"] and "target" in plain.values("meta") and not plain.options:
                name = f"{plain.name}, {IGNORED:.0%} ignored"
                found.append(replace(plain, name=name, ignored=IGNORED))
    return found
