"""Supervise the process of ``bench.gpu``. If it dies or hangs, record the contender and restart."""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.gpu_rows import append, note

LOST = 3  # exit status: the device context is lost, and a new process must continue
MAX_PROCESSES = 20
POLL_S = 0.2


def supervise(command: Sequence[str], chosen: argparse.Namespace, say: Callable[[str], object]) -> int:
    """Run a command until it succeeds, skipping contenders at which it died; return the exit status.

    Args:
        command: command for ``bench.gpu``; options to resume are appended.
        chosen: options of the command.
        say: prints a line.
    """
    ends = time.time() + (chosen.limit or float("inf"))
    more = ["--alone", "--out", str(chosen.out), *(["--ends", f"{ends:.1f}"] if chosen.limit else [])]
    before = signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
    )  # so that the child process is killed
    note(chosen.out).unlink(missing_ok=True)
    try:
        for _ in range(MAX_PROCESSES):
            code, how = watched([*command, *more], chosen.out, chosen.patience)
            if code == 0 or time.time() > ends or not (blame(chosen.out, how) or code == LOST):
                break
            more += ["--resume", "all"]
            say(f"the process {how}; restarting")
    finally:
        signal.signal(signal.SIGTERM, before)
        note(chosen.out).unlink(missing_ok=True)
    return code


def watched(command: Sequence[str], out: Path, patience: float) -> tuple[int, str]:
    """Run a command; kill it if its files do not change for `patience` seconds. Return its status, also as text."""
    with subprocess.Popen(command) as process:
        last_change = time.time()
        try:
            while process.poll() is None:
                last_change = max(last_change, changed(out), changed(note(out)))
                if time.time() - last_change > patience:
                    process.kill()
                    process.wait()
                    return 1, f"hung: no news for {patience:g} s"
                time.sleep(POLL_S)
        except BaseException:
            process.kill()
            raise
    code = process.returncode
    return code, f"crashed: {signal.Signals(-code).name}" if code < 0 else f"crashed: exit code {code}"


def changed(file: Path) -> float:
    """Return the modification time of a file, or 0 if it does not exist."""
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def blame(out: Path, how: str) -> bool:
    """Write the row of the contender that was running; return whether there was one."""
    try:
        row = json.loads(note(out).read_text())
    except (OSError, ValueError):
        return False
    append(out, row | {"status": how})
    note(out).unlink(missing_ok=True)
    return True
