"""The operands of one function of PTX as C++: registers, literals, special registers, addresses."""

from __future__ import annotations

import re

from tests.cuda.harness.ptx.syntax import Function, Instruction, Unknown, Variable, size_of

C_TYPES = {
    **{f"u{8 * n}": f"uint{8 * n}_t" for n in (1, 2, 4, 8)},
    **{f"s{8 * n}": f"int{8 * n}_t" for n in (1, 2, 4, 8)},
    **{f"b{8 * n}": f"uint{8 * n}_t" for n in (1, 2, 4, 8)},
    **{"f32": "float", "f64": "double", "pred": "bool"},
}
FLOATS = {"f32": "uint32_t", "f64": "uint64_t"}  # and what holds their bits
PLACES = {"%tid": "thread", "%ctaid": "block", "%ntid": "threads", "%nctaid": "grid"}
SPACES = ("param", "global", "shared", "local", "const")
LANE = "(emulator::machine.thread.x % 32)"


def identifier(name: str) -> str:
    """Return a name of PTX as one of C++."""
    return "r_" + name.lstrip("%").replace("$", "_")


def content(register: str, kind: str) -> str:
    """Return what a register holds as a value of a type of PTX: no call, which takes compilers longer."""
    if kind in FLOATS:
        return f"__builtin_bit_cast({C_TYPES[kind]}, {register})"
    return register if kind == "pred" else f"(({C_TYPES[kind]}){register})"


class Scope:
    """What names stand for in one function."""

    def __init__(self, function: Function, variables: list[Variable]) -> None:
        self.function = function
        self.parameters, self.size = layout(function.parameters)
        self.globals = {v.name for v in variables if v.space in ("global", "const")}
        shared = [v for v in variables if v.space == "shared"]
        if any(v.size for v in shared):
            raise Unknown(f"static shared memory: {', '.join(v.name for v in shared if v.size)}")
        self.shared = {v.name for v in shared}
        self.arrays: set[str] = set()  # of the local and param spaces, declared inside

    def value(self, text: str, kind: str, at: Instruction) -> str:
        """Return an operand as a value of a type of PTX."""
        text = text.strip()
        if text.startswith("!"):
            return f"!{self.value(text[1:], kind, at)}"
        if text in PLACES or text.rpartition(".")[0] in PLACES:
            place, _, axis = text.partition(".")
            return f"(uint32_t)emulator::machine.{PLACES[place]}.{axis}"
        if text == "%laneid":
            return LANE
        if found := re.fullmatch(r"0[fF]([0-9A-Fa-f]{8})", text):
            return f"__builtin_bit_cast(float, uint32_t(0x{found[1]}))"
        if found := re.fullmatch(r"0[dD]([0-9A-Fa-f]{16})", text):
            return f"__builtin_bit_cast(double, uint64_t(0x{found[1]}))"
        if re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)U?", text):
            return (
                f"({C_TYPES[kind]})({text.rstrip('U')}ll)"
                if abs(int(text.rstrip("U"), 0)) < 2**63
                else f"{text.rstrip('U')}ull"
            )
        return self.named(text, kind, at)

    def named(self, text: str, kind: str, at: Instruction) -> str:
        if text in self.shared:
            return "0u"  # all shared memory is dynamic, and begins where it begins
        if text in self.globals or text in self.arrays:
            return f"(uint64_t)(uintptr_t){identifier(text)}"
        if text in self.parameters:
            return f"(uint64_t)(uintptr_t)(parameters + {self.parameters[text]})"
        if not re.fullmatch(r"%?\w+", text):
            raise Unknown(f"line {at.line}: the operand {text!r} of {at.name}")
        return content(identifier(text), kind)

    def address(self, text: str, at: Instruction) -> str:
        """Return `[base+offset]` as a pointer, in the state space that the instruction names."""
        base, offset = self.split(text, at)
        space = next((word for word in at.words if word in SPACES), "generic")
        if space == "param" and base in self.parameters:
            return f"(parameters + {self.parameters[base]} + {offset})"
        if space == "shared":
            return f"ptx::shared({self.pointer(text, 'u32', at)})"
        return f"ptx::generic({self.pointer(text, 'u64', at)})"

    def pointer(self, text: str, kind: str, at: Instruction) -> str:
        """Return `[base+offset]` as a number of a type of PTX."""
        base, offset = self.split(text, at)
        return f"{self.value(base, kind, at)} + {offset}"

    def split(self, text: str, at: Instruction) -> tuple[str, str]:
        """Return the base and the offset of `[base+offset]`."""
        found = re.fullmatch(r"\[\s*([%\w$]+)\s*(?:\+\s*(-?\w+))?\s*\]", text)
        if found is None:
            raise Unknown(f"line {at.line}: the address {text!r}")
        return found[1], found[2] or "0"


def layout(variables: list[Variable]) -> tuple[dict[str, int], int]:
    """Return the offset of each variable in one block of memory, and the size of that."""
    offsets, end = {}, 0
    for v in variables:
        offsets[v.name] = end = -(-end // v.align) * v.align
        end += v.size
    return offsets, end


def members(text: str) -> list[str]:
    """Split `{a, b}`; a single operand is a list of one."""
    return [part.strip() for part in text.strip("{} ").split(",")]


def width(kind: str) -> int:
    """Return how many bits a type has."""
    return 8 * size_of(kind)
