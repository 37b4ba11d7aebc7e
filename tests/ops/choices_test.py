"""Options are named in the declaration, and their names are the same everywhere."""

import inspect

import pytest
import torch
from liger_jit import functional, library
from liger_jit import ops as bound
from own_command import command

CHOICES = [
    (op["name"], one["name"], one["choices"])
    for op in library.ops()
    for one in op["inputs"]
    if one["choices"]
]
WORDS = {
    ("rms_norm", "casting_mode"): lambda word: functional.rms_norm(
        torch.ones(2, 8), torch.ones(8), casting_mode=word
    ),
    ("geglu", "approximate"): lambda word: functional.geglu(
        torch.ones(2, 8), torch.ones(2, 8), approximate=word
    ),
    ("gated_mlp", "activation"): lambda word: functional.gated_mlp(
        torch.ones(2, 8), *(torch.ones(8, 8) for _ in range(3)), activation=word
    ),
    ("tiled_mlp", "activation"): lambda word: functional.tiled_mlp(
        torch.ones(2, 8), *(torch.ones(8, 8) for _ in range(3)), activation=word
    ),
    ("packed_glu", "activation"): lambda word: functional.packed_glu(torch.ones(2, 8), word),
    ("activate", "activation"): lambda word: functional.activate(torch.ones(2, 8), word),
    ("cross_entropy", "reduction"): lambda word: functional.cross_entropy(
        torch.ones(2, 8), torch.ones(2, dtype=torch.int64), reduction=word
    ),
}


@pytest.mark.parametrize(("op", "option", "names"), CHOICES)
def test_a_default_is_one_of_the_choices(op, option, names):
    schema = getattr(torch.ops.liger_jit, op).default._schema
    default = next(a.default_value for a in schema.arguments if a.name == option)
    assert default is None or 0 <= default < len(names)


@pytest.mark.parametrize(("op", "option"), WORDS)
def test_each_name_is_taken_and_no_other(op, option):
    call, names = WORDS[op, option], bound.choices(op, option)
    for name in names:
        call(name)
    with pytest.raises(ValueError, match=option) as refused:
        call("nonsense")
    for word in (op, "nonsense", *map(repr, names)):
        assert word in str(refused.value)


@pytest.mark.parametrize(("op", "option"), WORDS)
def test_the_documentation_names_each(op, option):
    words = inspect.getdoc(getattr(functional, op))
    for name in bound.choices(op, option):
        assert f'"{name}"' in words


def test_the_command_line_lists_them():
    printed = " ".join(command("list").stdout.split())
    for op, option, names in CHOICES:
        if op in dict.fromkeys(op for op, _ in WORDS):
            # Other columns stand between the lines of a long cell.
            assert f"{option}: {names[0]}" in printed
            assert all(name in printed for name in names)
