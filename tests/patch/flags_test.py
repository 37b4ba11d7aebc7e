"""The flags of `patch`: one table for its signature, its help, its errors and its rules."""

import inspect

import pytest
from liger_jit.patch import patch
from liger_jit.patch.apply import RULES
from liger_jit.patch.flags import FLAGS, ROLES, TABLE
from tiny_models import build
from torch import nn

LOSSES = {"cross_entropy", "fused_linear_cross_entropy"}
OFF = dict.fromkeys(FLAGS, False)


def test_the_signature_is_the_table():
    model, *flags, unknown = inspect.signature(patch).parameters.values()
    assert model.name == "model" and model.default is model.empty
    assert [(one.name, one.default) for one in flags] == [(one.name, one.default) for one in TABLE]
    assert unknown.kind is unknown.VAR_KEYWORD


@pytest.mark.parametrize("flag", TABLE, ids=lambda flag: flag.name)
def test_help_and_errors_tell_of_each_flag(flag):
    told = " ".join(patch.__doc__.split())
    assert f" {flag.name}: {flag.help} " in told
    with pytest.raises(TypeError, match=rf"does not know rop; its flags: .*\b{flag.name}\b"):
        patch(build(), rop=False)
    if flag.not_with:
        with pytest.raises(ValueError, match="and .* replace the same loss"):
            patch(build(), **OFF | {flag.name: True, flag.not_with: True})


def test_each_role_has_a_flag_and_a_rule():
    of_rules = {role for rule in RULES for role in rule.roles}
    assert of_rules | LOSSES == ROLES.keys()
    assert all(flag.name in flag.roles for flag in TABLE)
    assert all(FLAGS[flag.not_with].not_with == flag.name for flag in TABLE if flag.not_with)


class NormThenSum(nn.Module):
    """A layer that no family of transformers has: its LayerNorm stands before its sum."""

    def __init__(self):
        super().__init__()
        self.attention, self.mlp = (nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(2))
        self.norm = nn.LayerNorm(16)

    def forward(self, x):
        x = self.attention(x)
        y = self.mlp(x)
        y = self.norm(y)
        y = x + y
        return y


@pytest.mark.parametrize("flag", TABLE, ids=lambda flag: flag.name)
def test_a_flag_switches_its_roles_and_no_others(flag):
    """A role that another flag has as well stays off."""
    patched = set()
    for family in (
        "Qwen3",
        "Gemma",
        "StableLm",
        "Starcoder2",
        "Nemotron",
        "Phi",
        "Olmo2",
        "Mamba2",
    ):
        attention = {} if family == "Mamba2" else {"attn_implementation": "sdpa"}
        model = build(family, **attention)
        rows = patch(model, **OFF | {flag.name: True}).report()
        patched |= {row.role for row in rows if row.patched}
    rows = patch(nn.Sequential(NormThenSum()), **OFF | {flag.name: True}).report()
    patched |= {row.role for row in rows if row.patched}
    assert patched == {role for role in flag.roles if ROLES[role] == (flag.name,)}


def test_flags_may_be_given_by_their_places():
    rows = patch(build(), False, False).report()
    roles = {row.role for row in rows if row.patched}
    assert roles == {"swiglu", "fused_linear_cross_entropy"}
