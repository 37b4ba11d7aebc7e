"""What every Python test starts from: caches of its own, no tuning, a fixed seed, each device."""

import json
import os
import shutil
import sys
import tempfile

# Before anything loads the native library, which reads its environment once. All workers have one
# cache, so what tests share is compiled once; a test of the cache itself makes one of its own.
_MADE = None
if "TESTS_CACHE" not in os.environ:
    os.environ["TESTS_CACHE"] = _MADE = tempfile.mkdtemp(prefix="liger_jit_tests_")
_CACHE = os.environ["TESTS_CACHE"]
os.environ["LIGER_JIT_CACHE"] = _CACHE
os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.path.join(_CACHE, "inductor")
os.environ.setdefault("LIGER_JIT_AUTOTUNE", "off")

import pytest
import torch


def pytest_sessionfinish():
    if _MADE:
        shutil.rmtree(_MADE, ignore_errors=True)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """Of `-n auto`. With a GPU one test after another: some measure its memory and its time."""
    return 0 if torch.cuda.is_available() else min(8, len(os.sched_getaffinity(0)))


@pytest.fixture(autouse=True)
def fresh():
    """A fixed seed, and no graph of another test, of which torch.compile keeps only a few."""
    torch.manual_seed(20)
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


@pytest.fixture(params=["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def device(request):
    return request.param


@pytest.fixture
def cuda():
    """For what only a GPU has: streams, graphs, host syncs."""
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    return "cuda"


@pytest.fixture
def kept_bytes():
    """A function that counts the bytes a call keeps for its backward, those of `own` left out."""

    def count(call, own):
        own = {tensor.untyped_storage().data_ptr() for tensor in own}
        kept = {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = call()
        del output
        return sum(kept.values())

    return count


@pytest.fixture
def run(capsys):
    """`liger-jit` in this process: (exit code, standard output, standard error)."""
    from liger_jit.cli import main

    def run(*arguments):
        capsys.readouterr()
        code = main(list(arguments))
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def run_json(run):
    """The same with --json, parsed."""

    def run_json(*arguments, code=0):
        answered, out, err = run(*arguments, "--json")
        assert answered == code, err
        return json.loads(out)

    return run_json


@pytest.fixture
def config(tmp_path):
    """The config.json of a tiny model."""
    transformers = pytest.importorskip("transformers")
    transformers.LlamaConfig(
        vocab_size=89,
        hidden_size=40,
        intermediate_size=56,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        architectures=["LlamaForCausalLM"],
    ).save_pretrained(tmp_path)
    return tmp_path / "config.json"
