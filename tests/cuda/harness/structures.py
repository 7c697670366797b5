"""Reads the parameter structs of kernels from their C++ headers, so that there is no second copy of them."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any

SCALARS: dict[str, Any] = {
    "bool": ctypes.c_bool,
    "int": ctypes.c_int,
    "unsigned": ctypes.c_uint,
    "int8_t": ctypes.c_int8,
    "uint8_t": ctypes.c_uint8,
    "int32_t": ctypes.c_int32,
    "uint32_t": ctypes.c_uint32,
    "int64_t": ctypes.c_int64,
    "uint64_t": ctypes.c_uint64,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
}
STRUCT = re.compile(r"(template <class T>\s*)?\bstruct (\w+) \{(.*?)^\};", re.DOTALL | re.MULTILINE)
CONSTANT = re.compile(r"^\s*constexpr int(?:64_t)? (\w+) = (\d+);", re.MULTILINE)
ENUM = re.compile(r"\benum(?: class)? (\w+)[^{]*\{([^}]*)\}", re.DOTALL)
FIELD = re.compile(
    r"^(?:const )?(\w+)(?:<(\w+)>)?( ?\*)? ?(\w+(?:\[[\w +]+\])?(?:, \*?\w+(?:\[[\w +]+\])?)*)(?: = [^;]+)?$"
)


class Structures:
    """The structs of headers, by name; templates by name and type, as in `Up<float>`."""

    def __init__(self, *headers: Path) -> None:
        text = re.sub(r"//[^\n]*", "", "\n".join(header.read_text() for header in headers if header.exists()))
        self.bodies = {name: body for _, name, body in STRUCT.findall(text)}
        self.templates = {name for template, name, _ in STRUCT.findall(text) if template}
        self.constants = {name: int(value) for name, value in CONSTANT.findall(text)}
        self.enums = {name for name, _ in ENUM.findall(text)}
        self.made: dict[str, type[ctypes.Structure]] = {}

    def __getitem__(self, name: str) -> type[ctypes.Structure]:
        """Return one struct, "Up<float>" or plain "Shape"."""
        if name not in self.made:
            plain, _, real = name.rstrip(">").partition("<")
            fields = [field for text in self.lines(plain) for field in self.fields(text, real)]
            self.made[name] = type(name, (ctypes.Structure,), {"_fields_": fields})
        return self.made[name]

    def lines(self, name: str) -> list[str]:
        """Return the declarations of a struct, without its functions."""
        body = re.sub(r"^[^;{}]*\([^;{}]*\)[^;{}]*\{.*?\}", "", self.bodies[name], flags=re.DOTALL | re.MULTILINE)
        return [" ".join(line.split()) for line in body.split(";") if line.strip()]

    def fields(self, line: str, real: str) -> list[tuple[str, Any]]:
        """Read one declaration, which may declare several fields."""
        found = FIELD.match(line)
        if found is None:
            raise ValueError(f"cannot read the declaration {line!r}: update tests/cuda/harness/structures.py")
        kind, template, pointer, names = found.groups()
        if pointer or "*" in names:
            return [(name.strip(" *"), ctypes.c_void_p) for name in names.split(",")]
        element = self.type(kind, real if "T" in (kind, template) else template or "")
        return [self.field(name.strip(), element) for name in names.split(",")]

    def type(self, kind: str, real: str) -> Any:
        if kind == "T":
            return SCALARS[real]
        if kind in self.bodies:
            return self[f"{kind}<{real}>" if real else kind]
        return ctypes.c_int if kind in self.enums else SCALARS[kind]

    def field(self, name: str, element: Any) -> tuple[str, Any]:
        plain, bracket, size = name.rstrip("]").partition("[")
        if not bracket:
            return plain, element
        return plain, element * sum(int(n) if n.isdigit() else self.constants[n] for n in size.split(" + "))
