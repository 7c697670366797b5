"""Writes csrc/maths/activations.h from the table of fastssm.activations; `--check` only says whether it is fresh.

Every rule runs once on symbols. What it computes becomes a list of expressions in which equal ones are one and the
same; those that are used more than once or long get a name, the others are printed where they are used.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from fastssm.activations import TABLE, Activation  # noqa: E402

HEADER = ROOT / "csrc" / "maths" / "activations.h"
ORDERS = ("f", "d1", "d2", "d3")
LONGEST = 70  # characters of an expression without a name
PRECEDENCE = {">": 1, "<": 1, "+": 2, "-": 2, "*": 3, "/": 3, "negative": 4}
RESULTS = {
    "exponentials": ("e", "expm1"),
    "gaussian": ("cdf", "density"),
    "sigmoids": ("p", "n"),
    "sigmoids_of_cubic": ("p", "n"),
    "sin_cos": ("sine", "cosine"),
    "softplus_sigmoids": ("value", "p", "n"),
    "tanh_slope": ("t", "slope"),
}


def _binary(kind: str) -> Callable[[Symbol, Any], Symbol]:
    return lambda self, other: self.trace.operation(kind, self, other)


def _reflected(kind: str) -> Callable[[Symbol, Any], Symbol]:
    return lambda self, other: self.trace.operation(kind, other, self)


@dataclass(frozen=True, eq=False)
class Symbol:
    """An expression: what is done to what.

    Attributes:
        kind: an operator of PRECEDENCE, "name" of an argument, "number", a function, or "item" of a function's results.
        args: symbols, or the text of a name, or a number.
        scalar: whether it is a number like the activation's parameters, not of the shape of z.
        trace: where equal expressions meet.
    """

    kind: str
    args: tuple[Any, ...]
    scalar: bool
    trace: Trace = field(repr=False)

    __add__, __radd__ = _binary("+"), _reflected("+")
    __sub__, __rsub__ = _binary("-"), _reflected("-")
    __mul__, __rmul__ = _binary("*"), _reflected("*")
    __truediv__, __rtruediv__ = _binary("/"), _reflected("/")
    __gt__, __lt__ = _binary(">"), _binary("<")

    def __neg__(self) -> Symbol:  # noqa: D105
        return self.trace.operation("negative", self)

    def __pow__(self, exponent: int) -> Symbol:  # noqa: D105
        return self if exponent == 1 else self ** (exponent - 1) * self


class Trace:
    """The vocabulary of the rules on symbols: `fastssm.activations.Functions` for the tracer."""

    def __init__(self) -> None:
        self.known: dict[tuple[Any, ...], Symbol] = {}

    def symbol(self, kind: str, *args: Any, scalar: bool = False) -> Symbol:
        """Return the one symbol of this expression."""
        return self.known.setdefault((kind, *args), Symbol(kind, args, scalar, self))

    def operation(self, kind: str, *args: Any) -> Symbol:
        """Return an operation or function of symbols and numbers."""
        if kind == "*" and args[0] == 1:
            return args[1]  # type: ignore[no-any-return]
        symbols = [a if isinstance(a, Symbol) else self.symbol("number", float(a), scalar=True) for a in args]
        return self.symbol(kind, *symbols, scalar=all(s.scalar for s in symbols))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Return the function of that name: several results where RESULTS names them."""

        def call(*args: Any) -> Any:
            made = self.operation(name, *args)
            return [self.symbol("item", made, i) for i in range(len(RESULTS[name]))] if name in RESULTS else made

        return call


class Printer:
    """Prints the expressions that one rule yields as the statements of a C++ function."""

    def __init__(self, row: Activation) -> None:
        trace = Trace()
        parameters = [trace.symbol("name", name, scalar=True) for name in row.parameters]
        self.results = list(row.rule(trace, trace.symbol("name", "z"), *parameters))
        self.uses = Counter(_arguments(self.results))
        self.names: dict[Symbol, str] = {}
        self.taken = Counter(["z", "c", *row.parameters, *ORDERS])

    def statements(self) -> Iterator[str]:
        """Yield one statement after another; behind each derivative the return for callers that want no more."""
        texts: list[str] = []
        for order, result in enumerate(self.results):
            yield from self._prepare(result, ORDERS[order])
            texts.append(self._text(result))
            condition = f"if constexpr (ORDER == {order}) " if order < len(self.results) - 1 else ""
            yield f"{condition}return {{{', '.join(texts)}}};"

    def _prepare(self, symbol: Symbol, wish: str = "") -> Iterator[str]:
        """Yield the statements that an expression needs before it can be printed."""
        if symbol in self.names or symbol.kind in ("name", "number"):
            return
        for argument in symbol.args:
            if isinstance(argument, Symbol):
                yield from self._prepare(argument)
        if symbol.kind in RESULTS:
            names = [self._free(name) for name in RESULTS[symbol.kind]]
            yield f"const auto [{', '.join(names)}] = {self._text(symbol)};"
            self.names |= {symbol.trace.symbol("item", symbol, i): name for i, name in enumerate(names)}
        elif symbol.kind != "item" and (wish or self.uses[symbol] > 1 or len(self._text(symbol)) > LONGEST):
            of = "S" if symbol.scalar else "auto" if symbol.kind in "<>" else "V"
            text = self._text(symbol)
            self.names[symbol] = wish or self._free("k" if symbol.scalar else "v")
            yield f"const {of} {self.names[symbol]} = {text};"

    def _free(self, wish: str) -> str:
        self.taken[wish] += 1
        number = self.taken[wish]
        return wish if number == 1 and wish != "v" else f"{wish}{number}"

    def _text(self, symbol: Symbol, within: int = 0) -> str:
        """Return an expression, in parentheses where what it stands in binds tighter than `within`."""
        if symbol in self.names:
            return self.names[symbol]
        if symbol.kind == "name":
            return str(symbol.args[0])
        if symbol.kind == "number":
            return f"S({symbol.args[0]!r})"
        if symbol.kind not in PRECEDENCE:
            exact = symbol.kind in RESULTS  # these round their numbers themselves
            texts = [repr(a.args[0]) if exact and a.kind == "number" else self._text(a) for a in symbol.args]
            return f"{symbol.kind}({', '.join(texts)})"
        level = PRECEDENCE[symbol.kind]
        *left, right = symbol.args
        if left:
            text = f"{self._text(left[0], level)} {symbol.kind} {self._text(right, level + 1)}"
        else:
            text = f"-{self._text(right, level)}"
        return text if level >= within else f"({text})"


def _arguments(results: list[Symbol]) -> Iterator[Symbol]:
    """Yield every expression as often as another one uses it, results once more."""
    seen: set[Symbol] = set()
    waiting = list(results)
    yield from set(results)
    while waiting:
        symbol = waiting.pop()
        if symbol not in seen:
            seen.add(symbol)
            arguments = [a for a in symbol.args if isinstance(a, Symbol)]
            yield from arguments
            waiting += arguments


def function(row: Activation) -> str:
    """Return one activation as a C++ function."""
    parameters = ", ".join(f"{name} = c[{index}]" for index, name in enumerate(row.parameters))
    body = [f"const S {parameters};"] if parameters else []
    return "\n".join(
        [
            f"// {(row.rule.__doc__ or '').splitlines()[0]}",
            "template <int ORDER, class V, class S>",
            f"FASTSSM_HD FASTSSM_INLINE Jet<V> {row.name}_jet(V z, const S*{' c' if parameters else ''}) {{",
            *(f"  {line}" for line in [*body, *Printer(row).statements()]),
            "}",
        ]
    )


def definition(row: Activation) -> str:
    """Return what the header has of a row: its function, or a call of that of an earlier row with its rule."""
    first = next(r for r in TABLE if (r.rule, r.parameters) == (row.rule, row.parameters))
    if first is row:
        return function(row)
    call = f"{row.name}_jet(V z, const S* c) {{ return {first.name}_jet<ORDER>(z, c); }}"
    return f"template <int ORDER, class V, class S>\nFASTSSM_HD FASTSSM_INLINE Jet<V> {call}"


def _array(of: str, name: str, values: Iterable[str]) -> str:
    text = f"constexpr {of} {name}[] = {{{', '.join(values)}}};"
    return textwrap.fill(text, 120, subsequent_indent=" " * (text.index("{") + 1))


def _repeated(macro: str, calls: Iterable[str]) -> str:
    lines = [f"#define {macro}(X, ...)", *(f"  {call}" for call in calls)]
    return "\n".join([*(f"{line:<58}\\" for line in lines[:-1]), lines[-1]])


def header() -> str:
    """Return the text of csrc/maths/activations.h."""
    choices = [f"  if constexpr (ID == {i}) return {row.name}_jet<ORDER>(z, c);" for i, row in enumerate(TABLE)]
    return "\n".join(
        [
            "// Generated from src/fastssm/activations.py by tools/generate.py: change it there.",
            "#pragma once",
            "",
            '#include "numerics.h"',
            "",
            "namespace fastssm {",
            "",
            f"constexpr int activation_count = {len(TABLE)};",
            _array("const char*", "activation_names", (f'"{row.name}"' for row in TABLE)),
            _array("bool", "activation_is_curved", (str(row.curved).lower() for row in TABLE)),
            _array("int", "activation_parameters", (str(len(row.parameters)) for row in TABLE)),
            "",
            "// X(row, name, ...) for each row of the table.",
            _repeated(
                "FASTSSM_FOR_EACH_ACTIVATION", (f"X({i}, {row.name}, __VA_ARGS__)" for i, row in enumerate(TABLE))
            ),
            "",
            "\n\n".join(definition(row) for row in TABLE),
            "",
            "// Row ID of the table and its first ORDER derivatives at z; c are the activation's parameters.",
            "template <int ID, int ORDER, class V, class S>",
            "FASTSSM_HD FASTSSM_INLINE Jet<V> jet(V z, const S* c) {",
            "  static_assert(ID >= 0 && ID < activation_count && ORDER >= 0 && ORDER <= 3);",
            *choices,
            "}",
            "",
            "}  // namespace fastssm",
            "",
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    """Write the header, or compare it with what would be written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 where the header is stale")
    parser.add_argument("--header", type=Path, default=HEADER, help="the file to write")
    options = parser.parse_args(arguments)
    if not options.check:
        options.header.write_text(header())
    elif not options.header.exists() or options.header.read_text() != header():
        print(f"{options.header} is not what src/fastssm/activations.py makes of it: run `python tools/generate.py`.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
