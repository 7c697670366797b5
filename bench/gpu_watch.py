"""Watch the process of ``bench.gpu`` that measures: if it dies or hangs, note at which contender, and start another."""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.gpu_rows import append, note

LOST = 3  # exit status: the device's context is lost, and a new process must go on
MOST = 20  # processes
LOOK_S = 0.2


def supervise(command: Sequence[str], chosen: argparse.Namespace, say: Callable[[str], object]) -> int:
    """Run a command until it ends well, each time without the contenders it died at; return the exit status.

    Args:
        command: runs ``bench.gpu``; what is added to it makes it go on where the last one stopped.
        chosen: its options.
        say: prints.
    """
    ends = time.time() + (chosen.limit or float("inf"))
    more = ["--alone", "--out", str(chosen.out), *(["--ends", f"{ends:.1f}"] if chosen.limit else [])]
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that nobody is left behind
    note(chosen.out).unlink(missing_ok=True)
    try:
        for _ in range(MOST):
            code, how = watched([*command, *more], chosen.out, chosen.patience)
            if code == 0 or time.time() > ends or not (blame(chosen.out, how) or code == LOST):
                break
            more += ["--resume", "all"]
            say(f"the process {how}; another goes on")
    finally:
        signal.signal(signal.SIGTERM, before)
        note(chosen.out).unlink(missing_ok=True)
    return code


def watched(command: Sequence[str], out: Path, patience: float) -> tuple[int, str]:
    """Run a command, at most until its files have not changed for so many seconds; return its status, and in words."""
    with subprocess.Popen(command) as process:
        heard = time.time()
        try:
            while process.poll() is None:
                heard = max(heard, changed(out), changed(note(out)))
                if time.time() - heard > patience:
                    process.kill()
                    process.wait()
                    return 1, f"hung: no news for {patience:g} s"
                time.sleep(LOOK_S)
        except BaseException:
            process.kill()
            raise
    code = process.returncode
    return code, f"crashed: {signal.Signals(-code).name}" if code < 0 else f"crashed: exit code {code}"


def changed(file: Path) -> float:
    """Return when a file changed last, 0 if it is not there (any more)."""
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def blame(out: Path, how: str) -> bool:
    """Write the row of the contender at work; return whether there was one."""
    try:
        row = json.loads(note(out).read_text())
    except (OSError, ValueError):
        return False
    append(out, row | {"status": how})
    note(out).unlink(missing_ok=True)
    return True
