"""Networks with a forward of their own, as people write them, by name."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

D, B = 5, 6
Forward = Callable[..., Tensor]


class Own(nn.Module):
    """Some layers, and a forward that is given as a function."""

    def __init__(self, forward: Forward, **parts: nn.Module | Tensor | float) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)
        self.does = forward

    def forward(self, *args: Tensor) -> Tensor:
        return self.does(self, *args)


def layers(*widths: int) -> dict[str, nn.Module]:
    return {f"fc{i}": nn.Linear(a, b) for i, (a, b) in enumerate(itertools.pairwise(widths))}


def net(out: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Linear(D, 8), nn.Softplus(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, out))


def own(self: Own, x: Tensor) -> Tensor:
    return self.fc2(F.softplus(self.fc1(torch.tanh(self.fc0(x)))))


def loop(self: Own, x: Tensor) -> Tensor:
    h = self.first(x)
    for layer in self.blocks:
        h = h + F.silu(layer(h))
    return self.last(h)


def in_place(self: Own, x: Tensor) -> Tensor:
    h = self.first(x)
    h += self.shift
    h = torch.tanh(h.mul_(2.0))
    for layer in self.blocks:
        z = F.gelu(layer(h), approximate="tanh")
        z += h
        h = z
    return self.last(h)


def film(self: Own, x: Tensor, c: Tensor) -> Tensor:
    scale, shift = self.cond(c).chunk(2, -1)
    return self.fc1(F.silu(self.fc0(x) * (1 + scale) + shift))


def every_activation(self: Own, x: Tensor) -> Tensor:
    h = torch.sigmoid(self.fc0(x)).mul(2.0) - 0.5
    h = F.elu(self.fc1(h), 0.7) + self.shift
    h = F.softplus(self.fc2(h), beta=2.0)
    h = self.fc3(h)
    return self.fc4(h * torch.sigmoid(h)).squeeze(-1)


def raw(self: Own, x: Tensor) -> Tensor:
    h = torch.tanh(x @ self.w.t() + self.b)
    h = F.mish(torch.addmm(self.b, h, self.v))
    return h @ self.u


def gradients_everywhere(self: Own, x: Tensor) -> Tensor:
    h = self.fc0((x - self.mu) / self.sd)
    return -0.5 * F.softsign(self.gain * h - self.shift).sum(-1, keepdim=True)


def blocks(width: int, count: int) -> dict[str, nn.Module]:
    inner = nn.ModuleList(nn.Linear(width, width) for _ in range(count))
    return {"first": nn.Linear(D, width), "blocks": inner, "last": nn.Linear(width, 1)}


def normed(training: bool = False) -> nn.Module:
    norm = nn.BatchNorm1d(8)
    model = nn.Sequential(nn.Linear(D, 8), norm, nn.SiLU(), nn.Linear(8, 1)).train(training)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2.0)
    return model


def vector(size: int) -> nn.Parameter:
    return nn.Parameter(torch.rand(size) + 0.5)


def averaged() -> nn.Module:
    return torch.optim.swa_utils.AveragedModel(net())


class Wrapper(nn.Module):
    """What frameworks put around a model when they change no numbers."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._forward_module = module

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        output: Tensor = self._forward_module(*args, **kwargs)
        return output


class Sine(nn.Module):
    def __init__(self, omega: float) -> None:
        super().__init__()
        self.omega = omega

    def forward(self, z: Tensor) -> Tensor:
        return torch.sin(self.omega * z)


class Swish(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z * torch.sigmoid(z)


def spectral() -> nn.Module:
    spectral_norm, weight_norm = parametrizations.spectral_norm, parametrizations.weight_norm
    return Own(
        lambda s, x: s.c(torch.tanh(s.b(F.softplus(s.a(x))))),
        a=spectral_norm(nn.Linear(D, 8)),
        b=weight_norm(nn.Linear(8, 8)),
        c=nn.Linear(8, 1),
    )


def tied() -> nn.Module:
    inner = nn.Linear(8, 8)
    return nn.Sequential(nn.Linear(D, 8), nn.Tanh(), inner, nn.Softplus(), inner, nn.Tanh(), nn.Linear(8, 1))


def lora(self: Own, x: Tensor) -> Tensor:
    return self.fc1(torch.tanh(F.linear(x, self.fc0.weight + self.a @ self.b, self.fc0.bias)))


def lora_beside(self: Own, x: Tensor) -> Tensor:
    return self.fc1(torch.tanh(self.fc0(x) + 0.3 * (x @ self.b.t() @ self.a.t())))


# name: model, kind, shape of a sample, widths of conditioning arguments
ENERGY, SCORE = "energy", "score"
NETS: dict[str, tuple[Callable[[], nn.Module], str, tuple[int, ...], tuple[int, ...]]] = {
    "wrapper": (lambda: Own(lambda s, x: s.net(x), net=net()), ENERGY, (D,), ()),
    "squeezed": (lambda: Own(lambda s, x: s.net(x).squeeze(-1), net=net()), ENERGY, (D,), ()),
    "first column": (lambda: Own(lambda s, x: s.net(x)[:, 0], net=net(2)), ENERGY, (D,), ()),
    "last of an ellipsis": (lambda: Own(lambda s, x: s.net(x)[..., 0], net=net()), ENERGY, (D,), ()),
    "a subset of columns": (lambda: Own(lambda s, x: s.net(x[:, 1:]), net=net()), ENERGY, (D + 1,), ()),
    "negated": (lambda: Own(lambda s, x: -2.0 * s.net(x), net=net()), ENERGY, (D,), ()),
    "summed": (lambda: Own(lambda s, x: s.net(x).sum(-1), net=net(3)), ENERGY, (D,), ()),
    "mean of activations": (
        lambda: Own(lambda s, x: F.softplus(s.net(x)).mean(dim=1, keepdim=True), net=net(3)),
        ENERGY,
        (D,),
        (),
    ),
    "own forward": (lambda: Own(own, **layers(D, 8, 8, 1)), ENERGY, (D,), ()),
    "activations": (
        lambda: Own(every_activation, **layers(D, 8, 8, 8, 8, 1), shift=torch.rand(8)),
        ENERGY,
        (D,),
        (),
    ),
    "raw matrices": (
        lambda: Own(
            raw,
            w=nn.Parameter(torch.randn(8, D)),
            v=nn.Parameter(torch.randn(8, 8)),
            b=vector(8),
            u=vector(8),
        ),
        ENERGY,
        (D,),
        (),
    ),
    "normaliser": (
        lambda: Own(
            lambda s, x: s.net((x - s.mu) / s.sd), net=net(), mu=torch.randn(D), sd=torch.rand(D) + 0.5
        ),
        ENERGY,
        (D,),
        (),
    ),
    "learnt normaliser": (
        lambda: Own(gradients_everywhere, **layers(D, 8), mu=vector(D), sd=vector(D), gain=vector(8), shift=vector(8)),
        ENERGY,
        (D,),
        (),
    ),
    "score scaled": (
        lambda: Own(lambda s, x: s.net(x) / s.sd - 1.0, net=net(D), sd=vector(D)),
        SCORE,
        (D,),
        (),
    ),
    "residual loop": (lambda: Own(loop, **blocks(8, 3)), ENERGY, (D,), ()),
    "in place": (lambda: Own(in_place, shift=vector(8), **blocks(8, 2)), ENERGY, (D,), ()),
    "skip around a linear map": (
        lambda: Own(lambda s, x: s.fc1(torch.tanh(x + s.fc0(x))), **layers(D, D, 1)),
        ENERGY,
        (D,),
        (),
    ),
    "image": (lambda: Own(lambda s, x: s.net(x.view(x.size(0), -1)), net=net()), ENERGY, (1, 1, D), ()),
    "image score": (
        lambda: Own(lambda s, x: s.net(x.flatten(1)).reshape(x.shape), net=net(D)),
        SCORE,
        (1, D, 1),
        (),
    ),
    "time after": (
        lambda: Own(lambda s, x, t: s.fc1(torch.tanh(s.fc0(torch.cat([x, t], 1)))), **layers(D + 1, 8, D)),
        SCORE,
        (D,),
        (1,),
    ),
    "time before": (
        lambda: Own(
            lambda s, x, t, c: s.fc1(torch.tanh(s.fc0(torch.cat([t, x, 2.0 * c], dim=-1)))), **layers(D + 3, 8, D)
        ),
        SCORE,
        (D,),
        (1, 2),
    ),
    "conditioned inside": (
        lambda: Own(
            lambda s, x, c: s.fc1(F.silu(torch.cat([s.fc0(x), torch.tanh(s.emb(c))], 1))),
            emb=nn.Linear(2, 3),
            fc0=nn.Linear(D, 8),
            fc1=nn.Linear(11, D),
        ),
        SCORE,
        (D,),
        (2,),
    ),
    "film": (lambda: Own(film, cond=nn.Linear(2, 16), **layers(D, 8, 1)), ENERGY, (D,), (2,)),
    "added embedding": (
        lambda: Own(lambda s, x, c: s.fc1(F.silu(s.fc0(x) + s.emb(c))), emb=nn.Linear(2, 8), **layers(D, 8, D)),
        SCORE,
        (D,),
        (2,),
    ),
    "preconditioned by the level": (
        lambda: Own(lambda s, x, t: s.net(x / (1 + t**2).sqrt()) * t, net=net(D)),
        SCORE,
        (D,),
        (1,),
    ),
    "batch norm": (normed, ENERGY, (D,), ()),
    "average": (averaged, ENERGY, (D,), ()),
    "framework": (lambda: Wrapper(Wrapper(net())), ENERGY, (D,), ()),
    "own sine": (lambda: nn.Sequential(nn.Linear(D, 8), Sine(3.0), nn.Linear(8, 1)), ENERGY, (D,), ()),
    "own swish": (lambda: nn.Sequential(nn.Linear(D, 8), Swish(), nn.Linear(8, 1)), ENERGY, (D,), ()),
    "activation in place": (
        lambda: Own(lambda s, x: s.net(x), net=nn.Sequential(nn.Linear(D, 8), nn.SiLU(inplace=True), nn.Linear(8, 1))),
        ENERGY,
        (D,),
        (),
    ),
    "dropout at rest": (
        lambda: Own(lambda s, x: s.net(F.dropout(x, 0.5, s.training)), net=net()).eval(),
        ENERGY,
        (D,),
        (),
    ),
    "parametrized": (spectral, ENERGY, (D,), ()),
    "tied": (tied, ENERGY, (D,), ()),
    "positive weights": (
        lambda: Own(
            lambda s, x: F.linear(F.softplus(s.fc0(x)), F.softplus(s.w)),
            w=nn.Parameter(torch.randn(1, 8)),
            **layers(D, 8),
        ),
        ENERGY,
        (D,),
        (),
    ),
    "lora": (
        lambda: Own(lora, **layers(D, 8, 1), a=nn.Parameter(torch.randn(8, 2)), b=nn.Parameter(torch.randn(2, D))),
        ENERGY,
        (D,),
        (),
    ),
    "lora beside": (
        lambda: Own(
            lora_beside, **layers(D, 8, 1), a=nn.Parameter(torch.randn(8, 2)), b=nn.Parameter(torch.randn(2, D))
        ),
        ENERGY,
        (D,),
        (),
    ),
}  # fmt: skip


def problem(name: str) -> tuple[nn.Module, str, Tensor, tuple[Tensor, ...], Tensor]:
    torch.manual_seed(sum(map(ord, name)))
    build, kind, shape, widths = NETS[name]
    model = build().double()
    x = torch.randn(B, *shape, dtype=torch.float64)
    cond = tuple(torch.rand(B, width, dtype=torch.float64) + 0.2 for width in widths)
    return model, kind, x, cond, torch.randn(2, B, *shape, dtype=torch.float64)
