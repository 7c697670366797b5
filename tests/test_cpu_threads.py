"""Threads, processes and memory of the compiled CPU engine."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import fastssm
from fastssm import backends, directions
from fastssm.backends import fused, guarded
from fastssm.backends.entries import compiled
from fastssm.backends.entries.flat import Form
from fastssm.native import extension
from fastssm.nn import MLP
from tests import oracle
from tests.judge import randomised

pytestmark = pytest.mark.skipif("cpu" not in compiled.DEVICES, reason=extension.status())
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
ROOT = Path(__file__).parents[1]
ENERGY = pytest.mark.parametrize("energy", [True, False], ids=["energy", "score"])
LOSSES = {
    "ssm": {"variance_reduced": False},
    "vr": {},
    "none": {"reduction": "none", "variance_reduced": False},
}


@pytest.fixture(autouse=True)
def restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def problem(energy: bool, samples: int = 300, widths: tuple[int, ...] = (64, 64)) -> tuple[nn.Module, Tensor]:
    """Return enough work for several threads."""
    torch.manual_seed(3)
    model = randomised(MLP(5, widths, 1 if energy else 5, "tanh", residual=True), torch.float32)
    return model, torch.randn(samples, 5)


def computed(model: nn.Module, x: Tensor, loss: str = "ssm", **options: object) -> list[Tensor]:
    """Return a loss, or an operator, and all its gradients."""
    options = {"n_projections": 3, "generator": torch.Generator().manual_seed(1), **LOSSES.get(loss, {}), **options}
    x = x.clone().requires_grad_()
    if loss == "each":
        value = fastssm.jacobian_diag(model, x, backend="cpu").square()
    else:
        value = fastssm.sliced_loss(model, x, backend="cpu", **options)
    return [value.detach(), *torch.autograd.grad(value.mean(), [x, *model.parameters()])]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def in_new_process(code: str, **environment: str) -> str:
    """Run a program, and return what it prints."""
    command = [sys.executable, "-c", textwrap.dedent(PRELUDE) + textwrap.dedent(code)]
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


PRELUDE = """
    import os, resource, sys, torch, fastssm
    from fastssm.nn import MLP

    def tasks():
        return len(os.listdir("/proc/self/task"))

    def loss(model, x, **options):
        return fastssm.sliced_loss(model, x, backend="cpu", **options)
"""


# ---- how many threads ------------------------------------------------------------------------------------------------


@ENERGY
@pytest.mark.parametrize("loss", [*LOSSES, "each"])
def test_bits_depend_on_nothing_but_the_number_of_threads(loss: str, energy: bool) -> None:
    model, x = problem(energy)
    found = {}
    for threads in (1, 2, 3, 1, 2, 3):
        torch.set_num_threads(threads)
        again = computed(model, x, loss)
        assert same(again, found.setdefault(threads, again))
    for threads in (2, 3):
        oracle.assert_close(found[threads], found[1], 2.0**-23 * 64)
    assert not same(found[1], found[2])  # or there was not enough work for two


@ENERGY
@pytest.mark.parametrize("loss", [*LOSSES, "each"])
def test_more_threads_than_samples(loss: str, energy: bool) -> None:
    for samples in (1, 2, 3):
        model, x = problem(energy, samples, (200, 200))
        torch.set_num_threads(1)
        expected = computed(model, x, loss, n_projections=30)
        torch.set_num_threads(8)
        oracle.assert_close(computed(model, x, loss, n_projections=30), expected, 2.0**-23 * 64)


@LINUX
def test_set_num_threads_is_obeyed_and_there_is_one_openmp() -> None:
    """Count this process's threads: torch's pool starts as many as the engine asks for, and no one else does."""
    found = in_new_process("""
        model, x = MLP(5, [200, 200]), torch.randn(300, 5)
        before, counts = tasks(), []
        for threads in (1, 2, 1, 3):
            torch.set_num_threads(threads)
            for options in ({}, {"reduction": "none"}):
                loss(model, x, **options).sum().backward()
            counts.append(tasks() - before)
        names = {line.split()[-1] for line in open("/proc/self/maps")}
        print(counts, sum("gomp" in name or "iomp" in name or "libomp" in name for name in names))
    """)
    assert found == "[0, 1, 1, 2] 1"


# ---- processes -------------------------------------------------------------------------------------------------------


def settled_threads() -> int:
    """Return how many threads this process has, once those that its start brought are all there."""
    counts = [len(os.listdir("/proc/self/task"))]
    while len(counts) < 100 and counts[-10:] != [counts[-1]] * 10:
        time.sleep(0.02)
        counts.append(len(os.listdir("/proc/self/task")))
    return counts[-1]


class Losses(Dataset[list[Tensor]]):
    """Computes a loss and its gradients in the worker, and counts its threads before any starts to send the result."""

    def __init__(self, energy: bool) -> None:
        self.energy = energy

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> list[Tensor]:
        model, x = problem(self.energy)
        before = settled_threads()
        found = computed(model, x)
        started = len(os.listdir("/proc/self/task")) - before
        return [torch.tensor([started, torch.get_num_threads()]), *found]


@LINUX
@pytest.mark.parametrize(("context", "energy"), [("fork", True), ("fork", False), ("spawn", True)])
def test_a_worker_of_a_data_loader_computes_alone(context: str, energy: bool) -> None:
    torch.set_num_threads(2)
    computed(*problem(energy))
    data = Losses(energy)
    ((counts, *found),) = DataLoader(data, batch_size=None, num_workers=1, multiprocessing_context=context, timeout=60)
    assert counts.tolist() == [0, 1]
    torch.set_num_threads(1)
    assert same(found, computed(*problem(energy)))


def _in_child(energy: bool, loss: str, channel: mp.SimpleQueue) -> None:
    channel.put([t.numpy() for t in computed(*problem(energy), loss)])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@ENERGY
@pytest.mark.parametrize("loss", LOSSES)
def test_a_child_after_fork_computes_the_same_bits(loss: str, energy: bool) -> None:
    torch.set_num_threads(2)
    expected = computed(*problem(energy), loss)  # starts the threads, which the child will not have
    context = mp.get_context("fork")
    channel = context.SimpleQueue()
    child = context.Process(target=_in_child, args=(energy, loss, channel))
    child.start()
    child.join(60)
    hung = child.is_alive()
    if hung:
        child.kill()
    assert not hung
    assert child.exitcode == 0
    assert same([torch.from_numpy(a) for a in channel.get()], expected)
    assert same(computed(*problem(energy), loss), expected)  # and the parent goes on


# ---- Python's threads ------------------------------------------------------------------------------------------------


@ENERGY
@pytest.mark.parametrize("threads", [1, 2])
def test_two_callers_at_once_get_what_each_gets_alone(threads: int, energy: bool) -> None:
    torch.set_num_threads(threads)
    calls = [(*problem(energy, samples), loss) for samples, loss in ((300, "ssm"), (201, "none"), (150, "vr"))]
    alone = [computed(*call) for call in calls]
    wrong, barrier = [], threading.Barrier(len(calls))

    def caller(index: int) -> None:
        torch.set_num_threads(threads)  # OpenMP keeps it for each thread
        barrier.wait()
        for _ in range(10):
            if not same(computed(*calls[index]), alone[index]):
                wrong.append(index)

    callers = [threading.Thread(target=caller, args=(index,)) for index in range(len(calls))]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    assert not wrong


def _entries(x: Tensor, model: nn.Module) -> dict[str, Callable[[], object]]:
    call = backends.make_request(model, x)
    inputs, tensors, static = fused.flat(call, directions.Directions(2, seed=torch.tensor(1)))
    structure = compiled.structure_of(static.structure)
    fastssm.sliced_loss(model, x[:1])
    return {
        "guarded": lambda: guarded.objective(model, x, None, 2, Form(False, True)),
        "objective": lambda: compiled._C.objective(structure, *inputs, tensors, None, 2, False, True, "full"),
        "terms": lambda: compiled._C.terms(structure, *inputs, tensors, 2, "full"),
    }


@pytest.mark.parametrize("entry", ["guarded", "objective", "terms"])
def test_other_threads_run_during_a_call(entry: str) -> None:
    """Nothing but the call itself can let them: the interpreter is told to switch never."""
    model, x = problem(True, 20_000, (256, 256))
    call, count, stop = _entries(x, model)[entry], 0, threading.Event()

    def other() -> None:
        nonlocal count
        while not stop.is_set():
            count += 1
            time.sleep(1e-4)

    thread, interval = threading.Thread(target=other), sys.getswitchinterval()
    sys.setswitchinterval(1000.0)
    try:
        thread.start()
        before = count
        kept = call()  # its deletion may well let others run
        after = count
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        thread.join()
    del kept
    assert after > before


# ---- memory ----------------------------------------------------------------------------------------------------------


@LINUX
@pytest.mark.parametrize("threads", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_exhausted_memory_raises_and_the_next_call_works(threads: int) -> None:
    """In float64: oneDNN crashes where there is no memory left for the code that it generates for float32."""
    found = in_new_process(f"""
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads({threads})
        small, large = [MLP(8, [width, width]) for width in (64, 1448)]
        x = torch.randn(400, 8)

        def gradients(model, reduction):
            value = loss(model, x, generator=torch.Generator().manual_seed(1), reduction=reduction)
            return torch.autograd.grad(value.sum(), list(model.parameters()))

        def limit(size):
            resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))

        expected = [gradients(small, reduction) for reduction in ("mean", "none")]
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        for extra in (8, 16, 24, 32, 40):  # MiB: each ends at another allocation
            for reduction, wanted in zip(("mean", "none"), expected):
                limit(size + (extra << 20))
                try:
                    gradients(large, reduction)
                    raise SystemExit("it had enough memory")
                except (MemoryError, RuntimeError) as error:
                    assert isinstance(error, MemoryError) or "memory" in str(error) or "alloc" in str(error), error
                assert all(map(torch.equal, gradients(small, reduction), wanted))
        limit(resource.RLIM_INFINITY)
        assert all(g.isfinite().all() for g in gradients(large, "mean"))
        print("done")
    """)
    assert found == "done"
