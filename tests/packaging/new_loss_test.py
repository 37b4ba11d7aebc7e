"""A new loss behind a linear layer is three files: those of docs/adding_a_loss.md, in a copy of the
tree, pass the tests that every linear loss gets, and nothing else is edited."""

import pytest
from build_tree import needs_build
from grown_tree import assert_in_form, files_of, grown, pytest_in

needs_build()
PAGE = "adding_a_loss.md"
NAME = "fused_linear_square"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    tree = tmp_path_factory.mktemp("tree")
    assert len(files_of(PAGE)) == 3
    grown(tree, PAGE)
    return tree


def test_the_page_is_in_the_form_of_the_code():
    assert_in_form(PAGE)


def test_the_page_is_short_and_its_loss_too():
    sources = [text for path, text in files_of(PAGE).items() if path.endswith(".cpp")]
    assert len(sources) == 2 and all(text.count("\n") < 30 for text in sources)


@pytest.mark.parametrize(
    ("tests", "least"),
    [
        ("tests/ops/linear_loss/every_linear_loss_test.py", 11),
        ("tests/ops/every_op_test.py", 10),
        ("tests/ops/every_layout_test.py", 5),
        ("tests/ranks/linear_losses_test.py", 2),
    ],
)
def test_the_tests_of_every_loss_know_it(tree, tests, least):
    code, passed, said = pytest_in(tree, tests, "-k", NAME)
    assert code == 0, said
    assert passed >= least


def test_its_own_test_passes(tree):
    (own,) = [name for name in files_of(PAGE) if name.startswith("tests/")]
    code, passed, said = pytest_in(tree, own)
    assert code == 0 and passed == 6, said


def test_its_files_stand_where_they_should(tree):
    layers = ("tests/layers_test.py", "-k", "op_has_its_files or named_outside")
    code, passed, said = pytest_in(tree, *layers)
    assert code == 0 and passed == 2, said
