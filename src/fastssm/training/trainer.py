"""The state of a training run, which can be saved and restored at any step."""

from __future__ import annotations

import copy
import hashlib
import math
from typing import Any

import torch
from torch import Tensor, nn

from fastssm.data import Prepared
from fastssm.training.config import TrainConfig
from fastssm.training.distributed import Ranks
from fastssm.training.facts import Facts
from fastssm.training.objectives import OBJECTIVES, Batch, normal


class DivergedError(RuntimeError):
    """The loss became NaN or infinite."""


def build_net(config: TrainConfig, features: int) -> nn.Module:
    """Return the network of a configuration with initial weights that depend only on the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(config.seed)
        return OBJECTIVES[config.loss].network(config, features)


class Training:
    """A training run at some step.

    Args:
        config: the settings.
        prepared: the data.
        ranks: the rank and device of this process.

    Raises:
        ValueError: if the batch is not divisible by the number of ranks.
    """

    def __init__(self, config: TrainConfig, prepared: Prepared, ranks: Ranks) -> None:
        if config.batch % ranks.world:
            raise ValueError(
                f"batch must be a multiple of the number of processes, {ranks.world}, got {config.batch}; change it"
            )
        self.config, self.prepared, self.ranks = config, prepared, ranks
        self.objective, self.facts = OBJECTIVES[config.loss], Facts.of(prepared)
        streamed = prepared.moments is not None  # then the rows stay in their file
        self.train_rows = prepared.train if streamed else prepared.train.to(ranks.device)
        self.validation_rows = prepared.validation.to(ranks.device)
        self.net = build_net(config, prepared.train.shape[1]).to(ranks.device)
        self.mean_net = copy.deepcopy(self.net).requires_grad_(False)
        self.loss = self._distributed(self.objective.module(self.net, config, self.facts))
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=config.lr)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.step = 0
        self.seconds = 0.0
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=ranks.device)
        self.loss_count = 0
        self.best: dict[str, Any] = {"step": 0, "loss": math.inf, "weights": _copy(self.mean_net)}
        self.ending = ""
        self.fingerprint = hashlib.sha256(prepared.train.contiguous().numpy().data).hexdigest()

    def _distributed(self, loss: nn.Module) -> nn.Module:
        if self.ranks.world == 1:
            return loss
        return nn.parallel.DistributedDataParallel(loss, broadcast_buffers=False)

    def _batch(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Draw the rows and random tensors of the whole batch, and return this rank's part."""
        config, device, (_, features) = self.config, self.ranks.device, self.train_rows.shape
        index = torch.randint(len(self.train_rows), (config.batch,), generator=self.generator)
        batch = Batch(config, features, self.ranks.share(config.batch), device, self.generator)
        rows = self.train_rows[index[batch.share].to(self.train_rows.device)].to(device)
        if not self.objective.blurs:
            rows = rows + self.prepared.noise * normal(batch)
        return rows, {name: draw(batch) for name, draw in self.objective.draws.items()}

    def advance(self) -> Tensor:
        """Take one optimiser step and return this rank's loss before the step."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr_at(self.step)
        x, drawn = self._batch()
        loss: Tensor = self.loss(x, **drawn)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.config.clip)
        self.optimizer.step()
        self._average(self.config.ema_at(self.step))
        self.loss_sum += loss.detach()
        self.loss_count += 1
        self.step += 1
        return loss.detach()

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        for mean, weight in zip(self.mean_net.parameters(), self.net.parameters(), strict=True):
            mean.lerp_(weight, 1 - decay)

    def evaluation_is_due(self) -> bool:
        """Return whether an evaluation follows the last step."""
        return self.step % self.config.evaluate_every == 0 or self.step == self.config.steps

    def evaluate(self) -> dict[str, Any]:
        """Measure the validation loss, update the best weights, check whether to stop, and return a row of metrics.

        Raises:
            DivergedError: if the training or validation loss is not finite.
        """
        train_loss = (self.ranks.sum(self.loss_sum) / (self.ranks.world * max(1, self.loss_count))).item()
        config = self.config
        net = self.evaluated(self.mean_net)
        measured = self.objective.measure.mean(net, self.validation_rows, config.kind, config.backend, self.ranks)
        validation = measured.value
        if not math.isfinite(train_loss + validation):
            raise DivergedError(
                f"the loss must be finite, got {validation if math.isfinite(train_loss) else train_loss} in the "
                f"{self.loss_count} steps before step {self.step}; lower --lr (now {config.lr:g}) or "
                f"--clip (now {config.clip:g})"
            )
        if validation < self.best["loss"]:
            self.best = {"step": self.step, "loss": validation, "weights": _copy(self.mean_net)}
        if self.step == config.steps:
            self.ending = "all steps done"
        elif self.step - self.best["step"] >= config.patience:
            self.ending = f"no better validation loss for {config.patience} steps"
        self.loss_sum.zero_()
        self.loss_count = 0
        return {
            "step": self.step,
            "train_loss": train_loss,
            "validation_loss": validation,
            "lr": config.lr_at(self.step - 1),
        }

    def state(self) -> dict[str, Any]:
        """Return the complete state of the run."""
        return {
            "config": vars(self.config),
            "fingerprint": self.fingerprint,
            "step": self.step,
            "net": self.net.state_dict(),
            "mean_net": self.mean_net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "loss_sum": self.loss_sum,
            "loss_count": self.loss_count,
            "best": self.best,
            "seconds": self.seconds,
            "ending": self.ending,
            "scaler": vars(self.prepared.scaler),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`.

        Raises:
            ValueError: if the state has other settings or data, with a list of the differences, or is damaged.
        """
        differences = self.config.differences(state["config"])
        if state["fingerprint"] != self.fingerprint:
            differences.append("the rows of the data differ from those of the checkpoint")
        if differences:
            raise ValueError(
                f"--resume requires the settings and data of the checkpoint, but {'; '.join(differences)}. Pass the "
                "same settings (including --steps, which sets the learning rates), or another --out to start over"
            )
        try:
            self._restore(state)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).split("\n")[-1].strip()
            raise ValueError(
                f"the checkpoint is damaged ({type(error).__name__}: {reason}); start over with another --out"
            ) from error

    def _restore(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.mean_net.load_state_dict(state["mean_net"])
        best = state["best"]
        self.best_net_of(best)
        numbers = {"seconds": state["seconds"], "loss_count": state["loss_count"], **best}
        for name in ("seconds", "loss_count", "step", "loss"):
            if not isinstance(numbers[name], int | float):
                raise TypeError(f"{name} is no number")
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.loss_sum.copy_(state["loss_sum"])
        self.step, self.loss_count, self.best = state["step"], state["loss_count"], best
        self.seconds, self.ending = state["seconds"], state["ending"]

    def evaluated(self, net: nn.Module) -> nn.Module:
        """Return the network in the form that is evaluated, as an energy or score."""
        return self.objective.evaluated(net, self.config, self.facts)

    def best_net(self) -> nn.Module:
        """Return a copy of the network with the weights of the best validation loss."""
        return self.best_net_of(self.best)

    def best_net_of(self, best: dict[str, Any]) -> nn.Module:
        """Return a copy of the network with the weights of a best validation loss."""
        net = copy.deepcopy(self.mean_net)
        net.load_state_dict(best["weights"])
        return net


def _copy(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}
