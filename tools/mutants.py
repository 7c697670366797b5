"""Breaks every term of every rule of csrc/maths/sweep.h in turn, and lists those that csrc/tests/test_engine.cpp sees.

Run `python tools/mutants.py [--output bench/results/mutants.csv]`. Each term is dropped (made zero) and doubled, the
kernels of one level are compiled with the broken rule, and the test of the engine runs with them. Exits with 1 if a
mutant survives. No mutant is equivalent: each term enters a value or a gradient of some network of the test.
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
CHANGES = {"dropped": "({0} - ({0}))", "doubled": "(({0}) + ({0}))"}


class Mutant(NamedTuple):
    """A rule with one term changed, and the text of sweep.h with it."""

    rule: str
    term: str
    change: str
    text: str


def once(text: str, old: str, new: str) -> str:
    """Replace what must occur exactly once."""
    if text.count(old) != 1:
        sys.exit(f"{old!r} must occur once, but occurs {text.count(old)} times in {text!r}: update RULES.")
    return text.replace(old, new)


def mutants(text: str) -> Iterator[Mutant]:
    """Yield every mutant of sweep.h, having checked that no rule of it is missing from the table."""
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
                yield Mutant(rule, term, change, once(text, statement, broken))


class Bench:
    """The engine and its test, compiled once but for the kernels of one level."""

    def __init__(self, scratch: Path) -> None:
        self.built, self.scratch = description(), scratch
        (self.kernels,) = map(Path, self.built["kernels"])
        jobs = [(source, ()) for source in (*map(Path, self.built["engine"]), CSRC / "tests" / "test_engine.cpp")]
        jobs += [(self.kernels, self.built[f"level_{name}"]) for name in self.built["levels"] if name != LEVEL]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            targets = [scratch / f"{index}.o" for index in range(len(jobs))]
            self.objects = list(pool.map(lambda job, target: self.compile(*job, target), jobs, targets))

    def compile(self, source: Path, flags: tuple[str, ...] | list[str], target: Path) -> Path:
        """Compile one file, with little optimisation: it is compiled often, and runs once."""
        own = [*self.built["flags"], "-O1", "-w", f"-I{CSRC}", *flags]
        subprocess.run([*COMPILER, *own, "-c", str(source), "-o", str(target)], check=True)
        return target

    def fails(self, name: str, sweep: str) -> int:
        """Return how many checks fail with this text of sweep.h."""
        folder = self.scratch / name
        shutil.copytree(CSRC, folder / "csrc")
        (folder / "csrc" / "maths" / "sweep.h").write_text(sweep)
        broken = folder / "csrc" / self.kernels.relative_to(CSRC)
        kernels = self.compile(broken, self.built[f"level_{LEVEL}"], folder / "kernels.o")
        program = [*COMPILER, "-pthread", *map(str, [*self.objects, kernels]), "-o", f"{folder}/test"]
        subprocess.run(program, check=True)
        done = subprocess.run([f"{folder}/test", LEVEL], capture_output=True, text=True)
        found = re.search(r"^(\d+) failures", done.stdout, re.MULTILINE)
        if found is None or done.returncode not in (0, 1):
            sys.exit(f"The test of {name} crashed: {done.stdout}{done.stderr}")
        return int(found[1])


def main() -> None:
    """Try every mutant, write the table, and exit with 1 if one survives."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=RESULT, help="where the table goes")
    output = parser.parse_args().output
    sound = (CSRC / "maths" / "sweep.h").read_text()
    every = list(mutants(sound))
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch))
        if failures := bench.fails("sound", sound):
            sys.exit(f"{failures} checks fail without any mutant.")
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            names = [f"mutant-{index}" for index in range(len(every))]
            failing = pool.map(lambda name, mutant: bench.fails(name, mutant.text), names, every)
            rows = []
            for mutant, failures in zip(every, failing, strict=True):
                print(f"{'caught' if failures else 'SURVIVED':<9} {mutant.rule}: {mutant.term} {mutant.change}")
                rows.append((*mutant[:3], "yes" if failures else "no", failures))
    with output.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("rule", "term", "change", "caught", "failed_checks"))
        table.writerows(rows)
    survivors = sum(caught == "no" for *_, caught, _ in rows)
    print(f"{len(rows) - survivors} of {len(rows)} mutants caught")
    sys.exit(survivors > 0)


if __name__ == "__main__":
    main()
