"""`liger-jit` in a process of its own."""

import json
import os
import subprocess
import sys


def command(*arguments, **variables):
    """What came of it: returncode, stdout, stderr."""
    return subprocess.run(
        [sys.executable, "-m", "liger_jit", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **variables},
        capture_output=True,
        text=True,
    )


def command_json(*arguments, **variables):
    """The answer of one that succeeds."""
    done = command(*arguments, "--json", **variables)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)
