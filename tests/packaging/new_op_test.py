"""A new op is three files: those of docs/adding_an_op.md, in a copy of the tree, pass the tests
that every op gets, and nothing else is edited."""

import pytest
from build_tree import needs_build
from grown_tree import assert_in_form, files_of, grown, pytest_in

needs_build()
PAGE = "adding_an_op.md"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    tree = tmp_path_factory.mktemp("tree")
    assert len(files_of(PAGE)) == 3
    grown(tree, PAGE)
    return tree


def test_the_page_is_in_the_form_of_the_code():
    assert_in_form(PAGE)


def test_the_tests_of_every_op_know_it(tree):
    shared = ("tests/ops/every_op_test.py", "tests/ops/every_layout_test.py")
    code, passed, said = pytest_in(tree, *shared, "-k", "softsign")
    assert code == 0, said
    assert passed > 40


def test_its_own_test_passes(tree):
    (own,) = [name for name in files_of(PAGE) if name.startswith("tests/")]
    code, passed, said = pytest_in(tree, own)
    assert code == 0 and passed > 5, said


def test_its_files_stand_where_they_should(tree):
    layers = ("tests/layers_test.py", "-k", "op_has_its_files or named_outside")
    code, passed, said = pytest_in(tree, *layers)
    assert code == 0 and passed == 2, said
