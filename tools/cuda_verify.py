"""Ask a static verifier whether the kernels' PTX is free of races, in every schedule of some fixed launches.

Run `make cuda-verify`, or `python tools/cuda_verify.py [--output bench/results/cuda_races.csv]` beside sentryward.
The launches are those that the tests of tests/cuda make, one for each kernel of float32 and of all types of signs;
pointers are arbitrary but for null, and distinct ones point to distinct memory. The verifier says `race_free`, names
what it found, or says why it stopped: there the race checker of the emulator is the evidence. A finding exits with 1.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tests.cuda import test_pointwise, test_rows, test_tops  # noqa: E402
from tests.cuda.harness import toolkit  # noqa: E402
from tests.cuda.harness.device import filled  # noqa: E402
from tests.cuda.harness.machines import KERNELS, STRUCTURES, Machine  # noqa: E402

RESULT = ROOT / "bench" / "results" / "cuda_races.csv"
CAPABILITY = 100
MOST_THREADS = 512  # of a launch: a result holds for this number of threads
FOUND = ("race", "deadlock", "sync", "mismatch", "lifetime")  # words in the names of findings
TYPES = {
    **{ctypes.c_bool: "u8", ctypes.c_int: "s32", ctypes.c_int64: "s64", ctypes.c_uint: "u32"},
    **{ctypes.c_float: "f32", ctypes.c_double: "f64"},
}


class Launch(NamedTuple):
    """One launch that a test has made."""

    kernel: str
    blocks: tuple[int, int, int]
    threads: int
    shared: int
    parameters: ctypes.Structure

    @property
    def size(self) -> int:
        """How many threads there are."""
        x, y, z = self.blocks
        return x * y * z * self.threads


class Recorder(Machine):
    """The emulator, which remembers what it was asked to launch."""

    def __init__(self) -> None:
        super().__init__("emulator")
        self.seen: list[Launch] = []

    def launch(self, kernel: str, structure: str, blocks: Any, threads: int, shared: int = 0, **values: Any) -> None:
        """Run a kernel, and remember it."""
        x, y, z = (*blocks, 1, 1)[:3]
        self.seen.append(Launch(kernel, (x, y, z), threads, shared, filled(STRUCTURES[structure], **values)))
        super().launch(kernel, structure, blocks, threads, shared, **values)


def launches() -> list[Launch]:
    """Return one launch of each kernel: of those with whole warps and not too many threads, the largest."""
    recorder, real = Recorder(), "float"
    tests: list[Callable[[], None]] = [
        *(lambda name=name: test_pointwise.test_up(recorder, real, name) for name in test_pointwise.NETWORKS),
        *(lambda case=case: test_pointwise.test_down(recorder, real, *case) for case in test_pointwise.DOWN),
        *(lambda t=t: t(recorder, real) for t in (test_pointwise.test_down_score, test_pointwise.test_chain)),
        *(lambda t=t: t(recorder, real) for t in (test_pointwise.test_curve, test_rows.test_identity)),
        lambda: test_rows.test_total(recorder, real),
        *(lambda k=k: test_rows.test_rademacher_has_the_bits_of_the_library(recorder, k, 0) for k in test_rows.SIGNS),
        lambda: test_rows.test_enter(recorder, real, "v"),
        lambda: test_rows.test_leave(recorder, real, True, True),
        lambda: test_rows.test_weighted_sum_and_its_finish(recorder, real, True, 8),
        *(lambda s=s: of_shape(recorder, real, s) for s in test_tops.SHAPES),
    ]
    for test in tests:
        test()
    fitting = [launch for launch in recorder.seen if launch.size <= MOST_THREADS and launch.threads % 32 == 0]
    best = {launch.kernel: launch for launch in sorted(fitting, key=lambda launch: launch.size)}
    return [best[kernel] for kernel in sorted(best)]


def of_shape(recorder: Recorder, real: str, shape: tuple[int, int, int]) -> None:
    """Launch the kernels of a tile's top."""
    test_tops.test_sliced_top(recorder, real, shape, True)
    test_tops.test_score_top(recorder, real, shape, True)
    test_tops.test_terms_top(recorder, real, shape, "energy")
    test_tops.test_given(recorder, real, shape)
    test_tops.test_score_seed(recorder, real, shape, True, True)


def fields(value: Any, offset: int = 0) -> Iterator[tuple[int, str, Any]]:
    """Yield each number and pointer of a struct, with its offset and the name that PTX has for its type."""
    if isinstance(value, ctypes.Array):
        size = ctypes.sizeof(value) // len(value)
        for index, item in enumerate(value):
            each = item if isinstance(item, ctypes.Structure) else value._type_(item)
            yield from fields(each, offset + index * size)
    elif isinstance(value, ctypes.Structure):
        for name, kind in value._fields_:
            item = getattr(value, name)
            each = item if isinstance(item, (ctypes.Structure, ctypes.Array)) else kind(item)
            yield from fields(each, offset + getattr(type(value), name).offset)
    else:
        kind = "pointer" if isinstance(value, ctypes.c_void_p) else TYPES[type(value)]
        yield offset, kind, value.value


def configuration(launch: Launch, parameter: str) -> dict[str, Any]:
    """Return what the verifier is told: the launch, all numbers, and which pointers are null."""
    arguments, declarations = [], []
    for offset, kind, value in fields(launch.parameters):
        place = {"parameter": parameter, "offset": offset, "type": kind}
        if kind == "pointer" and value:
            declarations.append({**place, "space": "global"})
        else:
            arguments.append({**place, "value": int(value) if kind == "u8" else value})
    return {
        "schema": "spverify.kernel-input/v1",
        "entry": launch.kernel,
        "launch": {
            "grid_dim": launch.blocks,
            "block_dim": [launch.threads, 1, 1],
            "dynamic_shared_bytes": launch.shared,
        },
        "arguments": arguments,
        "declarations": declarations,
    }


def alone(text: str, kernel: str) -> str:
    """Return the PTX of one kernel, with what stands before all of them."""
    found = re.search(rf"^\.visible \.entry {kernel}\(.*?^\}}", text, re.MULTILINE | re.DOTALL)
    assert found is not None, kernel
    return text[: text.index(".visible .entry")] + found[0] + "\n"


def verify(launch: Launch, text: str, folder: Path, seconds: int) -> tuple[Any, ...]:
    """Return the row of one kernel: the launch, the verdict, why, and the time taken."""
    source, given = folder / f"{launch.kernel}.ptx", folder / f"{launch.kernel}.json"
    source.write_text(alone(text, launch.kernel))
    given.write_text(json.dumps(configuration(launch, f"{launch.kernel}_param_0")))
    program = shutil.which("sentryward") or str(Path(sys.executable).with_name("sentryward"))
    started = time.monotonic()
    command = [program, str(source), "--input", str(given), "--timeout", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True)
    result = json.loads(done.stdout)  # its exit status is 0 on findings too
    reasons = [d.get("message", d.get("code", "")) for d in result.get("diagnostics", [])][:1]
    passed = round(time.monotonic() - started, 1)
    blocks = " x ".join(map(str, launch.blocks))
    return (
        launch.kernel,
        f"sm_{CAPABILITY}",
        blocks,
        launch.threads,
        launch.shared,
        result["result"],
        *(reasons or [""]),
        passed,
    )


def main() -> None:
    """Verify every kernel, write the table, and exit with 1 on a finding."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=RESULT, help="where the table goes")
    parser.add_argument("--seconds", type=int, default=160, help="for each kernel")
    parser.add_argument("--only", default="", help="only kernels whose names match")
    options = parser.parse_args()
    text = toolkit.ptx(KERNELS, CAPABILITY)
    wanted = [launch for launch in launches() if re.search(options.only, launch.kernel)]
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(2) as pool:
        rows = []
        for row in pool.map(lambda launch: verify(launch, text, Path(scratch), options.seconds), wanted):
            print(*row, flush=True)
            rows.append(row)
    with options.output.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("kernel", "ptx", "blocks", "threads", "shared_bytes", "result", "reason", "seconds"))
        table.writerows(rows)
    sys.exit(any(word in row[5] for row in rows for word in FOUND if row[5] != "race_free"))


if __name__ == "__main__":
    main()
