"""Runs Python code on a library of the CUDA engine's operators: see operators.py.

Each piece of code has a process of its own, forked from one that imported torch and loaded the library: importing takes
longer than most of them run.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from tests.cuda.harness.libraries import ROOT

SERVER = """
import json
import os
import sys
import torch
from tests import oracle
from tests import oracle_noise
import fastssm
from fastssm import backends
from fastssm.backends import fused
from fastssm.backends.entries import dispatcher

torch.ops.load_library(sys.argv[1])
backends.BACKENDS["torch"] = fused.Fused("torch", dispatcher)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        code, out, err, environment = json.loads(line)
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
        os.environ.update(environment)
        exec(code)
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@cache
def server(library: Path) -> subprocess.Popen[str]:
    """Start the process that others are forked from; a line of its input is what one of them gets."""
    environment = {**os.environ, "FASTSSM_NO_NATIVE": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", SERVER, str(library)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True)
    atexit.register(process.communicate)  # the end of its input is its end
    return process


def run(library: Path, code: str) -> str:
    """Run Python code on a library of operators, with the names that SERVER imports, and return what it prints."""
    process = server(library)
    assert process.stdin
    assert process.stdout
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        print(json.dumps([code, str(out), str(err), dict(os.environ)]), file=process.stdin, flush=True)
        status = process.stdout.readline()
        assert status == "0\n", err.read_text()[-4000:]
        return out.read_text()
