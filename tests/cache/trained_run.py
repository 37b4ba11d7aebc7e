"""A small training run in a process of its own, for tests that make its surroundings misbehave.

As a program it imports everything once and then forks a child for each run that it reads as a line
of JSON, {"environment": {...}, "processes": 1}; it answers with a line of JSON, a list with one
`Outcome` for each process. Without that each run would pay the import of torch.
"""

import ctypes
import hashlib
import json
import locale
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHIM = ROOT / "build" / "native" / "libfault_shim.so"


@dataclass
class Outcome:
    bits: str = ""  # of every loss and every parameter
    counters: dict = field(default_factory=dict)
    warnings: list = field(default_factory=list)  # lines on stderr
    injected: int = 0  # calls that the shim made to misbehave
    seconds: float = 0.0
    error: str = ""  # why the run stopped


class Runs:
    """The program, started once for a test module."""

    def __init__(self, shim=True):
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("LIGER_JIT_")
        }
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "python"), str(ROOT / "tests")])
        environment["OMP_NUM_THREADS"] = "1"
        if shim:
            environment["LD_PRELOAD"] = str(SHIM)
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, processes=1, **environment):
        """Outcomes of that many processes that train at the same time in this environment."""
        asked = {"environment": environment, "processes": processes}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return [Outcome(**outcome) for outcome in json.loads(self._process.stdout.readline())]

    def one(self, **environment):
        return self.run(1, **environment)[0]

    def close(self):
        self._process.stdin.close()
        self._process.wait(timeout=60)


def _train():
    import torch
    from liger_jit import patch, stats, warmup
    from tiny_models import batch, build

    model = build("Llama")
    warmup(patch(model), batch=2, tokens=11, progress=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    digest = hashlib.sha256()
    for _ in range(3):
        loss = model(**batch()).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        digest.update(loss.detach().numpy().tobytes())
    for parameter in model.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    return {"bits": digest.hexdigest(), "counters": stats()["counters"]}


def _injected():
    try:
        return ctypes.CDLL(None).fault_shim_injected()
    except AttributeError:
        return 0


def _child(environment, answer_path):
    errors = os.open(answer_path + ".err", os.O_RDWR | os.O_CREAT, 0o600)
    os.dup2(errors, 2)
    answer = {}
    start = time.perf_counter()
    try:
        for name, value in environment.items():
            os.environ[name] = value
        if name := environment.get("TORTURE_LOCALE"):
            locale.setlocale(locale.LC_ALL, name)
        answer = _train()
    except BaseException as trouble:
        answer = {"error": f"{type(trouble).__name__}: {trouble}"}
    answer["seconds"] = time.perf_counter() - start
    answer["injected"] = _injected()
    # What follows is not the run's.
    os.environ.pop("FAULT_SHIM_FOLDER", None)
    Path(answer_path).write_text(json.dumps(answer))
    os._exit(0)


def _outcome(child, answer_path):
    _, status = os.waitpid(child, 0)
    try:
        answer = json.loads(Path(answer_path).read_text())
    except (OSError, ValueError):
        answer = {"error": f"the process ended with status {status}"}
    lines = Path(answer_path + ".err").read_text().splitlines()
    answer["warnings"] = [line for line in lines if line.startswith("liger_jit warning")]
    return answer


def _serve():
    import liger_jit  # noqa: F401
    import tiny_models  # noqa: F401
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for number, line in enumerate(sys.stdin):
            asked = json.loads(line)
            paths = [f"{folder}/{number}-{one}" for one in range(asked["processes"])]
            children = []
            for path in paths:
                children.append(os.fork())
                if children[-1] == 0:
                    _child(asked["environment"], path)
            outcomes = [_outcome(child, path) for child, path in zip(children, paths)]
            print(json.dumps(outcomes), flush=True)


if __name__ == "__main__":
    _serve()
