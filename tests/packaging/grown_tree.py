"""A copy of the sources with the files of a page of docs in it, and what is built of it: what the
build would compile for these files is compiled, and linked with the rest of the build."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from build_tree import BINDING, BUILD, CORE, ROOT, cmake, compile_command, link_command

LINKED = ("pyproject.toml", *"cmake bench tools examples torch_bindings".split())
COPIED = "base cache runtime autotune engine ops templates composites python tests".split()
# Of each folder that sources may be added to, a source that is compiled as they are.
ALIKE = {"ops": "ops/mlp/swiglu.cpp", "composites": "composites/linear_loss/fused_linear_simpo.cpp"}


def files_of(page):
    """{path: text} of the sections that are headed by a path."""
    text = (ROOT / "docs" / page).read_text()
    return dict(re.findall(r"^## \d\. [^\n]*: `(\S+)`\n\n```\w+\n(.*?)^```", text, re.M | re.S))


def grown(tree, page):
    """Makes the folder a copy of the tree with the files of the page and its own libraries."""
    ignored = shutil.ignore_patterns("native", "__pycache__")
    for name in COPIED:
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    for name in LINKED:
        (tree / name).symlink_to(ROOT / name)
    before = {path.relative_to(tree) for path in tree.rglob("*")}
    files = files_of(page)
    for path, text in files.items():
        (tree / path).write_text(text)
    new = {str(path.relative_to(tree)) for path in tree.rglob("*")} - {str(path) for path in before}
    assert new == set(files), "a file of the page was there already"

    native = tree / "python/liger_jit/native"
    native.mkdir()
    _link_core(tree, native, [path for path in files if path.startswith("ops/")])
    _link_binding(tree, native, [path for path in files if path.startswith("composites/")])
    shutil.copy(BUILD / "liger-hiprtc-helper", native)


def _link_core(tree, native, sources):
    templates = [path.relative_to(tree / "templates") for path in (tree / "templates").rglob("*.h")]
    embedded, declared = tree / "embedded_templates.cpp", tree / "declared_ops.cpp"
    _script("embed_templates.cmake", embedded, FOLDER=tree / "templates", NAMES=_comma(templates))
    _script("count_ops.cmake", declared, FILES=_comma((tree / "ops").rglob("*.cpp")))
    made = {one.stem: _compiled(one, BUILD / one.name, tree) for one in (embedded, declared)}
    words = [
        made.get(re.sub(r"\.cpp\.o$", "", word.rpartition("/")[2]), word)
        for word in link_command(CORE)
    ]
    at = words.index(made[declared.stem])
    words[at:at] = [_compiled(tree / source, ROOT / ALIKE["ops"], tree) for source in sources]
    _link(words, native / CORE)


def _link_binding(tree, native, sources):
    if not sources:
        shutil.copy(BUILD / BINDING, native)
        return
    words = link_command(BINDING)
    at = next(i for i, word in enumerate(words) if word.endswith(".cpp.o"))
    like = ROOT / ALIKE["composites"]
    words[at:at] = [_compiled(tree / source, like, tree) for source in sources]
    _link(words, native / BINDING)


def _link(words, output):
    words[words.index("-o") + 1] = str(output)
    subprocess.run(words, cwd=BUILD, check=True)


def _script(name, output, **values):
    words = [word for key, value in values.items() for word in ("-D", f"{key}={value}")]
    words += ["-D", f"OUTPUT={output}", "-P", ROOT / "cmake" / name]
    subprocess.run([cmake(), *words], check=True)


def _compiled(source, like, tree):
    """The object of a source of the copy, compiled as the build compiles `like`."""
    words = [
        re.sub(rf"^(-I)?{re.escape(str(ROOT))}$", rf"\g<1>{tree}", word)
        for word in compile_command(like)
    ]
    made = tree / "-".join(source.relative_to(tree).with_suffix(".o").parts)
    for option, value in (("-o", made), ("-c", source), ("-MF", f"{made}.d"), ("-MT", made)):
        if option in words:
            words[words.index(option) + 1] = str(value)
    subprocess.run(words, cwd=BUILD, check=True)
    return str(made)


def _comma(paths):
    return ",".join(str(path) for path in sorted(paths))


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


def assert_in_form(page):
    """What clang-format would make of the C++ of the page is what stands there."""
    form = Path(sys.executable).parent / "clang-format"
    if not form.is_file():
        pytest.skip("clang-format is not installed")
    for path, text in files_of(page).items():
        if path.endswith(".py"):
            continue
        command = [form, f"--style=file:{ROOT / '.clang-format'}", f"--assume-filename={path}"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
        assert done.stdout == text, path
