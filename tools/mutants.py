"""Breaks the rules of csrc/maths/sweep.h and the products of csrc/cpu/kernels/products.h, and lists what the tests see.

Run `python tools/mutants.py [--output bench/results/mutants.csv]`. Each term of each rule is dropped (made zero) and
doubled, and test_engine.cpp runs; each function of products.h is broken in several ways, and test_products.cpp runs.
The kernels of one level are compiled with what is broken. Exits with 1 if a mutant survives. No mutant is equivalent:
each term enters a value or a gradient of some network of the test, and each change of a product changes a number or
what lies beside it.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from native_build import CSRC, ROOT, description

LEVEL = "baseline"
COMPILER = shlex.split(os.environ.get("CXX", "c++"))
RESULT = ROOT / "bench" / "results" / "mutants.csv"
SWEEP, PRODUCT = "maths/sweep.h", "cpu/kernels/products.h"
TESTS = ("test_engine", "test_products")

# Each rule by its name, its one statement, and the terms of it. Together they must be all of sweep.h.
RULES = (
    ("tangent", "return d1 * zd;", ("d1 * zd",)),
    ("add_square", "return q + zd * zd;", ("q", "zd * zd")),
    ("curvature, of the first layer", "return d2 * q;", ("d2 * q",)),
    ("curvature", "return d1 * zk + d2 * q;", ("d1 * zk", "d2 * q")),
    ("curved_tangent_down, hdb = 0", "return (d2_cg + d2_cg) * zd;", ("d2_cg + d2_cg",)),
    ("curved_tangent_down", "return d1 * hdb + (d2_cg + d2_cg) * zd;", ("d1 * hdb", "d2_cg + d2_cg")),
    ("add_inner", "return inner + adjoint * z;", ("inner", "adjoint * z")),
    ("value_down", "return d1 * hb + d2 * inner;", ("d1 * hb", "d2 * inner")),
    ("curved_value_down, hb = 0", "return d2 * inner + d3 * cg * q;", ("d2 * inner", "d3 * cg * q")),
    (
        "curved_value_down",
        "return d1 * hb + curved_value_down(d2, inner, d3, cg, q);",
        ("d1 * hb", "curved_value_down(d2, inner, d3, cg, q)"),
    ),
)
# Ways to break a function of products.h: what it says, and what it says instead.
PRODUCTS = (
    ("block", "sums[i][j] = Native<T>(T(0));", "sums[i][j] = Native<T>(T(1));"),
    ("block", "p < strip.k; p++", "p + 1 < strip.k; p++"),
    ("block", "a += STORED == Stored::by_rows ? 1 : lda", "a += 1"),
    ("block", "b += ldb", "b += VECTORS * lanes"),
    ("block", "load(b + j * lanes)", "load(b)"),
    ("block", "? a[i * lda] : a[i]", "? a[i] : a[i]"),
    ("block", "? a[i * lda] : a[i]", "? a[i * lda] : a[0]"),
    ("block", "add_inner(sums[i][j], factor, of_b[j])", "add_inner(sums[i][j], factor, of_b[0])"),
    ("block", "T* at = c + i * ldc + j * lanes", "T* at = c + i * ldc"),
    ("block", "T* at = c + i * ldc + j * lanes", "T* at = c + j * lanes"),
    ("block", "strip.accumulate ? load(at) + sums[i][j] : sums[i][j]", "sums[i][j]"),
    ("block", "strip.accumulate ? load(at) + sums[i][j] : sums[i][j]", "load(at) + sums[i][j]"),
    ("blocks_of", "static_cast<int>(I) + 1", "static_cast<int>(I) + (I == 0)"),
    ("panel", "height + (n < taller)", "height"),
    ("panel", "height + (n < taller)", "height + (n + 1 < taller)"),
    ("panel", "down = STORED == Stored::by_rows ? whole.lda : 1", "down = 1"),
    ("panel", "along = STORED == Stored::by_rows ? 1 : whole.lda", "along = 1"),
    ("panel", "p < whole.k; p += depth", "p < depth; p += depth"),
    ("panel", "p < whole.k; p += depth", "p < whole.k; p += depth + 1"),
    ("panel", "least(depth, whole.k - p)", "depth"),
    ("panel", "least(depth, whole.k - p)", "least(depth - 1, whole.k - p)"),
    ("panel", "strip.a += p * along;", ""),
    ("panel", "strip.b += p * whole.ldb;", ""),
    ("panel", "whole.accumulate || p > 0", "whole.accumulate"),
    ("panel", "whole.accumulate || p > 0", "p > 0"),
    ("panel", "strip.a += rows * down;", ""),
    ("panel", "strip.c += rows * whole.ldc;", ""),
    ("copy_rows", "p < k; p++", "p + 1 < k; p++"),
    ("copy_rows", "b += ldb", "b += VECTORS * native_lanes<T>"),
    ("copy_rows", "load(b + j * native_lanes<T>)", "load(b)"),
    ("panel", "copy_rows<VECTORS>(strip.k, strip.b,", "copy_rows<VECTORS>(strip.k, whole.b,"),
    ("panel", "strip.b = copied;", ""),
    ("panel", "strip.ldb = width;", ""),
    ("panel_of", "vectors < VECTORS", "vectors + 1 < VECTORS"),
    ("panel_of", "panel<VECTORS, STORED>(m, strip)", "panel<1, STORED>(m, strip)"),
    ("multiply", "least(most, m - i),", "least(most, m),"),
    ("multiply", "{k, a + i * lda, lda,", "{k, a, lda,"),
    ("multiply", "b + j * k, width", "b + j, width"),
    ("multiply", "b + j * k, width", "b + j * k, width + 1"),
    ("multiply", "width, c + i * ldc + j, ldc", "width, c + j, ldc"),
    ("multiply", "width, c + i * ldc + j, ldc", "width, c + i * ldc, ldc"),
    ("multiply_transposed", "least(most, m - i),", "least(most, m),"),
    ("multiply_transposed", "{k, a + i, lda", "{k, a, lda"),
    ("multiply_transposed", "b + j, ldb", "b, ldb"),
    ("multiply_transposed", "c + j * m + i * width, width", "c + j * m, width"),
    ("multiply_transposed", "c + j * m + i * width, width", "c + i * width, width"),
    ("multiply_transposed", "c + j * m + i * width, width", "c + j * m + i * width, kPanel<T>"),
)
CHANGES = {"dropped": "({0} - ({0}))", "doubled": "(({0}) + ({0}))"}


class Mutant(NamedTuple):
    """A rule or a function with one change: its file, the text of the file, and the test that is to see it."""

    file: str
    rule: str
    term: str
    change: str
    text: str
    test: str


def once(text: str, old: str, new: str) -> str:
    """Replace what must occur exactly once."""
    if text.count(old) != 1:
        sys.exit(f"{old!r} must occur once, but occurs {text.count(old)} times in {text!r}: update the table.")
    return text.replace(old, new)


def of_rules() -> Iterator[Mutant]:
    """Yield every mutant of sweep.h, having checked that no rule of it is missing from the table."""
    text = (CSRC / SWEEP).read_text()
    returns, listed = re.findall(r"return .*;", text), [statement for _, statement, _ in RULES]
    if sorted(returns) != sorted(listed):
        sys.exit(f"sweep.h has these rules: {returns}; the table has {listed}: update RULES.")
    for rule, statement, terms in RULES:
        for term in terms:
            for change, form in CHANGES.items():
                word = re.escape(term)
                broken, count = re.subn(rf"(?<!\w){word}(?!\w)", form.format(term), statement)
                if count != 1:
                    sys.exit(f"{term!r} must occur once in {statement!r}, but occurs {count} times: update RULES.")
                yield Mutant(SWEEP, rule, term, change, once(text, statement, broken), "test_engine")


def of_products() -> Iterator[Mutant]:
    """Yield every mutant of products.h."""
    text = (CSRC / PRODUCT).read_text()
    for function, old, new in PRODUCTS:
        found = re.search(rf"^\S.* {function}\((?:.|\n)*?^}}$", text, re.MULTILINE)
        body = found[0] if found else ""
        yield Mutant(
            PRODUCT, function, old, new or "dropped", text.replace(body, once(body, old, new)), "test_products"
        )


def every_mutant() -> list[Mutant]:
    """Return all mutants, in the order of the table of results."""
    return [*of_rules(), *of_products()]


class Bench:
    """The engine and its tests, compiled once but for the kernels of one level."""

    def __init__(self, scratch: Path) -> None:
        self.built, self.scratch = description(), scratch
        (self.kernels,) = map(Path, self.built["kernels"])
        jobs = [(CSRC / "tests" / f"{test}.cpp", ()) for test in TESTS]
        jobs += [(source, ()) for source in map(Path, self.built["engine"])]
        jobs += [(self.kernels, self.built[f"level_{name}"]) for name in self.built["levels"] if name != LEVEL]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            targets = [scratch / f"{index}.o" for index in range(len(jobs))]
            objects = list(pool.map(lambda job, target: self.compile(*job, target), jobs, targets))
        self.tests, self.objects = dict(zip(TESTS, objects, strict=False)), objects[len(TESTS) :]

    def compile(self, source: Path, flags: tuple[str, ...] | list[str], target: Path) -> Path:
        """Compile one file, with little optimisation: it is compiled often, and runs once."""
        own = [*self.built["flags"], "-O1", "-w", f"-I{CSRC}", *flags]
        subprocess.run([*COMPILER, *own, "-c", str(source), "-o", str(target)], check=True)
        return target

    def fails(self, name: str, mutant: Mutant) -> str:
        """Return how many checks of its test fail with a mutant, or how the test ended without a count."""
        folder = self.scratch / name
        shutil.copytree(CSRC, folder / "csrc")
        (folder / "csrc" / mutant.file).write_text(mutant.text)
        broken = folder / "csrc" / self.kernels.relative_to(CSRC)
        kernels = self.compile(broken, self.built[f"level_{LEVEL}"], folder / "kernels.o")
        objects = [self.tests[mutant.test], *self.objects, kernels]
        subprocess.run([*COMPILER, "-pthread", *map(str, objects), "-o", f"{folder}/test"], check=True)
        try:
            done = subprocess.run([f"{folder}/test", LEVEL], capture_output=True, text=True, timeout=600)
        except subprocess.TimeoutExpired:
            return "no end"
        if done.returncode < 0:
            return "crash"
        found = re.search(r"^(?:(\d+) (?:failures|checks failed)|passed)", done.stdout, re.MULTILINE)
        if found is None or done.returncode not in (0, 1):
            sys.exit(f"The test of {name} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return found[1] or "0"


def main() -> None:
    """Try every mutant, write the table, and exit with 1 if one survives."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=RESULT, help="where the table goes")
    output = parser.parse_args().output
    every = every_mutant()
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch))
        for test in TESTS:
            sound = Mutant(SWEEP, "", "", "", (CSRC / SWEEP).read_text(), test)
            if (failures := bench.fails(f"sound-{test}", sound)) != "0":
                sys.exit(f"{test} without any mutant: {failures} failures.")
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            names = [f"mutant-{index}" for index in range(len(every))]
            failing = pool.map(bench.fails, names, every)
            rows = []
            for mutant, failures in zip(every, failing, strict=True):
                caught = "no" if failures == "0" else "yes"
                print(f"{'caught' if caught == 'yes' else 'SURVIVED':<9} {mutant.rule}: {mutant.term} {mutant.change}")
                rows.append((*mutant[:4], caught, failures))
    with output.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("file", "rule", "term", "change", "caught", "failed_checks"))
        table.writerows(rows)
    survivors = sum(caught == "no" for *_, caught, _ in rows)
    print(f"{len(rows) - survivors} of {len(rows)} mutants caught")
    sys.exit(survivors > 0)


if __name__ == "__main__":
    main()
