"""Writes nvcc's PTX as C++ that runs on the emulator: each kernel a function of its parameter block."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.cuda.harness.ptx.instructions import Writer
from tests.cuda.harness.ptx.operands import C_TYPES, Scope, identifier, width
from tests.cuda.harness.ptx.syntax import Function, Module, Statement, Unknown, Variable, instruction, parse, variable

IGNORED = ".pragma"
HEADER = '#include "ptx/runtime.h"\n'


class Translation:
    """A module of PTX as C++.

    Attributes:
        kernels: the text of each kernel by its name; `shared` goes before any of them.
        opcodes: all that occur, with their modifiers.
    """

    def __init__(self, text: str) -> None:
        self.module: Module = parse(text)
        self.opcodes: set[str] = set()
        variables = [array(v, " static") for v in self.module.variables if v.space != "shared"]
        devices = [f for f in self.module.functions if not f.kernel]
        prototypes = [f"{signature(f)};" for f in devices]
        bodies = ["\n".join(self.function(f)) for f in devices]
        self.shared = "\n".join([HEADER, *variables, *prototypes, *bodies])
        self.kernels = {f.name: "\n".join(self.kernel(f)) for f in self.module.functions if f.kernel}

    def kernel(self, function: Function) -> Iterator[str]:
        """Yield a kernel, and its entry into the table."""
        size, align = Scope(function, []).size, max(v.align for v in function.parameters)
        yield from self.function(function)
        block = f"ptx::Parameters<{size}, {align}>"
        yield f"static void {function.name}(const {block} p) {{ function_{function.name}(p.bytes); }}"
        entry = f'"{function.name}", {function.threads}, {function.name}'
        yield f"static const emulator::Registered<{block}> registered_{function.name}{{{entry}}};"

    def function(self, function: Function) -> Iterator[str]:
        """Yield a function, statement by statement."""
        scope = Scope(function, self.module.variables)
        scope.arrays |= {v.name for v in (*function.results, *function.parameters)} if not function.kernel else set()
        scope.parameters = scope.parameters if function.kernel else {}
        write = Writer(scope)
        yield f"{signature(function)} {{"
        for statement in function.statements:
            yield self.statement(statement, scope, write)
        yield "}"
        self.opcodes |= write.used

    def statement(self, at: Statement, scope: Scope, write: Writer) -> str:
        if at.text in ("{", "}"):
            return at.text
        if at.text.endswith(":"):
            return f"{identifier(at.text[:-1])}:;"
        if at.text.startswith(".reg"):
            return registers(at)
        if at.text.startswith((".local", ".param")):
            declared = variable(at.text, at.line)
            scope.arrays.add(declared.name)
            return array(declared)
        return "" if at.text.startswith(IGNORED) else write(instruction(at))


def signature(function: Function) -> str:
    """Return how a function is declared: a kernel has its block of parameters, others an array for each."""
    if function.kernel:
        return f"static void function_{function.name}(const unsigned char* parameters)"
    names = [identifier(v.name) for v in (*function.results, *function.parameters)]
    return f"static void function_{function.name}({', '.join(f'unsigned char* {name}' for name in names)})"


def array(v: Variable, storage: str = "") -> str:
    """Declare a variable in memory."""
    kind = C_TYPES[v.type]
    count = max(1, v.size // max(1, int(v.type[1:]) // 8))
    values = f" = {{{', '.join(f'({kind}){value}' for value in v.values)}}}" if v.values else ""
    plain = "unsigned char" if v.type == "b8" else kind
    raw = f"alignas({v.align}){storage} {plain} {identifier(v.name)}[{count}]{values};"
    if storage or plain == "unsigned char":
        return raw
    return f"alignas({v.align}) unsigned char {identifier(v.name)}[{v.size}];"


def registers(at: Statement) -> str:
    """Declare registers: `.reg .b32 %r<9>` or `.reg .pred p, q`."""
    found = re.fullmatch(r"\.reg\s+\.(\w+)\s+(.*)", at.text, re.DOTALL)
    if found is None or found[1] not in C_TYPES:
        raise Unknown(f"line {at.line}: {at.text}")
    names = []
    for part in found[2].split(","):
        name, _, count = part.strip().rstrip(">").partition("<")
        names += [identifier(f"{name}{i}") for i in range(int(count))] if count else [identifier(name)]
    kind = "bool" if found[1] == "pred" else f"uint{width(found[1])}_t"
    return f"{kind} {', '.join(names)};"


def files(text: str, count: int) -> list[str]:
    """Return the C++ of a module in several files of about equal size."""
    whole = Translation(text)
    parts: list[list[str]] = [[] for _ in range(count)]
    for body in sorted(whole.kernels.values(), key=len, reverse=True):
        min(parts, key=lambda part: sum(map(len, part))).append(body)
    return ["\n".join([whole.shared, *part]) for part in parts if part]
