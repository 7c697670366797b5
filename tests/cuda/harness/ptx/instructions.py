"""One C++ statement for each instruction of PTX that nvcc has been seen to use for our kernels; any other raises."""

from __future__ import annotations

from collections.abc import Callable

from tests.cuda.harness.ptx.operands import C_TYPES, Scope, identifier, members, width
from tests.cuda.harness.ptx.syntax import Instruction, Unknown

NEAREST = {"add": "({} + {})", "multiply": "({} * {})", "divide": "({} / {})", "multiply_add": "std::fma({}, {}, {})"}
ROUNDINGS = {"rn": "nearest", "rz": "to_zero", "rm": "down", "rp": "up"}
INTEGER_ROUNDINGS = {"rni": "nearbyint", "rzi": "trunc", "rmi": "floor", "rpi": "ceil"}
COMPARISONS = {
    **{"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="},
    **{"lo": "<", "ls": "<=", "hi": ">", "hs": ">="},
}
BOOLEANS = {"and": "&", "or": "|", "xor": "^"}
SHUFFLES = {"up": "up", "down": "down", "bfly": "butterfly", "idx": "index"}
MMA = {
    "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32": "mma_m16n8k8_tf32",
    "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32": "mma_m16n8k16_bf16",
}
APPROXIMATE = {
    **{"ex2": "std::exp2({})", "lg2": "std::log2({})", "sin": "std::sin({})", "cos": "std::cos({})"},
    **{"rcp": "(1 / {})", "rsqrt": "(1 / std::sqrt({}))", "tanh": "std::tanh({})", "sqrt": "std::sqrt({})"},
}
PLAIN = {
    **{"selp": "({3} ? {1} : {2})", "shl": "ptx::shift_left({1}, {2})", "shr": "ptx::shift_right({1}, {2})"},
    **{"popc": "__builtin_popcountll({1})", "lop3": "ptx::logic({1}, {2}, {3}, {4})", "rem": "({1} % {2})"},
    **{"prmt": "ptx::permuted({1}, {2}, {3})", "bfe": "ptx::extracted({1}, {2}, {3})"},
    **{"bfi": "ptx::inserted({1}, {2}, {3}, {4})", "min": "ptx::minimum({1}, {2})", "max": "ptx::maximum({1}, {2})"},
    **{"copysign": "std::copysign({2}, {1})"},
}
KINDS = {  # of operands that are not of the instruction's type
    **{("selp", 3): "pred", ("shl", 2): "u32", ("shr", 2): "u32", ("lop3", 4): "u32"},
    **{("bfe", 2): "u32", ("bfe", 3): "u32", ("bfi", 3): "u32", ("bfi", 4): "u32"},
}


class Writer:
    """Translates the instructions of one function."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.used: set[str] = set()

    def __call__(self, at: Instruction) -> str:
        """Return one instruction as C++."""
        self.used.add(at.name)
        self.at, self.kind = at, at.words[-1]
        text = self.rule(at.words[0])()
        return f"if ({self.scope.value(at.guard, 'pred', at)}) {{ {text} }}" if at.guard else text

    def rule(self, name: str) -> Callable[[], str]:
        rule = getattr(self, f"on_{name}", None)
        if rule is None and name in APPROXIMATE:
            return self.approximate
        if rule is None and name in PLAIN:
            return self.plain
        return rule or self.unknown

    def unknown(self) -> str:
        raise Unknown(f"line {self.at.line}: {self.at.name} {', '.join(self.at.operands)}")

    # ---- pieces ----

    def value(self, index: int, kind: str | None = None) -> str:
        return self.scope.value(self.at.operands[index], kind or self.kind, self.at)

    def result(self, expression: str) -> str:
        return self.into(self.at.operands[0], expression)

    def into(self, operand: str, expression: str) -> str:
        return f"{identifier(operand)} = ptx::raw({expression});" if operand != "_" else f"(void)({expression});"

    def predicate(self, operand: str, expression: str) -> str:
        return f"{identifier(operand)} = {expression};"

    def has(self, *words: str) -> str:
        """Return the first of some words that the instruction's name has, or nothing."""
        return next((word for word in self.at.words[1:] if word in words), "")

    @property
    def type(self) -> str:
        if self.kind not in C_TYPES:
            self.unknown()
        return C_TYPES[self.kind]

    @property
    def floating(self) -> bool:
        return self.kind in ("f32", "f64")

    # ---- control ----

    def on_bra(self) -> str:
        return f"goto {identifier(self.at.operands[0])};"

    def on_ret(self) -> str:
        return "return;"

    on_exit = on_ret

    def on_bar(self) -> str:
        if self.has("warp"):
            return f"emulator::synchronise_warp({self.value(0, 'u32')}, {self.at.line});"
        if not self.has("sync") or self.at.operands != ["0"]:
            self.unknown()
        return f"emulator::barrier({self.at.line});"

    on_barrier = on_bar

    def on_call(self) -> str:
        given = [name for text in self.at.operands for name in members(text.strip("()")) if name]
        callee = next(text for text in self.at.operands if not text.startswith("("))
        return f"function_{callee}({', '.join(identifier(name) for name in given if name != callee)});"

    # ---- moves ----

    def on_mov(self) -> str:
        target, source = self.at.operands
        if target.startswith("{"):
            parts, size = members(target), width(self.kind) // len(members(target))
            words = [self.into(part, f"(uint{size}_t)(whole >> {i * size})") for i, part in enumerate(parts)]
            return f"{{ const auto whole = ptx::bits<uint64_t>({self.value(1)}); {' '.join(words)} }}"
        if source.startswith("{"):
            parts, size = members(source), width(self.kind) // len(members(source))
            words = [f"(uint64_t){self.scope.value(p, f'b{size}', self.at)} << {i * size}" for i, p in enumerate(parts)]
            return self.result(f"({self.type})({' | '.join(words)})")
        return self.predicate(target, self.value(1)) if self.kind == "pred" else self.result(self.value(1))

    def on_cvta(self) -> str:
        if not self.has("shared"):
            return self.result(self.value(1))
        sign = "-" if self.has("to") else "+"
        return self.result(f"({self.value(1)} {sign} (uint64_t)(uintptr_t)emulator::machine.shared)")

    def memory(self, index: int, count: int) -> str:
        kind = self.type if count == 1 else f"ptx::Vector<{self.type}, {count}>"
        return f"ptx::at<{kind}>({self.scope.address(self.at.operands[index], self.at)}, {self.at.line})"

    def on_ld(self) -> str:
        parts = members(self.at.operands[0])
        if len(parts) == 1:
            return self.result(f"*{self.memory(1, 1)}")
        words = [self.into(part, f"loaded[{i}]") for i, part in enumerate(parts)]
        return f"{{ const auto loaded = *{self.memory(1, len(parts))}; {' '.join(words)} }}"

    on_ldu = on_ld

    def on_st(self) -> str:
        values = [self.scope.value(part, self.kind, self.at) for part in members(self.at.operands[1])]
        if len(values) == 1:
            return f"*{self.memory(0, 1)} = {values[0]};"
        return f"*{self.memory(0, len(values))} = ptx::Vector<{self.type}, {len(values)}>{{{', '.join(values)}}};"

    # ---- arithmetic ----

    def real(self, function: str, *operands: str) -> str:
        how = ROUNDINGS[self.has(*ROUNDINGS) or "rn"]
        if how == "nearest":
            value = NEAREST[function].format(*operands)
        else:
            value = f"ptx::{function}<{self.type}>(ptx::{how}, {', '.join(operands)})"
        value = f"ptx::flushed({value})" if self.has("ftz") else value
        return self.result(f"ptx::saturated({value})" if self.has("sat") else value)

    def integer(self, sign: str) -> str:
        u = f"uint{width(self.kind)}_t"
        return self.result(f"({u})(({u}){self.value(1)} {sign} ({u}){self.value(2)})")

    def on_add(self) -> str:
        if self.has("cc"):
            return self.on_addc()
        return self.real("add", self.value(1), self.value(2)) if self.floating else self.integer("+")

    def on_sub(self) -> str:
        if self.has("cc"):
            return self.on_subc()
        return self.real("add", self.value(1), f"-{self.value(2)}") if self.floating else self.integer("-")

    def on_mul(self) -> str:
        return self.real("multiply", self.value(1), self.value(2)) if self.floating else self.result(self.product())

    def on_fma(self) -> str:
        return self.real("multiply_add", *(self.value(i) for i in (1, 2, 3)))

    def carried(self, first: str, sign: str, second: str) -> str:
        """Return a sum or difference, the carry with it for madc, addc and subc, and the new carry kept for `.cc`."""
        size = width(self.kind)
        flag = f" {sign} ptx::carry" if self.at.words[0] in ("madc", "addc", "subc") else ""
        keep = f"ptx::carry = sum >> {size} & 1;" if self.has("cc") else ""
        total = f"(unsigned __int128)(uint{size}_t){first} {sign} (uint{size}_t){second}{flag}"
        return f"{{ const auto sum = {total}; {self.result(f'(uint{size}_t)sum')} {keep} }}"

    def on_addc(self) -> str:
        return self.carried(self.value(1), "+", self.value(2))

    def on_subc(self) -> str:
        return self.carried(self.value(1), "-", self.value(2))

    def on_madc(self) -> str:
        return self.carried(self.product(), "+", self.value(3))

    def on_mad(self) -> str:
        if self.has("cc"):
            return self.on_madc()
        if self.floating:
            return self.on_fma()
        size = width(self.kind) * (2 if self.has("wide") else 1)
        return self.result(f"(uint{size}_t)((uint{size}_t){self.product()} + {self.value(3, f'u{size}')})")

    def product(self) -> str:
        size, a, b = width(self.kind), self.value(1), self.value(2)
        if self.has("wide"):
            wide = f"{'int' if self.kind[0] == 's' else 'uint'}{2 * size}_t"
            return f"({wide})(({wide}){a} * ({wide}){b})"
        if self.has("hi"):
            return f"ptx::high_product<{self.type}>({a}, {b})"
        return f"(uint{size}_t)((uint{size}_t){a} * (uint{size}_t){b})"

    def on_div(self) -> str:
        if self.floating:
            return self.real("divide", self.value(1), self.value(2))
        return self.result(f"({self.type})({self.value(1)} / {self.value(2)})")

    def on_neg(self) -> str:
        u = f"uint{width(self.kind)}_t"
        return self.result(f"-{self.value(1)}" if self.floating else f"({u})(0 - ({u}){self.value(1)})")

    def on_abs(self) -> str:
        return self.result(f"({self.type})std::abs({self.value(1)})")

    def on_not(self) -> str:
        if self.kind == "pred":
            return self.predicate(self.at.operands[0], f"!{self.value(1)}")
        return self.result(f"({self.type})~{self.value(1)}")

    def bitwise(self) -> str:
        sign = BOOLEANS[self.at.words[0]]
        if self.kind == "pred":
            return self.predicate(self.at.operands[0], f"{self.value(1)} {sign} {self.value(2)}")
        return self.result(f"({self.type})({self.value(1)} {sign} {self.value(2)})")

    on_and = on_or = on_xor = bitwise

    def on_shf(self) -> str:
        limit = "clamped" if self.has("clamp") else "wrapped"
        way = "left" if self.has("l") else "right"
        return self.result(f"ptx::funnel_{way}({self.value(1)}, {self.value(2)}, ptx::{limit}({self.value(3, 'u32')}))")

    def on_clz(self) -> str:
        size = width(self.kind)
        builtin = "__builtin_clz" if size == 32 else "__builtin_clzll"
        return self.result(f"(uint32_t)({self.value(1)} ? {builtin}({self.value(1)}) : {size})")

    def plain(self) -> str:
        name, count = self.at.words[0], len(self.at.operands)
        if self.has("NaN", "X") or (name == "prmt" and len(self.at.words) != 2):
            self.unknown()
        values = [self.value(i, KINDS.get((name, i))) for i in range(1, count)]
        return self.result(f"({self.type})({PLAIN[name].format('', *values)})")

    def approximate(self) -> str:
        value = f"ptx::flushed({self.value(1)})" if self.has("ftz") else self.value(1)
        value = f"({self.type}){APPROXIMATE[self.at.words[0]].format(value)}"
        return self.result(f"ptx::flushed({value})" if self.has("ftz") else value)

    # ---- comparisons and conversions ----

    def on_setp(self) -> str:
        targets = members(self.at.operands[0].replace("|", ","))
        word, a, b = self.at.words[1], self.value(1), self.value(2)
        if len(targets) != 1:
            self.unknown()
        unordered = f"(std::isnan({a}) || std::isnan({b}))"
        if word in COMPARISONS:
            value = f"({a} {COMPARISONS[word]} {b})"
            value = f"(!{unordered} && {value})" if self.floating and word == "ne" else value
        elif word in ("nan", "num"):
            value = unordered if word == "nan" else f"!{unordered}"
        else:
            value = f"({unordered} || {a} {COMPARISONS[word[:-1]]} {b})"
        if joined := self.has(*BOOLEANS):
            value = f"({value} {BOOLEANS[joined]} {self.value(3, 'pred')})"
        return self.predicate(targets[0], value)

    def on_cvt(self) -> str:
        narrow = ("tf32", "bf16", "bf16x2")
        to, source = [word for word in self.at.words[1:] if word in C_TYPES or word in narrow]
        if to in narrow:
            return self.narrowed(to)
        value, target = self.value(1, source), C_TYPES[to]
        if source[0] == "f" and (how := self.has(*INTEGER_ROUNDINGS)):
            value = f"std::{INTEGER_ROUNDINGS[how]}({value})"
        if source[0] == "f" and to[0] != "f":
            return self.result(f"ptx::to_integer<{target}>({value})")
        if self.has("rz", "rm", "rp") or (self.has("sat") and to[0] != "f"):
            self.unknown()
        value = f"({target}){value}"
        value = f"ptx::flushed({value})" if self.has("ftz") else value
        return self.result(f"ptx::saturated({value})" if self.has("sat") else value)

    def narrowed(self, to: str) -> str:
        if to == "tf32" and self.has("rna"):
            return self.result(f"emulator::round_to_tf32({self.value(1, 'f32')})")
        if to == "bf16x2" and self.has("rn"):
            return self.result(f"emulator::pack_bf16({self.value(2, 'f32')}, {self.value(1, 'f32')})")
        if to == "bf16" and self.has("rn"):
            return self.result(f"(uint16_t)emulator::pack_bf16({self.value(1, 'f32')}, 0)")
        return self.unknown()

    # ---- warps ----

    def on_shfl(self) -> str:
        way = SHUFFLES[self.has(*SHUFFLES)]
        target, *inside = members(self.at.operands[0].replace("|", ","))
        words = ", ".join(self.value(i, "u32") for i in (1, 2, 3))
        call = f"ptx::Shuffle::{way}, {self.value(4, 'u32')}, {words}, {self.at.line}"
        also = self.predicate(inside[0], "moved.inside") if inside else ""
        word = self.into(target, "(uint32_t)moved.word")
        return f"{{ const auto moved = emulator::shuffle_word({call}); {word} {also} }}"

    def on_vote(self) -> str:
        if not self.has("ballot"):
            self.unknown()
        return self.result(f"emulator::ballot({self.value(2, 'u32')}, {self.value(1, 'pred')}, {self.at.line})")

    def on_mma(self) -> str:
        if self.at.name not in MMA:
            self.unknown()
        d, a, b, c = map(members, self.at.operands)
        whole = [", ".join(self.scope.value(r, "b32", self.at) for r in part) for part in (a, b)]
        sums = ", ".join(self.scope.value(r, "f32", self.at) for r in c)
        back = " ".join(self.into(register, f"d[{i}]") for i, register in enumerate(d))
        call = f"emulator::{MMA[self.at.name]}(d, {{{whole[0]}}}, {{{whole[1]}}}, {{{sums}}}, {self.at.line});"
        return f"{{ float d[4]; {call} {back} }}"

    def on_ldmatrix(self) -> str:
        plain = self.at.name.replace(".trans", "")
        if plain != "ldmatrix.sync.aligned.m8n8.x4.shared.b16":
            self.unknown()
        row = f"ptx::at<ptx::Vector<uint64_t, 2>>({self.scope.address(self.at.operands[1], self.at)}, {self.at.line})"
        back = " ".join(self.into(word, f"words[{i}]") for i, word in enumerate(members(self.at.operands[0])))
        transposed = "true" if self.has("trans") else "false"
        return f"{{ uint32_t words[4]; emulator::ldmatrix_x4(words, {row}, {transposed}, {self.at.line}); {back} }}"

    def on_cp(self) -> str:
        if self.at.name == "cp.async.commit_group":
            return "emulator::commit_copies();"
        if self.at.name == "cp.async.wait_group":
            return f"emulator::wait_for_copies({self.value(0, 'u32')});"
        if self.at.name not in ("cp.async.cg.shared.global", "cp.async.ca.shared.global"):
            self.unknown()
        to = f"ptx::shared({self.scope.pointer(self.at.operands[0], 'u32', self.at)})"
        source = f"ptx::generic({self.scope.pointer(self.at.operands[1], 'u64', self.at)})"
        return f"emulator::copy_async({to}, {source}, {self.value(2, 'u32')}, {self.value(3, 'u32')});"
