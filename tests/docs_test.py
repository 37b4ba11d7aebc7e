"""What the documents say is so: their code runs, their tables equal the library's."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from liger_jit.library import ask

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").glob("*.md"))]


def text(path):
    return path.read_text() if path.exists() else ""


def blocks(path, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text(path), re.MULTILINE | re.DOTALL)


def first_cells(documents, pattern):
    """The code at the start of table rows, for example of `| `rms_norm` | … |`."""
    rows = re.compile(rf"^\| *`({pattern})`", re.MULTILINE)
    return [name for path in documents for name in rows.findall(text(path))]


@pytest.mark.parametrize(
    "document",
    ["README.md", *(f"docs/{name}.md" for name in ("architecture", "invariants", "adding_an_op"))],
)
def test_the_document_is_there(document):
    assert (ROOT / document).is_file()


@pytest.mark.parametrize("number", range(len(blocks(README, "python"))))
def test_code_of_the_readme_runs(number, tmp_path):
    """Each block by itself, in an empty folder."""
    code = blocks(README, "python")[number]
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=_with_sources(),
    )
    assert done.returncode == 0, f"{code}\n{done.stderr[-3000:]}"


def _with_sources():
    return {**os.environ, "PYTHONPATH": str(ROOT / "python")}


def test_environment_table_is_that_of_the_library():
    told = first_cells(DOCUMENTS, r"LIGER_JIT_\w+")
    assert sorted(told) == sorted(one["name"] for one in ask("_environment")["variables"])


def test_every_variable_that_is_named_exists():
    known = {one["name"] for one in ask("_environment")["variables"]}
    for path in DOCUMENTS:
        # Not those of CMake, which follow -D or what pip takes for it.
        for name in re.findall(r"(?<!cmake\.define\.)\bLIGER_JIT_[A-Z_]+\b", text(path)):
            assert name in known, f"{path.name} names {name}"


_CODE = (".py", ".cpp")


def named_tests(document):
    """(file, name) of each test that a document names as `tests/a/b_test.py: name`."""
    page = text(ROOT / "docs" / document)
    return re.findall(r"`(tests/[\w/]+_test\.(?:py|cpp)): (\w+)`", page)


def is_test_of(name, file):
    """Whether a file defines that test, and does not only mention it."""
    defined = rf"def {name}\(" if file.endswith(".py") else rf"TEST(?:_F|_P)?\(\w+,\s*{name}\)"
    return re.search(defined, text(ROOT / file)) is not None


@pytest.mark.parametrize("document", ["invariants.md", "reliability.md"])
def test_tests_that_a_document_names_exist(document):
    named = named_tests(document)
    assert len(named) > 20
    for file, name in named:
        assert (ROOT / file).is_file(), file
        assert is_test_of(name, file), f"{file} has no {name}"


def test_every_invariant_names_a_test():
    document = text(ROOT / "docs" / "invariants.md")
    parts = re.split(r"^(?=\d+\. )", document, flags=re.MULTILINE)[1:]
    assert parts
    for part in parts:
        assert "_test." in part, part.splitlines()[0]


def test_files_that_documents_link_to_exist():
    for path in DOCUMENTS:
        prose = re.sub(r"^```.*?^```", "", text(path), flags=re.MULTILINE | re.DOTALL)
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", prose):
            assert "://" in link or (path.parent / link).exists(), f"{path.name}: {link}"


def test_documents_that_docstrings_name_exist():
    named = {
        name
        for path in (ROOT / "python").rglob("*.py")
        for name in re.findall(r"\bdocs/\w+\.md\b", path.read_text())
    }
    assert "docs/patched_models.md" in named
    for name in named:
        assert (ROOT / name).is_file(), name


def test_targets_and_variables_of_the_page_on_reliability_exist():
    page = text(ROOT / "docs" / "reliability.md")
    makefile = text(ROOT / "Makefile")
    targets = set(re.findall(r"`make ([\w-]+)", page))
    assert {"test", "torture", "sanitize", "fuzz"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    sources = [path.read_text() for path in (ROOT / "tests").rglob("*.*") if path.suffix in _CODE]
    variables = set(re.findall(r"\b(TORTURE_\w+)=", page + makefile))
    assert variables
    for name in variables:
        assert any(f'"{name}"' in source for source in sources), name
