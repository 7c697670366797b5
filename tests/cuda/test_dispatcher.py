"""The whole engine behind the dispatcher: what tests any engine, on the real launch code with kernels that run here.

Each run is a process of its own, since a compiled module would have operators for CPU tensors too.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cuda.harness import toolkit
from tests.cuda.harness.libraries import ROOT
from tests.cuda.harness.operators import operators
from tests.cuda.harness.problems import run

OPERATORS = "ops or operators or opcheck or gradcheck or needs_a_direction"


def passed(library: Path, *arguments: str, **variables: str) -> int:
    """Run tests on a library of operators, and return how many passed, subtests among them; none may fail."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *arguments]
    environment = {**os.environ, "FASTSSM_NO_NATIVE": "1", "FASTSSM_OPERATORS": str(library), **variables}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    return sum(map(int, re.findall(r"(\d+) (?:subtests )?passed", done.stdout)))


def started(folder: Path, **variables: str) -> dict[str, int]:
    """Run the whole matrix on the emulator, and return how often each kernel was started in float64."""
    file = folder / "launches"
    matrix = "tests/test_equivalence.py", "-k", "ops or eager"
    assert passed(operators(), *matrix, FASTSSM_LAUNCHES=str(file), **variables) >= 120
    counts = dict(line.split() for line in file.read_text().splitlines())
    return {name.removesuffix("_double"): int(count) for name, count in counts.items() if name.endswith("_double")}


def test_the_whole_matrix_on_the_emulator(tmp_path: Path) -> None:
    launches = started(tmp_path)
    assert min(launches["small_objective"], launches["small_score"]) >= 50
    assert launches["small_reduce"] == launches["small_objective"] + launches["small_score"]


@pytest.mark.slow
def test_the_whole_matrix_layer_by_layer(tmp_path: Path) -> None:
    """No network is small for a device that says it has no shared memory."""
    launches = started(tmp_path, FASTSSM_SHARED_PER_BLOCK="0")
    assert min(launches[kernel] for kernel in ("sliced_top", "chain", "score_top", "score_seed", "down_score")) >= 10
    assert not [name for name in launches if name.startswith("small")]


@pytest.mark.slow
def test_the_matrix_of_the_score_alone() -> None:
    assert passed(operators(), "tests/test_score.py", "--full", "-k", "ops or opcheck or direction") >= 80


def test_one_output_of_several(tmp_path: Path) -> None:
    """`component=` of operators, by kernels: layer by layer, since a term of its own is no loss."""
    file = tmp_path / "launches"
    options = "--full", "-k", "ops or eager"
    assert passed(operators(), "tests/test_component.py", *options, FASTSSM_LAUNCHES=str(file)) >= 16
    assert int(dict(line.split() for line in file.read_text().splitlines())["chain_double"]) >= 40


@pytest.mark.parametrize("names", ["contract compile score", pytest.param("contract_autograd", marks=pytest.mark.slow)])
def test_the_contract_opcheck_and_gradcheck_on_the_emulator(names: str) -> None:
    files = [f"tests/test_{name}.py" for name in names.split()]
    assert passed(operators(), *files, "-k", OPERATORS) >= 20 * len(files)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 100])
@pytest.mark.skipif(toolkit.program("nvcc") is None, reason=toolkit.ABSENT.format("nvcc"))
def test_the_matrix_on_executed_ptx(capability: int) -> None:
    assert passed(operators(capability), "tests/test_equivalence.py", "-k", "ops and not option") >= 80


MANY_DIRECTIONS = """
torch.manual_seed(0)
for out in (1, 3):
    net = fastssm.nn.MLP(3, [6, 5], out, activation="tanh").double()
    x, v = torch.randn(4, 3).double().requires_grad_(), torch.randn(300, 4, 3).double()
    for loss in ("ssm", "vr"):
        found = fastssm.sliced_loss(net, x, v=v, backend="torch", **oracle.OPTIONS[loss])
        expected = oracle.losses(net, x, v, loss, energy=out == 1).mean()
        leaves = [x, *net.parameters()]
        every = [torch.autograd.grad(found, leaves), oracle.gradients(expected, leaves)]
        oracle.assert_close([found, *every[0]], [expected, *every[1]], 1e-10, loss)
print("right")
"""


def test_products_that_are_added_up() -> None:
    """More directions than are taken at once: the weights' gradients are sums of several products."""
    assert run(operators(), MANY_DIRECTIONS) == "right\n"


SCORE_ALONE = """
torch.manual_seed(0)
film = dict(cond_dim=2, conditioning="film", residual=True)
for out, options in ((1, {}), (3, {}), (1, film), (3, film)):
    net = fastssm.nn.MLP(3, [6, 6], out, activation="tanh", **options).double()
    x = torch.randn(4, 3).double().requires_grad_()
    cond = [torch.randn(4, 2).double().requires_grad_()] if options else []
    leaves = [x, *cond, *net.parameters()]
    expected = oracle_noise.score(net, x, energy=out == 1, cond=cond)
    found = fastssm.score(net, x, cond=tuple(cond), backend="torch")
    every = [[s, *oracle.gradients((s.sin() * x.detach()).sum(), leaves)] for s in (found, expected)]
    oracle.assert_close(*every, 1e-10, str(options))
with torch.no_grad():
    net = fastssm.nn.MLP(3, [6]).double()
    net.readout.bias.fill_(torch.nan)
    print(fastssm.score(net, torch.randn(4, 3).double(), backend="torch").isnan().all().item())
"""


def test_the_score_alone() -> None:
    """No directions at all: no kernel that walks over them is started on nothing."""
    assert run(operators(), SCORE_ALONE) == "True\n"


EMPTY = """
for out in (1, 2):
    net = fastssm.nn.MLP(2, [4], out).double()
    x = torch.empty(0, 2).double().requires_grad_()
    loss = fastssm.sliced_loss(net, x, backend="torch", reduction="sum")
    grads = torch.autograd.grad(loss, [x, *net.parameters()])
    print(loss.item(), all((g == 0).all() for g in grads), [len(t) for t in fastssm.terms(net, x, backend="torch")])
"""


def test_no_samples() -> None:
    assert run(operators(), EMPTY) == "0.0 True [1, 0, 0, 0]\n" * 2


REFUSED = """
net = fastssm.nn.MLP(2, [4])
x = torch.randn(3, 2)
calls = []
original = torch.ops.fastssm.objective
def remember(*a):
    calls.append(a)
    return original(*a)
torch.ops.fastssm.objective = remember
fastssm.sliced_loss(net, x, backend="torch")
(given,) = calls
def refusal(**changed):
    names = ["x", "columns", "v", "seed", "tensors", "weight", "kind", "activations", "constants", "flags",
             "n_projections", "precision", "variance_reduced", "mean", "needs_inputs", "needs_tensors"]
    values = dict(zip(names, given)) | changed
    try:
        original(*values.values())
    except RuntimeError as error:
        return str(error)
    return "accepted"
tensors = list(given[4])
print(refusal())
print(refusal(tensors=tensors[:-1]))
print(refusal(tensors=[t.t() for t in tensors[:1]] + tensors[1:]))
print(refusal(kind="other"))
print(refusal(precision="double"))
print(refusal(x=x.double(), precision="tf32"))
print(refusal(x=torch.ones(3, 2, dtype=torch.int64)))
print(refusal(weight=torch.ones(2)))
print(refusal(seed=torch.zeros(2, dtype=torch.int64)))
print(refusal(seed=torch.zeros((), dtype=torch.int32)))
print(refusal(n_projections=0))
print(refusal(v=torch.ones(1, 3, 5)))
print(refusal(columns=torch.ones(3)))
"""
SENTENCES = [
    "accepted",
    "the structure of this network has 4 tensors, got 3.",
    "a layer takes 4 inputs, but 2 reach it.",
    "kind must be energy or score, got other.",
    "precision must be full, tf32, bf16, split or torch, got double.",
    'only products of float32 can be rounded; use precision="full" for float64.',
    "x must be of a floating-point type, got Long.",
    "weight must have 3 elements, got [2].",
    "seed must be one int64.",
    "seed must be one int64.",
    "there must be a direction, got 0.",
    "a tensor of the network must have 6 elements, got [1, 3, 5].",
    "columns must be a matrix.",
]


def test_what_does_not_fit_is_refused_in_words() -> None:
    assert run(operators(), REFUSED).splitlines() == SENTENCES


ROUNDED = """
from fastssm.backends.entries.flat import Form, Inputs, Static
from fastssm.sweeps import read
torch.manual_seed(0)
for out, kind in ((1, "energy"), (16, "score")):
    net = fastssm.nn.MLP(16, [160, 40], out, activation="tanh")
    structure, tensors, _ = read(fastssm.recognize(net), kind, ())
    x, v = torch.randn(20, 16), torch.randn(2, 20, 16)
    def gradients(precision):
        static, form = Static(structure, 2, precision), Form(True, True)
        loss = dispatcher.objective(Inputs(x, None, v, None), None, tensors, static, form)[0]
        return [loss.detach(), *torch.autograd.grad(loss, tensors)]
    full = [t.double() for t in gradients("full")]
    for precision, rtol in (("tf32", 3e-3), ("bf16", 2e-2), ("split", 2e-6)):
        rounded = gradients(precision)
        oracle.assert_close(rounded, full, rtol, precision)
        print(precision, torch.equal(rounded[1].double(), full[1]))
"""


def test_rounded_products() -> None:
    assert run(operators(), ROUNDED) == "tf32 False\nbf16 False\nsplit False\n" * 2


ALLOWED = """
from bench.dispatched import counted
from fastssm.backends.entries.flat import Form, Inputs, Static
from fastssm.sweeps import read
torch.manual_seed(0)
net = fastssm.nn.MLP(8, [136, 24])
structure, tensors, _ = read(fastssm.recognize(net), "energy", ())
x, v = torch.randn(8, 8), torch.randn(1, 8, 8)
def step(precision):
    static, form = Static(structure, 1, precision), Form(True, True)
    return dispatcher.objective(Inputs(x, None, v, None), None, tensors, static, form)
def gradients(precision):
    loss = step(precision)[0]
    return [loss.detach(), *torch.autograd.grad(loss, tensors)]
def same(a, b):
    return all(map(torch.equal, a, b))
matmul = torch.backends.cuda.matmul
precisions = "full", "torch", "tf32", "bf16", "split"
products = {p: counted(lambda: step(p))[1]["fastssm::objective > aten::mm"] for p in precisions}
assert products == {"full": 9, "torch": 9, "tf32": 0, "bf16": 0, "split": 0}, products
before = {p: gradients(p) for p in precisions}
weight = tensors[2].detach()
torchs_own = weight @ weight.t()
for allowed in ("medium", "highest"):  # on a CPU with such units, "medium" is bfloat16
    torch.set_float32_matmul_precision(allowed)
    assert matmul.allow_tf32 == (allowed == "medium")
    assert matmul.fp32_precision == ("tf32" if matmul.allow_tf32 else "ieee"), matmul.fp32_precision
    alike = torch.equal(weight @ weight.t(), torchs_own)
    for p in precisions:
        assert same(gradients(p), before[p]) == (alike or p not in ("full", "torch")), (p, allowed)
print("right")
"""


def test_what_torch_allows_governs_full_precision_alone() -> None:
    """Products of "full" are all torch's, so its flags reach them; others say to cuBLAS, or compute, what they are."""
    assert run(operators(), ALLOWED) == "right\n"


LEAK = """
import ctypes
net = fastssm.nn.MLP(2, [4])
x = torch.randn(3, 2)
class Memory(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks used free top".split()
    _fields_ = [(name, ctypes.c_size_t) for name in names]
allocator = ctypes.CDLL(None)
allocator.mallinfo2.restype = Memory
def used(calls):
    with torch.no_grad():
        for _ in range(calls):
            fastssm.sliced_loss(net, x, backend="torch")
    return allocator.mallinfo2().used
before = used(100)
print(used(1000) - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="the C library does not count its memory")
def test_calls_leave_nothing_behind() -> None:
    """Torch 2.13's own conversion of strings loses two of them a call."""
    assert int(run(operators(), LEAK)) < 20 * 1000
