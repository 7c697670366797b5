"""The C++ header of activations: fresh, readable, and the same arithmetic as the rules it was traced from."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import Any

import pytest

from fastssm.activations import TABLE, Activation
from tools import generate

PARAMETERS = {
    "negative_slope": 0.2, "beta": 1.5, "threshold": 6.0, "alpha": 0.7, "omega": 3.0, "min_val": -0.9, "max_val": 2.5,
    "lambd": 0.6,
}  # fmt: skip
POINTS = (-7.1, -0.8, 0.0, 0.4, 2.9, 9.3)


class Plain:
    """The vocabulary of the rules on floats, any smooth functions in place of the right ones."""

    @staticmethod
    def where(condition: bool, a: float, b: float) -> float:
        return a if condition else b

    @staticmethod
    def full_like(z: float, value: float) -> float:
        return value

    def __getattr__(self, name: str) -> Any:
        count = len(generate.RESULTS.get(name, "1"))
        values = lambda *args: [math.cos(sum(args) + index) for index in range(count)]  # noqa: E731
        return values if name in generate.RESULTS else lambda *args: values(*args)[0]


def run(row: Activation, order: int, z: float) -> list[float]:
    """Run the C++ text of one activation, which is almost Python."""
    text = generate.function(row).split("{\n", 1)[1]
    scope: dict[str, Any] = {"S": float, "z": z, "c": [PARAMETERS[name] for name in row.parameters]}
    scope |= {name: getattr(Plain(), name) for name in re.findall(r"\b([a-z_]\w*)\(", text)}
    for line in re.findall(r"^  (.+);$", text, re.MULTILINE):
        found = re.fullmatch(r"(?:if constexpr \(ORDER == (\d)\) )?return {(.*)}", line)
        if found is None:
            for statement in re.split(r", (?=\w+ = c)", re.sub(r"^const \w+ \[?|\](?= =)", "", line)):
                exec(statement, scope)
        elif found[1] is None or int(found[1]) == order:
            values: list[float] = eval(f"[{found[2]}]", scope)
            return values
    raise AssertionError(f"{row.name} does not return:\n{text}")


def test_header_is_fresh() -> None:
    assert generate.main(["--check"]) == 0, "run `python tools/generate.py`"


def test_stale_header_is_refused_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = tmp_path / "activations.h"
    assert generate.main(["--check", "--header", str(header)]) == 1
    assert generate.main(["--header", str(header)]) == 0
    assert generate.main(["--check", "--header", str(header)]) == 0
    header.write_text(header.read_text().replace("S(6.0)", "S(5.0)"))
    assert generate.main(["--check", "--header", str(header)]) == 1
    assert capsys.readouterr().out.count("run `python tools/generate.py`.") == 2


def test_printed_arithmetic_is_that_of_the_rule() -> None:
    for row, z in itertools.product(TABLE, POINTS):
        expected = list(row.rule(Plain(), z, *(PARAMETERS[name] for name in row.parameters)))
        for order in range(4):
            found = run(row, order, z)
            assert found == pytest.approx(expected[: order + 1], rel=1e-13, abs=1e-13), f"{row.name}({z})"


def test_header_is_readable() -> None:
    text = generate.header()
    assert max(map(len, text.splitlines())) <= 120
    assert all(f"// {(row.rule.__doc__ or '').splitlines()[0]}\n" in text for row in TABLE)
    assert all(generate.function(row).count("\n") <= 24 for row in TABLE)


def test_an_expression_used_twice_is_computed_once() -> None:
    rule = lambda m, z: iter([(z - (z - 2.0)) / (z * z), -(z * z), z * z * z, z / (z / 3.0)])  # noqa: E731
    printed = "\n".join(generate.Printer(Activation("test", "Test", rule)).statements())
    assert printed.split("\n") == [
        "const V v1 = z * z;",
        "const V f = (z - (z - S(2.0))) / v1;",
        "if constexpr (ORDER == 0) return {f};",
        "const V d1 = -v1;",
        "if constexpr (ORDER == 1) return {f, d1};",
        "const V d2 = v1 * z;",
        "if constexpr (ORDER == 2) return {f, d1, d2};",
        "const V d3 = z / (z / S(3.0));",
        "return {f, d1, d2, d3};",
    ]
