"""What is fused in each family, by release of transformers: none is lost, none goes unsaid."""

import re

import fused_roles
import pytest
import transformers
from fused_roles import RELEASE, TABLE, fused_in, installed_types, read_table, report_of
from liger_jit.patch.families import FAMILY_OF_TYPE
from liger_jit.tried import TRANSFORMERS as RELEASES
from torch import nn

# (release, family, role) of what another release has no more, with the reason.
GONE = {
    ("5.15", "gemma3", "causal_mask"): "its outer model makes no mask of its own",
    ("5.24", "gemma2", "causal_mask"): "it has no scaled dot-product attention",
}
LAYER_OR_ATTENTION = re.compile(r"(Layer|Block|Attention)$")


@pytest.fixture(scope="module")
def expected():
    table = read_table()
    assert RELEASE in table, (
        f"{TABLE.name} has no row for transformers {transformers.__version__}: look at what "
        "`python tests/patch/fused_roles.py` prints, and add it with --write"
    )
    return table[RELEASE]


@pytest.mark.parametrize("model_type", sorted(FAMILY_OF_TYPE))
def test_no_role_is_lost_and_none_goes_unsaid(model_type, expected):
    assert (model_type in expected) == (model_type in installed_types())
    if model_type not in expected:
        return
    model, report = report_of(model_type)
    found = fused_in(report)
    for role, count in expected[model_type].items():
        assert found.get(role, 0) >= count, f"{role}\n{report}"
    told = {row.path for row in report}
    for path, module in model.named_modules():
        norms = [child for name, child in module.named_children() if is_norm(name, child)]
        if norms and LAYER_OR_ATTENTION.search(type(module).__name__):
            assert path in told, f"{path} ({type(module).__name__})\n{report}"
    for row in report:
        assert row.status and not re.search(r"cannot be (probed|looked at)", row.status), row


def is_norm(name, child):
    return "norm" in name and not isinstance(child, nn.Identity)


def test_the_table_has_each_release_and_a_later_one_fuses_what_an_earlier_one_did():
    table = read_table()
    assert set(RELEASES) <= set(table)
    ordered = sorted(table, key=lambda name: [int(part) for part in name.split(".")])
    gone = set()
    for before, after in zip(ordered, ordered[1:], strict=False):
        for family, roles in table[before].items():
            for role, count in roles.items():
                if table[after].get(family, {}).get(role, 0) < count:
                    gone.add((after, family, role))
    assert gone == set(GONE)


def test_a_release_is_added_to_the_table_and_leaves_the_others_as_they_were(tmp_path, monkeypatch):
    before = read_table()
    monkeypatch.setattr(fused_roles, "TABLE", tmp_path / "table.json")
    fused_roles.write(before)
    assert fused_roles.TABLE.read_text() == TABLE.read_text()
    fused_roles.write(before | {"5.100": {"llama": {"rope": 2}}})
    assert fused_roles.read_table() == {**before, "5.100": {"llama": {"rope": 2}}}
