"""Reads PTX, as nvcc writes it, into kernels, functions and statements."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

SIZES = {"8": 1, "16": 2, "32": 4, "64": 8}


class Unknown(Exception):
    """PTX that the translator does not know, with its line."""


class Variable(NamedTuple):
    """A declaration in some state space."""

    space: str  # global, const, shared, local, param
    align: int
    size: int  # in bytes; 0 for an array of unstated length
    name: str
    type: str
    values: list[str]


class Statement(NamedTuple):
    """One statement: a brace, a label, a declaration, or an instruction."""

    line: int
    text: str


class Instruction(NamedTuple):
    """An instruction, `@guard name operands`."""

    line: int
    guard: str
    name: str  # with all that its dots say
    operands: list[str]

    @property
    def words(self) -> list[str]:
        return self.name.split(".")


@dataclass
class Function:
    """A kernel, or a device function that is called."""

    name: str
    kernel: bool
    results: list[Variable]
    parameters: list[Variable]
    threads: int
    statements: list[Statement]


@dataclass
class Module:
    """A file of PTX."""

    variables: list[Variable]
    functions: list[Function]


def size_of(kind: str) -> int:
    return SIZES[kind[1:]]


VARIABLE = re.compile(
    r"(?:\.(?:visible|weak|extern)\s+)?\.(global|const|shared|local|param)\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+"
    r"(?:\.ptr[^,]*?\s)?([\w$]+)(\[(\d*)\])?(?:\s*=\s*\{([^}]*)\})?$",
    re.DOTALL,
)
FUNCTION = re.compile(
    r"(?:\.(?:visible|weak)\s+)?\.(entry|func)\s*(?:\(([^)]*)\)\s*)?([\w$]+)\s*\(([^)]*)\)([^{;]*)([{;])", re.DOTALL
)


def variable(text: str, line: int) -> Variable:
    """Read a declaration, without its semicolon."""
    found = VARIABLE.match(text.strip())
    if found is None:
        raise Unknown(f"line {line}: the declaration {text!r}")
    space, align, kind, name, array, count, values = found.groups()
    length = int(count or 0) if array else 1
    each = [value.strip() for value in values.split(",")] if values else []
    return Variable(space, int(align or size_of(kind)), size_of(kind) * length, name, kind, each)


def without_comments(text: str) -> str:
    return re.sub(r"//[^\n]*", "", text)


def parse(text: str) -> Module:
    """Read a module."""
    text = without_comments(text)
    module, at = Module([], []), 0
    while found := FUNCTION.search(text, at):
        module.variables += declarations(text[at : found.start()])
        kind, results, name, parameters, options, opening = found.groups()
        at = found.end()
        if opening == ";":
            continue  # declared here, defined below
        line, end = text.count("\n", 0, at) + 1, closing(text, at)
        threads = re.search(r"\.maxntid (\d+)", options)
        module.functions.append(
            Function(
                name,
                kind == "entry",
                listed(results or "", line),
                listed(parameters, line),
                int(threads[1]) if threads else 1024,
                list(statements(text[at:end], line)),
            )
        )
        at = end + 1
    return module


def declarations(text: str) -> list[Variable]:
    """Return the variables declared between functions."""
    parts = [part.strip() for part in text.split(";")]
    found = [re.search(r"(?:\.\w+\s+)?\.(?:global|const|shared)\s.*", part, re.DOTALL) for part in parts]
    return [variable(match[0], 0) for match in found if match]


def listed(text: str, line: int) -> list[Variable]:
    return [variable(part, line) for part in text.split(",") if part.strip()]


def closing(text: str, start: int) -> int:
    """Return where the brace opened before `start` closes."""
    depth = 1
    for found in re.finditer(r"[{}]", text[start:]):
        depth += 1 if found[0] == "{" else -1
        if depth == 0:
            return start + found.start()
    raise Unknown("a function without an end")


def statements(body: str, line: int) -> Iterator[Statement]:
    """Split a body. A brace is a block of its own where a statement begins, else part of an operand."""
    pending, begun = "", line
    for part in re.split(r"([{};\n])", body):
        line += part == "\n"
        if part == "\n":
            part = " "
        elif not pending.strip() and part in ("{", "}"):
            yield Statement(line, part)
            continue
        elif part == ";":
            yield from labels(Statement(begun, pending.strip()))
            pending = ""
            continue
        elif part == "{" and re.fullmatch(r"\s*[\w$]+:\s*", pending):
            yield Statement(begun, pending.strip())
            yield Statement(line, part)
            pending = ""
            continue
        if not pending.strip():
            begun = line
        pending += part
    if pending.strip():
        yield from labels(Statement(begun, pending.strip()))


def labels(statement: Statement) -> Iterator[Statement]:
    """Take the labels off the front of a statement."""
    line, text = statement
    while found := re.match(r"([\w$]+):\s*", text):
        yield Statement(line, found[0].strip())
        text = text[found.end() :]
    if text:
        yield Statement(line, text)


def instruction(statement: Statement) -> Instruction:
    """Read `@!%p1 name.of.it a, {b, c}, [d+8]`."""
    found = re.match(r"(?:@(!?%?\w+)\s+)?([\w.:]+)\s*(.*)$", statement.text, re.DOTALL)
    if found is None:
        raise Unknown(f"line {statement.line}: {statement.text}")
    guard, name, rest = found.groups()
    return Instruction(statement.line, guard or "", name, split(rest))


def split(text: str) -> list[str]:
    """Split operands at the commas outside of brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "{[(") - (character in "}])")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]
