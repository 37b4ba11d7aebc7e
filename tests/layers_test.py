"""What docs/architecture.md says of the tree: who includes whom, sizes, names, three files."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from liger_jit.library import ops

ROOT = Path(__file__).resolve().parent.parent
# Each folder includes only itself and what stands before it.
LAYERS = (
    *("base", "cache", "runtime", "autotune", "engine", "ops", "torch_bindings", "composites"),
)
# So does each file or folder of the package; __init__ stands for what `import liger_jit` brings,
# ops/ for modules of liger_kernel.ops, which share a folder with the operators.
PACKAGE = ROOT / "python" / "liger_jit"
PYTHON = (
    *(
        "tried",
        "library",
        "ops",
        "functional",
        "distributed",
        "imports",
        "lowerings",
        "sharding",
        "stats",
    ),
    *("meta_calls", "compile_ahead", "patch", "model_config", "warmup", "chunked_loss"),
    *("transformers", "ops/"),
    *("__init__", "bench", "cli", "__main__"),
)
CODE = (*LAYERS, "templates", "tests", "python", "examples", "bench", "tools", "cmake")
MOST_LINES = 600
NO_NAMES = re.compile(r"(utils?|common|helpers?|managers?|misc)$")


def sources(*folders, suffixes=(".h", ".cpp", ".py", ".cmake")):
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*"))]
    return [
        path
        for path in found
        if path.suffix in suffixes and path.is_file() and "native" not in path.parts
    ]


def cpp(*folders):
    return sources(*folders, suffixes=(".h", ".cpp"))


def includes(path):
    return re.findall(r'^\s*#include ["<]([^">]+)[">]', path.read_text(), re.MULTILINE)


def name(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("layer", LAYERS)
def test_a_folder_includes_only_what_stands_before_it(layer):
    allowed = LAYERS[: LAYERS.index(layer) + 1]
    for path in cpp(layer):
        for included in includes(path):
            folder = included.split("/")[0]
            if "/" in included and (folder in LAYERS or folder in ("templates", "tests")):
                assert folder in allowed, f"{name(path)} includes {included}"


def test_templates_include_only_each_other():
    for path in cpp("templates"):
        for included in includes(path):
            assert (ROOT / "templates" / included).is_file(), f"{name(path)} includes {included}"


def test_only_the_bindings_see_torch():
    for path in cpp(*LAYERS[: LAYERS.index("torch_bindings")]):
        for included in includes(path):
            assert not re.match(r"(torch|ATen|c10|Python\.h)", included), name(path)


def test_releases_of_torch_differ_in_one_header():
    for path in cpp(*LAYERS):
        if name(path) != "torch_bindings/torch_version.h":
            assert "TORCH_VERSION" not in path.read_text(), name(path)


def test_debians_fmt_stays_out_of_headers_and_of_the_bindings():
    for path in cpp(*LAYERS):
        sees_fmt = {"base/text.h"} & set(includes(path)) or "#include <fmt/" in path.read_text()
        may = path.suffix == ".cpp" and path not in cpp("torch_bindings", "composites")
        may = may or name(path) == "base/text.h"
        assert may or not sees_fmt, name(path)


def test_fmt_is_compiled_in_one_file():
    """Half of the time that the core takes to build would go into it."""
    for path in cpp(*LAYERS, "tests", "bench"):
        of_fmt = [included for included in includes(path) if included.startswith("fmt/")]
        assert not of_fmt or name(path) in ("base/text.h", "base/text.cpp"), name(path)
        assert "fmt/format.h" not in of_fmt or name(path) == "base/text.cpp", name(path)


def test_kernels_do_not_know_compilers():
    """What differs between compilers is behind the vocabulary of device/."""
    conditional = re.compile(r"^\s*#\s*(if|ifdef|ifndef|elif)\b", re.MULTILINE)
    for path in cpp("templates"):
        assert "device" in path.parts or not conditional.search(path.read_text()), name(path)


def test_branches_of_templates_test_what_the_spec_says():
    """S., `on_host`, constants made of these, and in device/ the parameters of a template."""
    constant = re.compile(r"constexpr [\w:<>]+ (\w+)\s*[={]")
    shared = {
        word for path in cpp("templates/device") for word in constant.findall(path.read_text())
    }
    for path in cpp("templates"):
        text = path.read_text()
        constants = shared.union(constant.findall(text))
        in_device = "device" in path.parts
        for condition in re.findall(r"if constexpr \((.*)\) ?[{\w]", text):
            for word in re.findall(r"(?<![\w.:])[A-Za-z_]\w*", condition):
                of_template = in_device and word[0].isupper()
                assert word == "S" or word in constants or of_template, f"{name(path)}: {condition}"


def test_what_is_costly_is_obtained_in_one_way():
    """Who locks a node, or asks or tells ranks, does so where all steps stand."""
    steps = re.compile(r"\bNodeLock \w+\(|group\w*(?:\.|->)(take|agree\w*|give_up)\(")
    found = {name(path) for path in cpp(*LAYERS) if steps.search(path.read_text())}
    assert found == {"runtime/share/obtain_once.h"}


def test_a_class_says_what_threads_may_do_with_it():
    """In the comment above it; so does a struct that has a lock or an atomic."""
    kinds = re.compile(
        r"((?:^//.*\n)*)(?:^template .*\n)?^(class|struct) (\w+)[^;{]*\{(.*?)^\};",
        re.MULTILINE | re.DOTALL,
    )
    seen = 0
    for path in sources("runtime", "autotune", suffixes=(".h",)):
        for comment, kind, title, body in kinds.findall(path.read_text()):
            if kind == "class" or re.search(r"std::(mutex|atomic)", body):
                seen += 1
                assert "thread" in comment.lower(), f"{name(path)}: {title}"
    assert seen > 10


def python_files():
    return [path for path in sorted(PACKAGE.rglob("*.py")) if "native" not in path.parts]


def file_of(module):
    """The file of a module of the package, given as its path without an ending."""
    return module / "__init__.py" if module.is_dir() else module.with_suffix(".py")


def imports(path):
    """The package's files that this one imports by name, wherever in it the statement stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            home = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            named = [home / one.name for one in node.names]
            found.update(file_of(one if file_of(one).is_file() else home) for one in named)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = (
                [node.module]
                if isinstance(node, ast.ImportFrom)
                else [one.name for one in node.names]
            )
            assert not any(one.split(".")[0] == "liger_jit" for one in modules), name(path)
    return found


def place_of(path):
    part, *rest = path.relative_to(PACKAGE).with_suffix("").parts
    late = part == "ops" and rest != ["__init__"]
    return PYTHON.index("ops/" if late else part)


@pytest.mark.parametrize("part", PYTHON)
def test_a_part_of_the_package_imports_only_what_stands_before_it(part):
    files = [path for path in python_files() if PYTHON[place_of(path)] == part]
    assert files
    for path in files:
        for imported in imports(path):
            assert imported.is_file(), imported
            assert place_of(imported) <= place_of(path), f"{name(path)} imports {name(imported)}"


def test_no_imports_of_the_package_make_a_circle():
    """Nor do those in functions, or for types alone."""
    order = list(TopologicalSorter({path: imports(path) for path in python_files()}).static_order())
    assert set(order) == set(python_files())


@pytest.mark.parametrize("path", sources(*CODE), ids=name)
def test_a_file_can_be_read_in_one_sitting(path):
    assert len(path.read_text().splitlines()) <= MOST_LINES


def test_no_file_is_called_after_nothing():
    for path in sources(*CODE):
        for part in path.relative_to(ROOT).with_suffix("").parts:
            assert not NO_NAMES.match(part), name(path)


def test_every_op_has_its_files():
    declared = {path: path.read_text() for path in cpp("ops") if path.suffix == ".cpp"}
    for op in ops():
        if op["internal"]:
            continue
        homes = [path for path, text in declared.items() if f'"{op["name"]}"' in text]
        # An option of another op may have its name.
        homes = [path for path in homes if path.stem == op["name"]] or homes
        assert len(homes) == 1, f"{op['name']} is declared in {homes}"
        home = homes[0].relative_to(ROOT / "ops").with_suffix("")
        assert (ROOT / "tests/ops" / f"{home}_test.py").is_file(), home
        if op["kernels"]:
            assert (ROOT / "templates" / f"{home}.h").is_file(), home


def test_no_op_is_named_outside_its_files():
    """What else is needed for an op follows from the registry."""
    names = [op["name"] for op in ops() if not op["internal"]]
    quoted = re.compile(rf'"({"|".join(names)})"')
    for path in cpp(*LAYERS):
        text = path.read_text()
        if "composites" in path.parts or "const Register " in text:
            continue
        assert not quoted.findall(text), f"{name(path)} names an op"


def test_no_two_files_of_tests_have_one_name():
    """pytest takes a file by its name alone, and would leave the second out."""
    names = [path.name for path in (ROOT / "tests").rglob("*_test.py")]
    assert len(names) == len(set(names)), sorted(one for one in names if names.count(one) > 1)
