"""Run programs with --smoke, or notebooks with small numbers, each in a process forked from one that imported torch.

    python tools/smoke.py examples/*.py experiments/*.py notebooks/*.ipynb

It prints the names of those that ran and all that the others printed, and exits with 1 if there are others.
"""

import contextlib
import io
import multiprocessing
import runpy
import sys
import traceback
import warnings
from pathlib import Path

import matplotlib.pyplot
import torch._dynamo  # noqa: F401  # what torch.optim imports, a second

import fastssm  # noqa: F401


def run(program: str) -> tuple[str, str, bool]:
    """Run a program, and return its name, what it printed, and whether it ended well."""
    sys.argv = [program, "--smoke"]
    with io.StringIO() as printed, contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            if program.endswith(".ipynb"):
                run_notebook(Path(program))
            else:
                runpy.run_path(program, run_name="__main__")
        except SystemExit as end:
            well = not end.code
        except BaseException:
            traceback.print_exc()
            well = False
        else:
            well = True
        return program, printed.getvalue(), well


def run_notebook(path: Path) -> None:
    """Run the code of a notebook with the small numbers of a smoke run; a warning is an error."""
    from bench.notebooks import cells_of

    matplotlib.pyplot.show = lambda: None
    names = {"__name__": "__main__"}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for number, cell in enumerate(cells_of(path, smoke=True)):
            if cell["cell_type"] == "code":
                exec(compile(cell["source"], f"{path.name}, cell {number}", "exec"), names)


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
