"""Run programs with --smoke, each in a process of its own forked from one that has imported torch.

    python tools/smoke.py examples/*.py experiments/*.py

It prints the names of those that ran and all that the others printed, and exits with 1 if there are others.
"""

import contextlib
import io
import multiprocessing
import runpy
import sys
import traceback
from pathlib import Path

import matplotlib.pyplot  # noqa: F401
import torch._dynamo  # noqa: F401  # what torch.optim imports, a second

import fastssm  # noqa: F401


def run(program: str) -> tuple[str, str, bool]:
    """Run a program, and return its name, what it printed, and whether it ended well."""
    sys.argv = [program, "--smoke"]
    with io.StringIO() as printed, contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            runpy.run_path(program, run_name="__main__")
        except SystemExit as end:
            well = not end.code
        except BaseException:
            traceback.print_exc()
            well = False
        else:
            well = True
        return program, printed.getvalue(), well


def main(programs: list[str]) -> int:
    """Run all, two at a time."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    failed = 0
    with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1) as pool:
        for program, printed, well in pool.imap_unordered(run, programs, chunksize=1):
            print(f"{program} ran" if well else f"{program} failed:\n{printed}", flush=True)
            failed += not well
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
