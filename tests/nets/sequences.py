"""Energies and scores of sequences: recurrent networks, convolutions in time, sums along it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.nets.net import Net, times


class GRUEnergy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru, self.fc = nn.GRU(2, 5, batch_first=True), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        _, hidden = self.gru(x)
        return self.fc(hidden[-1])


class LSTMEnergy(nn.Module):
    """Two directions, outputs averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, 4, batch_first=True, bidirectional=True)
        self.fc = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, x: Tensor) -> Tensor:
        out, (_, _) = self.lstm(x)
        return self.fc(out.mean(dim=1)).squeeze(-1)


class CellScore(nn.Module):
    """A cell in a loop, one output a step."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.GRUCell(2, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = x.new_zeros(x.shape[0], 5), []
        for step in x.unbind(dim=1):
            h = self.cell(step, h)
            outputs.append(self.out(h))
        return torch.stack(outputs, dim=1)


class Conv1dBatchNorm(nn.Module):
    """Convolutions with BatchNorm, for a trained model that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(2, 4, 3, padding=1),
            nn.BatchNorm1d(4),
            nn.Softplus(),
            nn.Conv1d(4, 4, 3, 2, 1),
            nn.BatchNorm1d(4),
            nn.Softplus(),
        )
        self.pool, self.fc = nn.AdaptiveAvgPool1d(1), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.net(x.permute(0, 2, 1))).squeeze(-1))


class WaveNet(nn.Module):
    """Causal dilated convolutions, gated by a tanh and a sigmoid, with skips."""

    def __init__(self, ch: int = 4) -> None:
        super().__init__()
        self.start, self.dilations = nn.Conv1d(1, ch, 1), (1, 2)
        self.filters = nn.ModuleList(nn.Conv1d(ch, ch, 2, dilation=d) for d in self.dilations)
        self.gates = nn.ModuleList(nn.Conv1d(ch, ch, 2, dilation=d) for d in self.dilations)
        self.skips, self.end = nn.ModuleList(nn.Conv1d(ch, ch, 1) for _ in self.dilations), nn.Conv1d(ch, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, skip = self.start(x), 0
        for filt, gate, out, d in zip(self.filters, self.gates, self.skips, self.dilations, strict=True):
            padded = F.pad(h, (d, 0))
            g = torch.tanh(filt(padded)) * torch.sigmoid(gate(padded))
            s = out(g)
            skip, h = skip + s, h + s
        return self.end(F.silu(skip))


class TemporalUNet(nn.Module):
    """Mish, GroupNorm, transposed convolutions in time, the time of diffusion added: a planner's score."""

    def __init__(self, dim: int = 2, ch: int = 4) -> None:
        super().__init__()
        self.time_mlp = nn.Sequential(nn.Linear(1, 8), nn.Mish(), nn.Linear(8, ch))
        self.block1 = nn.Sequential(nn.Conv1d(dim, ch, 3, padding=1), nn.GroupNorm(2, ch), nn.Mish())
        self.block2 = nn.Sequential(nn.Conv1d(ch, ch, 3, padding=1), nn.GroupNorm(2, ch), nn.Mish())
        self.down, self.up = nn.Conv1d(ch, ch, 3, 2, 1), nn.ConvTranspose1d(ch, ch, 4, 2, 1)
        self.final = nn.Conv1d(2 * ch, dim, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = self.block1(x.mT) + self.time_mlp(t[:, None])[:, :, None]
        h = torch.cat([self.up(self.block2(self.down(h))), h], dim=1)
        return self.final(h).transpose(-1, -2)


class RandomWalk(nn.Module):
    """Increments, running sums, and a soft attention over steps."""

    def __init__(self) -> None:
        super().__init__()
        self.score, self.log_sigma, self.f = nn.Linear(2, 1), nn.Parameter(torch.zeros(2)), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        steps = torch.diff(x, dim=1) / self.log_sigma.exp()
        walked = torch.tanh(self.f(torch.cumsum(x, dim=1)))
        weights = torch.softmax(self.score(x), dim=1)
        pooled = (weights * walked).sum(dim=1)
        return 0.5 * steps.square().sum((1, 2)) + pooled.prod(dim=-1) + walked.exp().cumsum(1).log().mean((1, 2))


class RunningFreeEnergy(nn.Module):
    """The log of a running sum of weights, whose third derivative is NaN in PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.out = nn.Linear(2, 3), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.logcumsumexp(self.f(x), dim=1)).sum((1, 2))


class StateSpace(nn.Module):
    """A linear recurrence with decays from the input, gated, normalised by its root mean square."""

    def __init__(self, dim: int = 2, state: int = 3) -> None:
        super().__init__()
        self.log_A, self.D = nn.Parameter(torch.zeros(dim, state)), nn.Parameter(torch.ones(dim))
        self.x_proj, self.z_proj, self.out = nn.Linear(dim, 2 * state + dim), nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        state = self.log_A.shape[1]
        B, C, dt = self.x_proj(x).split([state, state, x.shape[-1]], dim=-1)
        dt = F.softplus(dt)
        decay = torch.exp(-dt[..., None] * self.log_A.exp())
        h, ys = torch.zeros_like(decay[:, 0]), []
        for i in range(x.shape[1]):
            h = decay[:, i] * h + (dt[:, i] * x[:, i])[..., None] * B[:, i, None, :]
            ys.append((h * C[:, i, None, :]).sum(-1))
        y = torch.stack(ys, 1) + self.D * x
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-3) * F.silu(self.z_proj(x))
        return self.out(y).flatten(1).sum(1)


class Mixer(nn.Module):
    """Mixing of steps and of channels in turn, InstanceNorm and LayerNorm."""

    def __init__(self, length: int = 4, ch: int = 3) -> None:
        super().__init__()
        self.inorm, self.lnorm = nn.InstanceNorm1d(ch), nn.LayerNorm((length, ch))
        self.tokens = nn.Sequential(nn.Linear(length, 6), nn.GELU(), nn.Linear(6, length))
        self.channels = nn.Sequential(nn.Linear(ch, 6), nn.GELU(), nn.Linear(6, ch))
        self.head = nn.Linear(length * ch, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.inorm(x.transpose(1, 2))).transpose(1, 2)
        x = x + self.channels(self.lnorm(x))
        return self.head(x.reshape(x.size(0), -1))


def net(name: str, build: object, *shape: int, **options: object) -> Net:
    return Net(name, "sequences", build, shape, **options)


NETS = [
    net("gru", GRUEnergy, 4, 2),
    net("lstm-bidirectional", LSTMEnergy, 3, 2),
    net("gru-cell", CellScore, 3, 2, kind="score"),
    net("conv1d-batch-norm", Conv1dBatchNorm, 6, 2, settle=3, train=False),
    net("wavenet", WaveNet, 1, 8, kind="score"),
    net("temporal-unet", TemporalUNet, 4, 2, kind="score", cond=(times,)),
    net("random-walk", RandomWalk, 4, 2),
    net("running-free-energy", RunningFreeEnergy, 4, 2),
    net("state-space", StateSpace, 4, 2),
    net("mixer", Mixer, 4, 3),
]
