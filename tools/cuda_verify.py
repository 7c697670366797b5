"""Ask a static verifier whether the kernels' PTX is free of races, in every schedule of some fixed launches.

Run `make cuda-verify`, or `python tools/cuda_verify.py [--output bench/results/cuda_races.csv]` beside sentryward.
The launches are those that the tests of tests/cuda and some small calls of the engine make, one for each kernel of
float32, of all types of signs, and of rows in bfloat16; pointers are arbitrary but for null, and distinct ones point to
distinct memory. The verifier says `race_free`, names what it found, or says why it stopped: there the race checker of
the emulator is the evidence. A finding exits with 1.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import itertools
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tests.cuda import test_gemm, test_pointwise, test_rows, test_tops  # noqa: E402
from tests.cuda.harness import machine_code, toolkit  # noqa: E402
from tests.cuda.harness.architectures import BY_NAME  # noqa: E402
from tests.cuda.harness.device import filled  # noqa: E402
from tests.cuda.harness.machines import KERNELS, STRUCTURES, Machine  # noqa: E402
from tests.cuda.harness.whole_net import Case, WholeNet, problem  # noqa: E402

RESULT = ROOT / "bench" / "results" / "cuda_races.csv"
CAPABILITY = 100
WGMMA = "product_split_wgmma"  # which only this architecture has
WGMMA_ARCHITECTURE = "sm_90a"
ATTEMPTS = 40  # launches of a kernel, until the verifier can follow one
MOST_THREADS = 512  # of a launch: a result holds for this number of threads
FOUND = ("race", "deadlock", "sync", "mismatch", "lifetime")  # words in the names of findings
ENGINE = {  # the structs of kernels that no test of single kernels launches
    **{f"small_{name}_float": "Small<float>" for name in ("objective", "score", "reduce")},
    **{f"product_{name}": "Product" for name in ("tf32", "bf16")},
    **{f"product_{name}": "SplitProduct" for name in ("split", "sum", "split_wgmma")},
    **{"product_up": "SplitUp", "narrow_weights": "NarrowedWeights"},
}
SMALL = Case(widths=(5,), samples=2, dtype=torch.float32, bias=False)  # how a bias is read depends on its address
WIDE = SMALL.with_(widths=(130, 130), dim=130, skips=(1,))  # several blocks to a row
TYPES = {
    **{ctypes.c_bool: "u8", ctypes.c_int: "s32", ctypes.c_int64: "s64", ctypes.c_uint: "u32"},
    **{ctypes.c_float: "f32", ctypes.c_double: "f64"},
}
SIZES = {name: ctypes.sizeof(kind) for kind, name in TYPES.items()}  # pointers have eight


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

    @property
    def narrow(self) -> bool:
        """Whether it writes rows in bfloat16."""
        return any(name == "narrow" and value for name, _, _, value in fields(self.parameters))


class Row(NamedTuple):
    """A row of the table."""

    kernel: str
    ptx: str
    rows: str
    blocks: str
    threads: int
    shared_bytes: int
    result: str
    reason: str
    seconds: float


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


class Engine(WholeNet):
    """The host code on the emulator, which remembers what it launched."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(recorder)
        self.seen = recorder.seen
        self.structures = {launch.kernel: type(launch.parameters) for launch in self.seen}
        self.structures |= {kernel: STRUCTURES[name] for kernel, name in ENGINE.items()}

    def _start(self, kernel: bytes, x: int, y: int, z: int, threads: int, shared: int, given: Any, size: int) -> int:
        structure = self.structures.get(kernel.decode())
        if structure is not None:  # a product of torch or cuBLAS has none
            parameters = structure.from_buffer_copy(ctypes.string_at(given, size))
            self.seen.append(Launch(kernel.decode(), (x, y, z), threads, shared, parameters))
        return super()._start(kernel, x, y, z, threads, shared, given, size)


def engine_calls(engine: Engine) -> None:
    """Run the whole-net kernels, the sweeps with rows in float32 and bfloat16, and products of rows that are apart."""
    for kind, squares in itertools.product(("energy", "score"), (False, True)):
        small, wide = (case.with_(kind=kind, variance_reduced=squares) for case in (SMALL, WIDE))
        engine.run(small, problem(small))
        for case, precision in itertools.product((small, wide), ("full", "bf16", "split")):
            engine.run(case.with_(precision=precision, library=True), problem(case), small=False)
    a, b, c = (test_gemm.laid_out(np.ones(shape), True, 1) for shape in ((8, 160), (160, 34), (8, 34)))
    for architecture, precision in (("sm_86", "tf32"), ("sm_86", "bf16"), ("sm_86", "split"), ("sm_90", "split")):
        engine.limit(BY_NAME[architecture])
        test_gemm.multiply(engine, a, b, c, False, precision)


def launches() -> list[list[Launch]]:
    """Return the launches of each kernel and format of rows, of whole warps and not too many threads, largest first."""
    recorder, real = Recorder(), "float"
    tests: list[Callable[[], None]] = [
        *(lambda name=name: test_pointwise.check_up(recorder, real, name) for name in test_pointwise.NETWORKS),
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
    engine_calls(Engine(recorder))
    fitting = [launch for launch in recorder.seen if launch.size <= MOST_THREADS and launch.threads % 32 == 0]
    found = defaultdict[tuple[str, bool], list[Launch]](list)
    for launch in sorted(fitting, key=lambda launch: -launch.size):
        found[launch.kernel, launch.narrow].append(launch)
    return [found[kernel] for kernel in sorted(found)]


def of_shape(recorder: Recorder, real: str, shape: tuple[int, int, int]) -> None:
    """Launch the kernels of a tile's top."""
    tests: Any = test_tops  # which run on each shape as subtests
    tests.test_sliced_top.__wrapped__(recorder, real, shape, True)
    tests.test_score_top.__wrapped__(recorder, real, shape, True)
    tests.test_terms_top.__wrapped__(recorder, real, shape, "energy")
    tests.test_given.__wrapped__(recorder, real, shape)
    tests.test_score_seed.__wrapped__(recorder, real, shape, True, True)


def fields(value: Any, offset: int = 0, name: str = "") -> Iterator[tuple[str, int, str, Any]]:
    """Yield each number and pointer of a struct: its name, its offset, its type as PTX names it, its value."""
    if isinstance(value, ctypes.Array):
        size = ctypes.sizeof(value) // len(value)
        for index, item in enumerate(value):
            each = item if isinstance(item, ctypes.Structure) else value._type_(item)
            yield from fields(each, offset + index * size, name)
    elif isinstance(value, ctypes.Structure):
        for own, kind in value._fields_:
            item = getattr(value, own)
            each = item if isinstance(item, (ctypes.Structure, ctypes.Array)) else kind(item)
            yield from fields(each, offset + getattr(type(value), own).offset, own)
    else:
        kind = "pointer" if isinstance(value, ctypes.c_void_p) else TYPES[type(value)]
        yield name, offset, kind, value.value


def configuration(launch: Launch, parameter: str) -> dict[str, Any]:
    """Return what the verifier is told: the launch, all numbers, which pointers are null, and that padding is zero."""
    arguments, declarations, padding = [], [], set(range(ctypes.sizeof(launch.parameters)))
    for _, offset, kind, value in fields(launch.parameters):
        place = {"parameter": parameter, "offset": offset, "type": kind}
        padding -= set(range(offset, offset + SIZES.get(kind, 8)))
        if kind == "pointer" and value:
            declarations.append({**place, "space": "global"})
        else:
            arguments.append({**place, "value": int(value) if kind == "u8" else value})
    arguments += [{"parameter": parameter, "offset": offset, "type": "u8", "value": 0} for offset in sorted(padding)]
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


def ptx(kernel: str) -> tuple[str, str]:
    """Return the architecture of a kernel, and the PTX that has it."""
    if kernel != WGMMA:
        return f"sm_{CAPABILITY}", toolkit.ptx(KERNELS, CAPABILITY)
    source, *flags = machine_code.WGMMA
    arguments = ["-ptx", f"-arch={WGMMA_ARCHITECTURE}", *flags]
    return WGMMA_ARCHITECTURE, toolkit.compile_kernels(source, arguments, ".ptx").read_text()


def verify(launches: Sequence[Launch], folder: Path, seconds: int) -> Row:
    """Return the row of the first of a kernel's launches that the verifier can follow, or of the first."""
    rows = []
    started = time.monotonic()
    for launch in launches[:ATTEMPTS]:
        rows.append(verified(launch, folder, seconds))
        if rows[-1].result != "unsupported" or time.monotonic() - started > seconds:
            break
    return rows[-1] if rows[-1].result != "unsupported" else rows[0]


def verified(launch: Launch, folder: Path, seconds: int) -> Row:
    """Return the row of one launch: the verdict, why, and the time taken."""
    source, given = (folder / f"{launch.kernel}-{launch.narrow}.{suffix}" for suffix in ("ptx", "json"))
    architecture, text = ptx(launch.kernel)
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
    rows = "bfloat16" if launch.narrow else ""
    reason = next(iter(reasons), "")
    return Row(
        launch.kernel, architecture, rows, blocks, launch.threads, launch.shared, result["result"], reason, passed
    )


def main() -> None:
    """Verify every kernel, write the table, and exit with 1 on a finding."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=RESULT, help="where the table goes")
    parser.add_argument("--seconds", type=int, default=160, help="for each kernel")
    parser.add_argument("--only", default="", help="only kernels whose names match")
    options = parser.parse_args()
    wanted = [same for same in launches() if re.search(options.only, same[0].kernel)]
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(2) as pool:
        rows = []
        for row in pool.map(lambda same: verify(same, Path(scratch), options.seconds), wanted):
            print(*row, flush=True)
            rows.append(row)
    with options.output.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(Row._fields)
        table.writerows(rows)
    sys.exit(any(word in row.result for row in rows for word in FOUND if row.result != "race_free"))


if __name__ == "__main__":
    main()
