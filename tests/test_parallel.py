"""Two ranks on gloo give the gradients of the whole batch, step by step; what cannot be right is refused."""

import functools
import inspect
import itertools
import math
from datetime import timedelta

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel as DDP

import fastssm
from fastssm.diffusion import VP, ElboLoss, SlicedDiffusionLoss, TimeSampling
from fastssm.nn import MLP, MADEContext, Periodic
from tests import covering, oracle, oracle_diffusion, oracle_noise, oracle_weights
from tests.test_composite import transcription

pytestmark = pytest.mark.skipif(not distributed.is_available(), reason="torch.distributed is not built")
RANKS, B, D, M, STEPS = 2, 8, 3, 2, 3
NETS = {
    "energy": lambda: nn.Sequential(nn.Linear(D, 7), nn.Softplus(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 1)),
    "score": lambda: nn.Sequential(nn.Linear(D, 7), nn.SiLU(), nn.Linear(7, D)),
    "film": lambda: MLP(D, [7, 7], 1, "softplus", cond_dim=2, conditioning="film", residual=True),
    "joint": lambda: MLP(D + 1, [7, 7], 1, "softplus"),
    "told": lambda: MLP(D, [7, 7], 1, "softplus", cond_dim=1),
    "angles": lambda: nn.Sequential(Periodic(), nn.Linear(2 * D, 7), nn.Softplus(), nn.Linear(7, 1)),
    "normed": lambda: nn.Sequential(nn.Linear(D, 7), nn.RMSNorm(7), nn.Softplus(), nn.Linear(7, 1)),
}
LOSSES = {
    "ssm": {"variance_reduced": False},
    "vr": {},
    "none": {"reduction": "none"},
    "reference": {"backend": "reference"},
    "jets": {"backend": "jets"},
}
SIGMAS = [1.0, 0.5, 0.3]


def told(level):
    return torch.tensor(SIGMAS, dtype=torch.float64)[level]


LEVELS = fastssm.GeometricTempering(0.2, 3.0)


def metric(x):
    return torch.diag_embed(1 + x.square()) + 0.1


def time_scores(net, x, base, t, noise):
    spread, t = (t * (1 - t)).sqrt()[:, None], t[:, None]
    target = (1 - 2 * t) * (noise**2 - 1) + 2 * spread * noise * (x - base)
    found = 2 * spread**2 * net((1 - t) * base + t * x + spread * noise, t[:, 0])
    return (found[:, 0] - target.sum(1)) ** 2 / 2


def diffusion_bound(net, x, t, noise, v):
    kernel = oracle_diffusion.KERNELS["VP"]
    prior, path, _ = oracle_diffusion.bound(kernel, net, x, t, noise, v, 1.0, energy=True)
    return path - prior


# Twins: the class, its options, its network, and what autograd says of a batch and the tensors that come with it.
TWINS = {
    "finite difference": (
        fastssm.FiniteDifferenceLoss,
        {"step": 0.1},
        "energy",
        lambda net, x, v: oracle_noise.fd_ssm(net, x, v, 0.1),
    ),
    "finite difference denoising": (
        fastssm.FiniteDifferenceDenoisingLoss,
        {"step": 0.1, "sigma": 0.3},
        "energy",
        lambda net, x, noise, v: oracle_noise.fd_denoising(net, x, noise, v, 0.3, 0.1),
    ),
    "denoising": (
        fastssm.DenoisingLoss,
        {"sigma": 0.3},
        "energy",
        lambda net, x, noise: oracle_noise.denoising(net, x, noise, 0.3, energy=True),
    ),
    "annealed denoising": (
        fastssm.AnnealedDenoisingLoss,
        {"sigmas": SIGMAS},
        "told",
        lambda net, x, level, noise: (
            told(level) ** 2 * oracle_noise.denoising(net, x, noise, told(level), energy=True, cond=[told(level)])
        ),
    ),
    "annealed sliced": (
        fastssm.AnnealedSlicedLoss,
        {"sigmas": SIGMAS},
        "told",
        lambda net, x, level, noise, v: (
            told(level) ** 2
            * oracle.losses(net, x + told(level)[:, None] * noise, v, "vr", energy=True, cond=[told(level)])
        ),
    ),
    "likelihood bound": (ElboLoss, {"sde": VP(), "times": TimeSampling("uniform")}, "told", diffusion_bound),
    "sliced diffusion": (
        SlicedDiffusionLoss,
        {"sde": VP()},
        "told",
        lambda net, x, t, noise, v: oracle_diffusion.bound(
            oracle_diffusion.KERNELS["VP"], net, x, t, noise, v, 1.0, energy=True
        )[1],
    ),
}
TWINS |= {
    "domain": (
        fastssm.DomainLoss,
        {"domain": fastssm.domains.Box(-9.0, 9.0), "variance_reduced": False},
        "energy",
        lambda net, x, v: oracle_weights.generalized(
            net, x, v, lambda x: torch.diag_embed((9 - x.abs()).clamp(max=1)), energy=True, form="ssm"
        ),
    ),
    "preconditioned": (
        fastssm.PreconditionedLoss,
        {"precond": metric},
        "energy",
        lambda net, x, v: oracle_weights.generalized(net, x, v, metric, energy=True, form="vr"),
    ),
    "manifold": (
        fastssm.ManifoldLoss,
        {"manifold": "torus"},
        "angles",
        lambda net, x, v: oracle.losses(net, x, v, "vr", energy=True),
    ),
    "density ratio": (fastssm.DensityRatioLoss, {}, "told", time_scores),
    "tempered": (
        fastssm.TemperedLoss,
        {"tempering": LEVELS},
        "joint",
        lambda net, x, beta, noise, v: oracle_weights.tempered(
            net,
            x,
            beta,
            noise,
            v,
            variance=lambda b: 0.2 * b.expm1(),
            log_r=lambda b: 0.0 * b - math.log(LEVELS.largest),
            ends=(torch.zeros_like(beta), torch.full_like(beta, LEVELS.largest)),
        ),
    ),
}
WRAPPERS = {
    "DDP": DDP,
    "DDP static graph": functools.partial(DDP, static_graph=True),
    "DDP bucket view": functools.partial(DDP, gradient_as_bucket_view=True),
    "FSDP": fully_shard,
    "FSDP resharded": functools.partial(fully_shard, reshard_after_forward=True),
    "FSDP kept": functools.partial(fully_shard, reshard_after_forward=False),
}
RUNS = {(w, n, "vr") for w in WRAPPERS for n in ("energy", "score", "film")} | {
    (w, "film", loss) for w in ("DDP", "FSDP") for loss in LOSSES
}
RUNS |= {(w, "normed", "jets") for w in WRAPPERS}


def inner(shards):
    net = NETS["energy"]()
    for module in shards(net):
        fully_shard(module)
    return net


REFUSED = {
    "functional DDP": lambda x: fastssm.sliced_loss(DDP(NETS["energy"]()), x),
    "functional DDP, reference": lambda x: fastssm.exact_loss(DDP(NETS["energy"]()), x, backend="reference"),
    "DDP of the net inside the loss": lambda x: fastssm.SlicedScoreLoss(DDP(NETS["energy"]()))(x),
    "functional FSDP": lambda x: fastssm.terms(inner(lambda net: [net]), x),
    "FSDP of the net inside the loss": lambda x: fastssm.SlicedScoreLoss(inner(lambda net: [net]))(x),
    "FSDP of every layer": lambda x: fully_shard(fastssm.SlicedScoreLoss(inner(list)))(x),
    "FSDP of one layer": lambda x: fully_shard(fastssm.SlicedScoreLoss(inner(lambda net: [net[2]])))(x),
}


def problem(name):
    torch.manual_seed(4)
    net = NETS[name]().double()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5)
    x, v, cond = torch.randn(STEPS, B, D), torch.randn(STEPS, M, B, D), torch.randn(STEPS, B, 2)
    return net, x.double(), v.double(), cond.double() if name == "film" else [None] * STEPS


def train(parameters, forward):
    """Return the gradients and the parameters of every step, whole."""
    optimiser, history = torch.optim.Adam(parameters, lr=0.05), []
    for step in range(STEPS):
        optimiser.zero_grad()
        forward(step).backward()
        grads = [whole(p.grad).clone() for p in parameters]
        optimiser.step()
        history.append([*grads, *(whole(p).clone() for p in parameters)])
    return history


def whole(t):
    return (t.full_tensor() if hasattr(t, "full_tensor") else t).detach()


def run(rank, wrapper, name, loss):
    net, x, v, cond = problem(name)
    module = WRAPPERS[wrapper](fastssm.SlicedScoreLoss(net, **LOSSES[loss]))
    mine = slice(rank * B // RANKS, (rank + 1) * B // RANKS)

    def forward(step):
        given = cond[step][mine] if name == "film" else None
        return module(x[step][mine], cond=given, v=v[step][:, mine]).mean()

    return train(list(module.parameters()), forward)


def companions(twin):
    """Return what comes with the batches of a twin, drawn once: name -> `[STEPS, ...]`, and the axis of samples."""
    torch.manual_seed(5)
    drawn = {
        "v": (torch.randn(STEPS, M, B, D).double(), 2),
        "noise": (torch.randn(STEPS, B, D).double(), 1),
        "beta": (LEVELS.largest * torch.rand(STEPS, B).double(), 1),
        "level": (torch.randint(len(SIGMAS), (STEPS, B)), 1),
        "t": (torch.rand(STEPS, B).double(), 1),
        "base": (torch.randn(STEPS, B, D).double(), 1),
    }
    return {name: drawn[name] for name in inspect.signature(TWINS[twin][3]).parameters if name in drawn}


def run_twin(rank, twin):
    make, options, name, _ = TWINS[twin]
    net, x, *_ = problem(name)
    module = DDP(make(net, **options))
    given = {key: t.chunk(RANKS, axis)[rank] for key, (t, axis) in companions(twin).items()}
    mine = x.chunk(RANKS, 1)[rank]
    return train(
        list(module.parameters()), lambda step: module(mine[step], **{key: t[step] for key, t in given.items()})
    )


def composite():
    """Return the nets of an autoregressive model, and its data."""
    torch.manual_seed(4)
    nets = MADEContext(D, 4, [6]).double(), MLP(1, [7, 7], cond_dim=4).double()
    return *nets, torch.randn(STEPS, B, D).double()


def run_composite(rank, wrapper):
    context, head, x = composite()
    module = WRAPPERS[wrapper](fastssm.CompositeLoss(context, head))
    mine = slice(rank * B // RANKS, (rank + 1) * B // RANKS)
    return train(list(module.parameters()), lambda step: module(x[step][mine]))


def refusal(call):
    try:
        return call(torch.zeros(B, D))
    except ValueError as error:
        return error


def worker(rank, folder):
    torch.set_num_threads(1)
    store, patience = f"file://{folder}/store", timedelta(seconds=60)  # a rank that fails ends the other too
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=RANKS, timeout=patience)
    found = {key: run(rank, *key) for key in sorted(RUNS)}
    found |= {twin: run_twin(rank, twin) for twin in TWINS}
    found |= {("composite", wrapper): run_composite(rank, wrapper) for wrapper in ("DDP", "FSDP")}
    found |= {name: refusal(call) for name, call in REFUSED.items()}
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("gloo"))
    mp.spawn(worker, (folder,), nprocs=RANKS)
    return [torch.load(f"{folder}/{rank}.pt", weights_only=False) for rank in range(RANKS)]


@functools.cache
def expected(name, loss):
    net, x, v, cond = problem(name)
    extra = (lambda step: [cond[step]]) if name == "film" else (lambda step: [])

    def forward(step):
        kind = "ssm" if loss == "ssm" else "vr"
        each = oracle.losses(net, x[step], v[step], kind, energy=name != "score", cond=extra(step))
        return each.mean() + 0.0 * net(x[step], *extra(step)).sum()  # gives the last bias its zero

    return train(list(net.parameters()), forward)


def test_two_ranks_are_one(found):
    for rank, run in itertools.product(found, sorted(RUNS)):
        for step, other in zip(rank[run], expected(*run[1:]), strict=True):
            torch.testing.assert_close(step, other, rtol=1e-6, atol=1e-9, msg=lambda text, run=run: f"{run}: {text}")


@covering.each("twin", TWINS)
def test_two_ranks_are_one_for_every_twin(found, twin):
    *_, name, formula = TWINS[twin]
    net, x, *_ = problem(name)
    given = {key: t for key, (t, _) in companions(twin).items()}

    def forward(step):
        tensors = {key: t[step] for key, t in given.items()}
        return formula(net, x[step], **tensors).mean() + 0.0 * sum(p.sum() for p in net.parameters())

    expected_steps = train(list(net.parameters()), forward)
    for rank in found:
        for step, other in zip(rank[twin], expected_steps, strict=True):
            torch.testing.assert_close(step, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("wrapper", ["DDP", "FSDP"])
def test_two_ranks_are_one_for_both_nets_of_an_autoregressive_model(found, wrapper):
    context, head, x = composite()

    def forward(step):
        constant = head(x[step][:, :1], context(x[step])[:, 0]).sum()  # gives the last bias its zero
        return transcription(context, head, x[step], energy=True).mean() + 0.0 * constant

    wanted = train([*head.parameters(), *context.parameters()], forward)
    for rank in found:
        for step, other in zip(rank["composite", wrapper], wanted, strict=True):
            torch.testing.assert_close(step, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_right_is_refused(found, name):
    for rank in found:
        assert type(rank[name]) is ValueError
        advice = "fully_shard" if "FSDP" in name else "DistributedDataParallel"
        assert f"{advice}(fastssm.SlicedScoreLoss(net))" in str(rank[name])
