"""A new op is three files: those of docs/adding_an_op.md, in a copy of the tree, pass the tests
that every op gets, and nothing else is edited."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from build_tree import BINDING, BUILD, CORE, ROOT, cmake, compile_command, link_command, needs_build

needs_build()
LINKED = ("pyproject.toml", *"cmake bench tools examples composites torch_bindings".split())
COPIED = ("base", "cache", "runtime", "autotune", "engine", "ops", "templates", "python", "tests")
SHARED = ("tests/ops/every_op_test.py", "tests/ops/every_layout_test.py", "tests/layers_test.py")


def files_of_the_page():
    """{path: text} of the sections that are headed by a path."""
    page = (ROOT / "docs/adding_an_op.md").read_text()
    return dict(re.findall(r"^## \d\. [^\n]*: `(\S+)`\n\n```\w+\n(.*?)^```", page, re.M | re.S))


def script(name, output, **values):
    words = [word for key, value in values.items() for word in ("-D", f"{key}={value}")]
    words += ["-D", f"OUTPUT={output}", "-P", ROOT / "cmake" / name]
    subprocess.run([cmake(), *words], check=True)


def compiled(source, like, tree):
    """The object of a source of the copy, compiled as the build compiles `like`."""
    words = [
        re.sub(rf"^(-I)?{re.escape(str(ROOT))}$", rf"\g<1>{tree}", word)
        for word in compile_command(like)
    ]
    made = tree / f"{source.stem}.o"
    for option, value in (("-o", made), ("-c", source), ("-MF", f"{made}.d"), ("-MT", made)):
        if option in words:
            words[words.index(option) + 1] = str(value)
    subprocess.run(words, cwd=BUILD, check=True)
    return str(made)


def comma(paths):
    return ",".join(str(path) for path in sorted(paths))


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the sources with the op in it, and its library: what the build would compile for it
    is compiled, and linked with the rest of the build."""
    tree = tmp_path_factory.mktemp("tree")
    ignored = shutil.ignore_patterns("native", "__pycache__")
    for name in COPIED:
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    for name in LINKED:
        (tree / name).symlink_to(ROOT / name)
    before = {path.relative_to(tree) for path in tree.rglob("*")}
    for path, text in files_of_the_page().items():
        (tree / path).write_text(text)
    new = {str(path.relative_to(tree)) for path in tree.rglob("*")} - {str(path) for path in before}
    assert new == set(files_of_the_page()) and len(new) == 3

    templates = [path.relative_to(tree / "templates") for path in (tree / "templates").rglob("*.h")]
    embedded, declared = tree / "embedded_templates.cpp", tree / "declared_ops.cpp"
    script("embed_templates.cmake", embedded, FOLDER=tree / "templates", NAMES=comma(templates))
    script("count_ops.cmake", declared, FILES=comma((tree / "ops").rglob("*.cpp")))
    (source,) = [tree / name for name in new if name.startswith("ops/")]
    made = {
        "embedded_templates": compiled(embedded, BUILD / embedded.name, tree),
        "declared_ops": compiled(declared, BUILD / declared.name, tree),
    }
    words = [
        made.get(re.sub(r"\.cpp\.o$", "", word.rpartition("/")[2]), word)
        for word in link_command(CORE)
    ]
    at = words.index(made["declared_ops"])
    words.insert(at, compiled(source, ROOT / "ops/mlp/swiglu.cpp", tree))
    native = tree / "python/liger_jit/native"
    native.mkdir()
    words[words.index("-o") + 1] = str(native / CORE)
    subprocess.run(words, cwd=BUILD, check=True)
    for name in (BINDING, "liger-hiprtc-helper"):
        shutil.copy(BUILD / name, native / name)
    return tree


def test_the_page_is_in_the_form_of_the_code(tmp_path):
    form = Path(sys.executable).parent / "clang-format"
    if not form.is_file():
        pytest.skip("clang-format is not installed")
    for path, text in files_of_the_page().items():
        if path.endswith(".py"):
            continue
        command = [form, f"--style=file:{ROOT / '.clang-format'}", f"--assume-filename={path}"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
        assert done.stdout == text, path


def pytest_in(tree, *words):
    """(how many passed, the end of what was said) in the copy, on the CPU."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree / "python"), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    passed = re.search(r"(\d+) passed", done.stdout)
    return done.returncode, int(passed[1]) if passed else 0, done.stdout[-3000:] + done.stderr


def test_the_tests_of_every_op_know_it(tree):
    code, passed, said = pytest_in(tree, *SHARED[:2], "-k", "softsign")
    assert code == 0, said
    assert passed > 40


def test_its_own_test_passes(tree):
    (own,) = [name for name in files_of_the_page() if name.startswith("tests/")]
    code, passed, said = pytest_in(tree, own)
    assert code == 0 and passed > 5, said


def test_its_files_stand_where_they_should(tree):
    code, passed, said = pytest_in(tree, SHARED[2], "-k", "op_has_its_files or named_outside")
    assert code == 0 and passed == 2, said
