"""Breaks the CUDA kernels one way at a time, and lists which breaks the tests of tests/cuda notice.

Run `python tools/cuda_mutants.py [--output bench/results/cuda_mutants.csv]`. Each barrier is deleted, and the race
checker looks; each term of each rule of csrc/maths/sweep.h is dropped and doubled, derivatives swapped and sums cut,
terms of the whole-net path for scores too, and float64 judges; each mask of a tail is made wrong by one, under
AddressSanitizer; each fence of wgmma is removed, and the emulator looks. A mutant that no test can notice has to stand
in EQUIVALENT with the argument why. Exits with 1 if another one survives.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from mutants import of_rules, once
from native_build import CSRC, ROOT

TESTS = ROOT / "tests" / "cuda"
sys.path.insert(0, str(ROOT))
from tests.cuda.harness import libraries  # noqa: E402

RESULT = ROOT / "bench" / "results" / "cuda_mutants.csv"
BARRIER = "__syncthreads();"
PRODUCT = "template <class T>\nFASTSSM_DEVICE Pack<T> operator*("
MINUS = """template <class T>
FASTSSM_DEVICE Pack<T> operator-(const Pack<T>& a, const Pack<T>& b) {
  return pack_of<T>([&](int i) { return a.lane[i] - b.lane[i]; });
}
"""  # which the rules do without, but not a dropped term, x - x
FUNCTION = re.compile(r"^\s*(?:static )?(?:FASTSSM_DEVICE|__device__ FASTSSM_INLINE)[^;=]*?\b(\w+)\(", re.MULTILINE)

# Each change by its kind, its file, what stands there once, and what stands there instead.
CHANGES = (
    ("swap", "pointwise.cuh", "d1.lane[i] = found.d1, d2.lane[i] = found.d2",
     "d1.lane[i] = found.d2, d2.lane[i] = found.d1"),
    ("swap", "pointwise.cuh", "&d2 = f.d2, &d3 = f.d3;", "&d2 = f.d3, &d3 = f.d2;"),
    ("mask", "pointwise.cuh", "recomputed<2>(a.layer, load_partial(a.z + at, left)",
     "recomputed<2>(a.layer, load(a.z + at)"),
    ("swap", "jets.cuh", "out.d2.lane[i] = found.d2, out.d3.lane[i] = found.d3",
     "out.d2.lane[i] = found.d3, out.d3.lane[i] = found.d2"),
    ("swap", "jets.cuh", "else if (id < FIRST + half)", "else if (id <= FIRST + half)"),
    ("swap", "jets.cuh", "entry = i == lane ?", "entry = i < lane ?"),
    ("term", "jets.cuh", "return a.bias ? load_given(a.bias + column, width - column) : all(T(0));",
     "return all(T(0));"),
    ("term", "jets.cuh", "const Pack<T> z = raw * scale;", "const Pack<T> z = raw;"),
    ("term", "jets.cuh", "return a.shift ? z + load_given(a.shift + sample * width + column, width - column) : z;",
     "return z;"),
    ("swap", "small_steps.cuh", "memory[s.at_d3 + at] = f.d3", "memory[s.at_d3 + at] = f.d2"),
    ("swap", "small_steps.cuh", "d2 = memory[s.at_d2 + at], d3 = memory[s.at_d3 + at]",
     "d3 = memory[s.at_d2 + at], d2 = memory[s.at_d3 + at]"),
    ("sum", "reduce.cuh", "apart = kWarp / 2", "apart = kWarp / 4"),
    ("sum", "reduce.cuh", "w < blockDim.x / kWarp", "w + 1 < blockDim.x / kWarp"),
    ("sum", "reduce.cuh", "i = threadIdx.x + row_threads;", "i = threadIdx.x + 2 * row_threads;"),
    ("mask", "pack.cuh", "return i < n ? p[i] : T(0);", "return i <= n ? p[i] : T(0);"),
    ("mask", "pack.cuh", "return n < kLanes<T> ? load_unaligned(p, n) : load(p);", "return load(p);"),
    ("mask", "pack.cuh", "const bool whole = n >= kLanes<T> &&", "const bool whole ="),
    ("mask", "pack.cuh", "if (i < n) p[i] = add", "if (i <= n) p[i] = add"),
    ("mask", "pack.cuh", "end(least((int64_t(blockIdx.y) + 1) * walk.rows, rows))",
     "end((int64_t(blockIdx.y) + 1) * walk.rows)"),
    ("mask", "pack.cuh", "if (first + i <= tangents) ahead[i] = fetch(first + i);", "ahead[i] = fetch(first + i);"),
    ("mask", "pack.cuh", "if (first + i <= tangents) use(first + i, ahead[i]);", "use(first + i, ahead[i]);"),
    ("mask", "rows.cuh", "if (j >= a.dim + a.extra) continue;", "if (j > a.dim + a.extra) continue;"),
    ("mask", "rows.cuh", "if (index < a.size * a.size)", "if (index <= a.size * a.size)"),
    ("mask", "random.cuh", "j < filled ?", "j <= filled ?"),
    ("mask", "random.cuh", "if (at >= end) continue;", "if (at > end) continue;"),
    ("mask", "gemm.cuh", "column + i < columns ? p[i]", "column + i <= columns ? p[i]"),
    ("mask", "gemm.cuh", "if (r >= p.m || c >= p.n) continue;", "if (r > p.m || c >= p.n) continue;"),
    ("mask", "gemm.cuh", "if (row < rows && column + 4 <= columns && wide)", "if (row < rows && wide)"),
    ("mask", "small.cuh", "samples = p.samples - first < p.tile ? int(p.samples - first) : p.tile;",
     "samples = p.tile;"),
    ("mask", "small.cuh", "p.x[b * dim + j] : j < dim + p.extra", "p.x[b * dim + j] : j <= dim + p.extra"),
    ("mask", "small.cuh", "if (e < p.partial) total", "if (e <= p.partial) total"),
    ("mask", "gemm_split.cuh", "left > 0 ? static_cast<int>(left) : 0", "left > 0 ? 4 : 0"),
    ("mask", "gemm_split.cuh", "if (r >= p.m || c >= p.n) continue;", "if (r > p.m || c >= p.n) continue;"),
    ("mask", "gemm_split.cuh", "if (wide && c + 1 < p.n)", "if (wide)"),
    ("mask", "gemm_split.cuh", "if (e >= entries) return;", "if (e > entries) return;"),
    ("mask", "gemm_up.cuh", "first + i < shape.samples", "first + i <= shape.samples"),
    ("mask", "gemm_up.cuh", "if (column >= shape.ld) return;", "if (column > shape.ld) return;"),
    ("swap", "gemm_up.cuh", "line / each, sample = first + line % each", "line % kinds, sample = first + line / kinds"),
    ("mask", "narrow.cuh", "if (at >= s.lines * packs) return;", "if (at > s.lines * packs) return;"),
    ("mask", "narrow.cuh", "const int64_t left = s.length - column - 4 * i;", "const int64_t left = 4;"),
    ("swap", "narrow.cuh", "Bf16::packed(a.lane[0], a.lane[1])", "Bf16::packed(a.lane[1], a.lane[0])"),
    ("sum", "small_steps.cuh", "for (int apart = 1; apart < n;", "for (int apart = 2; apart < n;"),
    ("sum", "small.cuh", "for (int other = 1; other < kReducers", "for (int other = 2; other < kReducers"),
    ("sum", "gemm_split.cuh", "slice < s.slices", "slice + 1 < s.slices"),
    ("sum", "gemm_split.cuh", "wait_for_copies<kSplitStages - 2>", "wait_for_copies<kSplitStages - 1>"),
    ("term", "gemm_split.cuh", "t < kSplitTerms", "t + 1 < kSplitTerms"),
    ("term", "gemm_split.cuh", "for (int t = 0; t < kSplitTerms", "for (int t = 1; t < kSplitTerms"),
    ("sum", "gemm_wgmma.cuh", "set ^= 1;", ";"),
    ("term", "gemm_wgmma.cuh", "t < kSplitTerms", "t + 1 < kSplitTerms"),
    ("swap", "gemm_wgmma.cuh", "number * kCoreApart, number * kCoreDeep", "number * kCoreDeep, number * kCoreApart"),
    ("swap", "gemm_wgmma.cuh", "wgmma::kRows / 8 * kCoreApart", "wgmma::kRows / 8 * kCoreDeep"),
    ("fence", "gemm_wgmma.cuh", "wgmma::fence_async();", ";"),
    ("fence", "gemm_wgmma.cuh", "wgmma::fence();", ";"),
    ("fence", "gemm_wgmma.cuh", "wgmma::wait(term);", ";"),
    ("mask", "small_steps.cuh", "const T w = j < top.out ? memory", "const T w = j <= top.out ? memory"),
    ("sum", "small.cuh", "for (int r = 0; r < rows; r++)", "for (int r = 0; r + 1 < rows; r++)"),
    ("sum", "small_steps.cuh", "for (int r = 0; r < count; r++) total", "for (int r = 0; r + 1 < count; r++) total"),
    ("sum", "small_score.cuh", "const int rows = (tangents + 1) * samples;", "const int rows = tangents * samples;"),
    ("sum", "small_score.cuh", "jacobian += dot(u,", "jacobian = dot(u,"),
    ("sum", "small_score.cuh", "jacobian += dot(pullback(m, r),", "jacobian = dot(pullback(m, r),"),
    ("sum", "small_score.cuh", "square += projected", "square = projected"),
    ("term", "small_score.cuh", "dot(u, out(0, r), top().out) + dot(v, bias, p.dim)", "dot(u, out(0, r), top().out)"),
    ("term", "small_score.cuh", "dot(u, out(0, r), top().out) + dot(v, bias, p.dim)", "dot(v, bias, p.dim)"),
    ("term", "small_score.cuh", "/ T(p.count) + projected * T(0);", "/ T(p.count);"),
    ("term", "small_score.cuh", "share(r) * projected;", "projected;"),
    ("term", "small_score.cuh", "const T value = s[j] + bias[j];", "const T value = s[j];"),
    ("term", "small_score.cuh", "direction == 0 ? memory[p.at_weights + r] * value : T(0);",
     "memory[p.at_weights + r] * value;"),
    ("term", "small_score.cuh", "direction == 0 ? norm / T(2) : T(0)", "norm / T(2)"),
    ("term", "small_score.cuh", "jacobian + nan_flag", "jacobian"),
    ("term", "small_score.cuh", "return memory[p.at_weights + r] / T(p.count);", "return memory[p.at_weights + r];"),
    ("term", "small_score.cuh", "this->collect(s, samples);", ";"),
    ("term", "small_score.cuh", "this->product_down(s, memory + s.at_z, samples, top().at_out, 0);", ";"),
    ("term", "small_score.cuh", "this->outer(s, directions(), memory + p.at_pullback, tangents * samples);", ";"),
    ("term", "small_score.cuh",
     "this->add_rows(s.at_bias_sum, s.out, directions(), s.ld, memory + p.at_energy, tangents * samples);", ";"),
    ("term", "small_score.cuh", "ub = share(r) * hd;", "ub = T(0);"),
    ("term", "small_score.cuh", "hd = share(r) * u;", "hd = T(0);"),
    ("term", "small_score.cuh", "ub = add_inner(ub, along, h);", ";"),
    ("term", "small_score.cuh", "hb = add_inner(hb, along, u);", ";"),
    ("swap", "small_score.cuh", "ub = add_inner(ub, along, h);", "ub = add_inner(ub, along, u);"),
    ("swap", "small_score.cuh", "hb = add_inner(hb, along, u);", "hb = add_inner(hb, along, h);"),
    ("swap", "small_score.cuh", "tangent(d1, hdb)", "tangent(d1, zd)"),
    ("swap", "small_score.cuh", "add_inner(inner, hdb, zd)", "add_inner(inner, zd, zd)"),
    ("swap", "small_score.cuh", "value_down(d1, adjoints[at], memory[s.at_d2 + at], inner)",
     "value_down(memory[s.at_d2 + at], adjoints[at], d1, inner)"),
    ("mask", "small_score.cuh", "j < width; j += kWarp) sum", "j <= width; j += kWarp) sum"),
    ("mask", "small_score.cuh", "j < p.dim; j += kWarp", "j <= p.dim; j += kWarp"),
)  # fmt: skip

KERNELS = "cuda/kernels/"  # under csrc

# What nobody can notice, and why.
EQUIVALENT = {
    (
        KERNELS + "small.cuh",
        "begin, 1",
        "deleted",
    ): "what begin writes is read only after the barrier of enter, or of end",
    (KERNELS + "small_steps.cuh", "const T w = j < top.out ? memory", "const T w = j <= top.out ? memory"): (
        "the readout is padded with zeros to a multiple of four, and no product reads the columns beyond"
    ),
}

# What notices a kind: a machine of tests/cuda. Which of its tests notice the mutants of a file, by how its name begins:
# mutants are compiled in float64 alone, but for the products, which have no other type.
JUDGES = {"barrier": "race", "mask": "address"} | dict.fromkeys(("rule", "swap", "sum", "term", "fence"), "emulator")
TESTED = {
    "narrow": (("test_traffic.py",), "padded"),
    "gemm_split": (("test_gemm.py",), "layouts_of_split or slices or accurate"),
    "gemm_up": (("test_gemm_up.py",), "float64"),
    "gemm_wgmma": (("test_wgmma.py",), "layouts or slices or accurate"),
    "gemm": (("test_gemm.py",), "layout"),
    "small_score": (("test_small.py",), "score and (f64 or finite)"),
    "small": (("test_small.py",), "f64"),
    "": (("test_tops.py", "test_rows.py", "test_pointwise.py"), "(double or int8)"),
}
NEEDED = {
    "narrow": "narrow_weights",
    "gemm_split": "product_(split|sum)",
    "gemm_up": "product_up",
    "gemm_wgmma": "product_sum",
    "gemm": "product_",
    "small_score": "small_",
    "small": "small_",
    "": "LAYER_KERNEL|FOR_EACH",
}  # lines of kernels
KERNEL = re.compile(r"^ *FASTSSM_(?:(?:LAYER_)?KERNEL|FOR_EACH_ACTIVATION)\(")


class Mutant(NamedTuple):
    """One change of the kernels: its kind, where it is, what changes, and the text of that file with it."""

    kind: str
    file: str  # in csrc
    place: str
    change: str
    text: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What it goes by in EQUIVALENT."""
        return self.file, self.place, self.change


def barriers() -> Iterator[Mutant]:
    """Yield the kernels without one of their barriers."""
    for path in sorted((CSRC / KERNELS).glob("*.cuh")):
        text, seen = path.read_text(), dict[str, int]()
        for found in re.finditer(re.escape(BARRIER), text):
            function = [match[1] for match in FUNCTION.finditer(text[: found.start()])][-1]
            seen[function] = seen.get(function, 0) + 1
            broken = text[: found.start()] + text[found.end() :]
            yield Mutant("barrier", KERNELS + path.name, f"{function}, {seen[function]}", "deleted", broken)


def every_mutant() -> Iterator[Mutant]:
    """Yield all mutants."""
    yield from barriers()
    for rule in of_rules():
        yield Mutant("rule", "maths/sweep.h", f"{rule.rule}: {rule.term}", rule.change, rule.text)
    for kind, name, old, new in CHANGES:
        yield Mutant(kind, KERNELS + name, old, new, once((CSRC / KERNELS / name).read_text(), old, new))


def tested_by(file: str) -> str:
    """Return the row of TESTED for a file."""
    return next(prefix for prefix in TESTED if Path(file).name.startswith(prefix))


def kernels_of(text: str, needed: str) -> str:
    """Return kernels.cu without float32, and without the kernels whose lines do not have what is needed."""
    lines = once(text, "FASTSSM_KERNELS(float)\n", "").splitlines()
    return "\n".join(line for line in lines if not KERNEL.match(line) or re.search(needed, line)) + "\n"


def verdict(folder: Path, file: str, text: str, machine: str) -> str:
    """Run the tests with one file changed, and return the first that fails, or nothing."""
    shutil.copytree(CSRC, folder / "csrc", ignore=shutil.ignore_patterns("*.cpp"))
    kernels = folder / "csrc" / "cuda" / "kernels" / "kernels.cu"
    (folder / "csrc" / file).write_text(text)
    kernels.write_text(kernels_of(kernels.read_text(), NEEDED[tested_by(file)]))
    packs = folder / "csrc" / "cuda" / "kernels" / "pack.cuh"
    packs.write_text(once(packs.read_text(), PRODUCT, MINUS + PRODUCT))
    libraries.library("kernels", [kernels], "plain" if machine == "emulator" else machine)  # raises if it is no C++
    files, chosen = TESTED[tested_by(file)]
    options = ["-x", "-q", "-p", "no:cacheprovider", "--tb=no", "-k", f"{machine} and ({chosen})"]
    surroundings = libraries.sanitized() if machine == "address" else dict(os.environ)
    flavour = {} if machine == "emulator" else {"FASTSSM_CUDA_FLAVOUR": machine}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *(str(TESTS / name) for name in files)],
        cwd=ROOT,
        env={**surroundings, **flavour, "FASTSSM_CUDA_KERNELS": str(kernels), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    shutil.rmtree(folder)
    named = re.search(r"^(?:FAILED|ERROR) (?:\S*/)?(\S+?)(?:\[|\s)", done.stdout, re.MULTILINE)
    stopped = f"{machine}: exit status {done.returncode}" if done.returncode else ""
    return named[1] if named else stopped


def check_sound(pool: ThreadPoolExecutor, scratch: Path, every: list[Mutant]) -> None:
    """Exit if a test that is to judge a mutant fails without any."""
    sound = {(tested_by(m.file), JUDGES[m.kind]): m.file for m in every}
    files, machines = list(sound.values()), [machine for _, machine in sound]
    folders = [scratch / f"sound-{index}" for index in range(len(sound))]
    found = pool.map(
        lambda f, file, machine: verdict(f, file, (CSRC / file).read_text(), machine), folders, files, machines
    )
    for key, failing in zip(sound, found, strict=True):
        if failing:
            sys.exit(f"{failing} fails without any mutant: {key}")


def update(table: Path, rows: list[tuple[str, ...]], keep: bool) -> None:
    """Write rows in the order of the mutants, and with `keep` those of the table that are not among them."""
    known: dict[tuple[str, ...], Sequence[str]] = {}
    if keep:
        with table.open(newline="") as file:
            known |= {tuple(row[:4]): row for row in csv.reader(file)}
    known |= {row[:4]: row for row in rows}
    kept = [known[mutant[:4]] for mutant in every_mutant() if mutant[:4] in known]
    with table.open("w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(("kind", "file", "place", "change", "judge", "caught", "by_or_why_not"))
        out.writerows(kept)


def main() -> None:
    """Try every mutant, write the table, and exit with 1 if one survives that should not."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=RESULT, help="where the table goes")
    parser.add_argument("--only", default="", help="only mutants that match; the table keeps its other rows")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutants at a time")
    options = parser.parse_args()
    every = [mutant for mutant in every_mutant() if re.search(options.only, " ".join(mutant[:4]))]
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(options.jobs) as pool:
        check_sound(pool, Path(scratch), every)
        folders = [Path(scratch, str(index)) for index in range(len(every))]
        found = pool.map(lambda m, folder: verdict(folder, m.file, m.text, JUDGES[m.kind]), every, folders)
        rows = []
        for mutant, by in zip(every, found, strict=True):
            result = "yes" if by else "equivalent" if mutant.key in EQUIVALENT else "no"
            print(f"{result:<11} {mutant.kind}: {mutant.file}: {mutant.place}: {mutant.change} {by}", flush=True)
            rows.append((*mutant[:4], JUDGES[mutant.kind], result, by or EQUIVALENT.get(mutant.key, "")))
    update(options.output, rows, keep=bool(options.only))
    survivors = sum(row[5] == "no" for row in rows)
    print(f"{sum(row[5] == 'yes' for row in rows)} of {len(rows)} mutants caught, {survivors} survive")
    sys.exit(survivors > 0)


if __name__ == "__main__":
    main()
