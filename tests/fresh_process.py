"""A process that has torch and not yet liger_jit, so that it reads an environment of its own.

Importing torch takes seconds and is paid once: the processes are forked from one that has it.
"""

import contextlib
import os
import tempfile
from multiprocessing import get_context
from pathlib import Path

_context = get_context("forkserver")
_context.set_forkserver_preload(["torch"])


def run(function, environment, *arguments):
    """What `function(*arguments)` returns there, and what was printed on stderr."""
    with started(function, environment, *arguments) as process:
        return process.result(), process.stderr()


@contextlib.contextmanager
def started(function, environment, *arguments):
    """The same with a conversation: `function` gets `receive` and `send` before its arguments."""
    process = FreshProcess(function, environment, arguments)
    try:
        yield process
    finally:
        process.end()


class FreshProcess:
    def __init__(self, function, environment, arguments):
        handle, self._stderr = tempfile.mkstemp(prefix="liger_jit_stderr_")
        os.close(handle)
        self._connection, theirs = _context.Pipe()
        self._process = _context.Process(
            target=_main, args=(theirs, self._stderr, environment, function, arguments)
        )
        self._process.start()
        theirs.close()

    def send(self, word):
        self._connection.send(word)

    def receive(self, seconds=120):
        assert self._connection.poll(seconds), f"no answer\n{self.stderr()}"
        try:
            return self._connection.recv()
        except EOFError:
            raise AssertionError(f"the process ended\n{self.stderr()}") from None

    def result(self):
        answer = self.receive()
        self._process.join(60)  # handlers of its exit may still print
        assert self._process.exitcode == 0, self.stderr()
        return answer

    def stderr(self):
        return Path(self._stderr).read_text()

    def end(self):
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        os.unlink(self._stderr)


def _main(connection, stderr, environment, function, arguments):
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_APPEND), 2)
    for name in [name for name in os.environ if name.startswith("LIGER_JIT_")]:
        del os.environ[name]
    os.environ.update(environment)
    connection.send(function(connection, *arguments))
