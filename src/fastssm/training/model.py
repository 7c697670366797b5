"""A trained model, which takes and gives rows in data units."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn

from fastssm import checks, score
from fastssm.data import Scaler, Schema
from fastssm.diffusion import elbo, flow_log_prob
from fastssm.errors import UnsupportedError
from fastssm.options import NetworkKind
from fastssm.training.autoregressive import Autoregressive
from fastssm.training.config import TrainConfig
from fastssm.training.distributed import choose_device
from fastssm.training.draws import draw
from fastssm.training.facts import Facts
from fastssm.training.model_rows import Rows, check_output, made, read_rows
from fastssm.training.objectives import OBJECTIVES

BATCH_ROWS = 4096
QUADRATURE_ROWS = 256  # each takes as many evaluations per coordinate as the quadrature has points


class Model:
    r"""A trained energy or score model, with everything in the units of the data.

    The network sees `z = (x - mean) @ A`. Then `E(x) = E_z(z) - log|det A|` and `s(x) = A s_z(z)`, so that
    `exp(-E)` is a density of x wherever the network's is one of z. With noise on the training rows, the density is that
    of the noisy rows.

    Rows may be a NumPy array, a tensor, a list, or a table of pandas, whose columns are found by name and encoded as in
    training. Results have the kind, the precision and the index of the rows.

    Args:
        net: the trained network.
        config: the settings of the training.
        facts: statistics of the scaled training rows.
        scaler: the map from data units to those of the network.
        columns: one name per column.
        held_out: energies of rows that the training did not see, in ascending order; None if the model has none.
        info: versions, data and results, as in the file `model.json`.
        schema: how the rows of the training were read from a file, so that others are read alike.

    Attributes:
        evaluated: the energy or score of the rows' density, as a network of z.
        device: where the network is; `to` moves it.
        dtype: what it computes in.

    Example:
        >>> model = fastssm.load("runs/white-wine")  # doctest: +SKIP
        >>> model.anomaly(model.sample(100)).mean()  # doctest: +SKIP
    """

    def __init__(
        self,
        net: nn.Module,
        config: TrainConfig,
        facts: Facts,
        scaler: Scaler,
        columns: tuple[str, ...],
        held_out: Tensor | None = None,
        info: dict[str, Any] | None = None,
        schema: Schema | None = None,
    ) -> None:
        self.net, self.config, self.facts, self.scaler = net.eval().requires_grad_(False), config, facts, scaler
        self.columns, self.held_out, self.info, self.schema = columns, held_out, dict(info or {}), schema
        self.evaluated = OBJECTIVES[config.loss].evaluated(self.net, config, facts).eval().requires_grad_(False)
        weight = next(self.net.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        self.log_det = float(torch.linalg.slogdet(scaler.matrix).logabsdet)

    @property
    def kind(self) -> NetworkKind:
        """Return "energy" or "score"."""
        return self.config.kind

    @property
    def options(self) -> dict[str, Any]:
        """Return the options of the loss, such as its SDE, its noise levels or its domain, in the network's units."""
        return OBJECTIVES[self.config.loss].options(self.config, self.facts)

    @property
    def normalised(self) -> bool:
        """Return whether the model has a `log_prob`."""
        return self.config.loss in ("composite", "likelihood")

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> Model:
        """Return the model on another device, or in another precision; "auto" is CUDA if there is one.

        Raises:
            ValueError: if there is no such device.
        """
        place = choose_device(str(device))
        net = copy.deepcopy(self.net).to(place, dtype)
        return Model(net, self.config, self.facts, self.scaler, self.columns, self.held_out, self.info, self.schema)

    def energy(self, rows: Any) -> Any:
        """Return the energy of every row: `log p(x) = -E(x) + const`, lower is more likely.

        For `loss="composite"` the constant is zero.

        Args:
            rows: `[n, D]` in data units.

        Returns:
            `[n]`, in the kind of the rows.

        Raises:
            UnsupportedError: for a score network, which has no energy.
            TypeError: if the rows are not numbers.
            ValueError: if their columns, shape or values do not fit, or the energy of a row is not a number.

        Example:
            >>> fastssm.load("runs/white-wine").energy(rows)  # doctest: +SKIP
        """
        given = self._read(rows)
        return given.one_each(self._energy(given), "energy")

    def log_density_unnormalised(self, rows: Any) -> Any:
        """Return `-E` of every row, the logarithm of its density up to a constant; see `energy`."""
        given = self._read(rows)
        return given.one_each(-self._energy(given), "log_density")

    def score(self, rows: Any) -> Any:
        """Return the score of every row, `d log p / dx`, per unit of each column.

        Args:
            rows: `[n, D]` in data units.

        Returns:
            `[n, D]`, in the kind of the rows.

        Raises:
            TypeError: if the rows are not numbers.
            ValueError: if their columns, shape or values do not fit, or the score of a row is not a number.

        Example:
            >>> fastssm.load("runs/white-wine").score(rows)  # doctest: +SKIP
        """
        given = self._read(rows)
        scaled = self._over_batches(given, self._scaled_score)
        return given.like_rows(_numbers(scaled @ self.scaler.matrix.T, "score"), self.columns)

    def anomaly(self, rows: Any) -> Any:
        """Return how unusual every row is: the percentage of held-out rows that are more likely.

        100 means less likely than every row that was held out of the training. Rows as likely as a held-out row count
        half of it.

        Args:
            rows: `[n, D]` in data units.

        Returns:
            `[n]` from 0 to 100, in the kind of the rows.

        Raises:
            UnsupportedError: for a score network without a density.
            TypeError: if the rows are not numbers.
            ValueError: if their columns, shape or values do not fit.

        Example:
            >>> fastssm.load("runs/white-wine").anomaly(rows)  # doctest: +SKIP
        """
        given = self._read(rows)
        if self.held_out is None:
            why = "a score network knows no density" if self.kind == "score" else "the model was made without them"
            raise UnsupportedError(f"anomaly compares the densities of rows with those of held-out rows, and {why}.")
        found = self.unlikeliness(given.values)
        below = torch.searchsorted(self.held_out, found)
        until = torch.searchsorted(self.held_out, found, right=True)
        return given.one_each(50.0 * (below + until).double() / len(self.held_out), "anomaly")

    def log_prob(self, rows: Any) -> Any:
        """Return the log density of every row, in nats.

        Args:
            rows: `[n, D]` in data units.

        Returns:
            `[n]`, in the kind of the rows: `-E` for `loss="composite"`, whose conditionals are normalised by
            quadrature between the training rows' extremes and a quarter of their range beyond; by the probability flow
            for `loss="likelihood"`.

        Raises:
            UnsupportedError: for a model whose normalising constant is unknown.
            TypeError: if the rows are not numbers.
            ValueError: if their columns, shape or values do not fit.

        Example:
            >>> fastssm.load("runs/composite").log_prob(rows)  # doctest: +SKIP
        """
        given = self._read(rows)
        return given.one_each(self._log_prob(given), "log_prob")

    def elbo(self, rows: Any, *, n_times: int = 100, seed: int = 0) -> Any:
        """Return a lower bound of the log density of every row of a diffusion, in nats.

        Args:
            rows: `[n, D]` in data units.
            n_times: number of times at which the bound is estimated.
            seed: of the times and directions.

        Returns:
            `[n]`, in the kind of the rows.

        Raises:
            UnsupportedError: unless the model was trained with `loss="likelihood"`.
            TypeError: if the rows are not numbers.
            ValueError: if their columns, shape or values do not fit.

        Example:
            >>> fastssm.load("runs/diffusion").elbo(rows)  # doctest: +SKIP
        """
        given, sde = self._read(rows), self.options.get("sde")
        if sde is None:
            raise UnsupportedError(f'elbo needs a model of loss "likelihood", and this is of "{self.config.loss}".')
        generator = torch.Generator(self.device).manual_seed(seed)

        def bound(z: Tensor) -> Tensor:
            return elbo(self.net, z, sde=sde, kind=self.kind, n_times=n_times, generator=generator)

        return given.one_each(_numbers(self._over_batches(given, bound) + self.log_det, "elbo"), "elbo")

    def sample(self, n: int, *, steps: int = 1000, seed: int = 0, output: str = "numpy") -> Any:
        """Draw rows from the model.

        A composite model draws coordinate by coordinate, exactly; `loss="likelihood"` runs the reverse of its
        diffusion, the annealed losses Langevin chains from much noise to little; other energies run chains with a
        Metropolis test from a Gaussian; other scores run chains without, whose law is off by an amount of the order of
        their step.

        Args:
            n: number of rows.
            steps: steps of each chain.
            seed: of the random numbers.
            output: "numpy", "pandas" or "torch".

        Returns:
            `[n, D]` in data units.

        Raises:
            ValueError: if an argument is out of range.

        Example:
            >>> fastssm.load("runs/white-wine").sample(1000, output="pandas")  # doctest: +SKIP
        """
        checks.check_count("n", n)
        checks.check_count("steps", steps)
        check_output(output)
        generator = Generator().manual_seed(seed)
        scaled = draw(self, n, steps, generator)
        return made(self.scaler.unscale(scaled.cpu()), output, self.columns)

    def unlikeliness(self, values: Tensor) -> Tensor:
        """Return what `anomaly` ranks rows `[n, D]` in data units by: the energy, or minus the log density."""
        given = Rows(values, values)
        return self._energy(given) if self.kind == "energy" else -self._log_prob(given)

    def _read(self, rows: Any) -> Rows:
        return read_rows(rows, self.columns, self.schema)

    def _energy(self, given: Rows) -> Tensor:
        if self.kind != "energy":
            more = "log_prob and score do" if self.normalised else "score does"
            raise UnsupportedError(f"a score network has no energy; {more} work, or train with kind energy.")
        found = self._over_batches(given, lambda z: self.evaluated(z).reshape(len(z)))
        return _numbers(found - self.log_det, "energy")

    def _log_prob(self, given: Rows) -> Tensor:
        if self.config.loss == "composite":
            return -self._energy(given)
        sde = self.options.get("sde")
        if sde is None:
            raise UnsupportedError(
                f'log_prob needs a normalised model, of loss "composite" or "likelihood"; this one, of loss '
                f'"{self.config.loss}", knows the density up to a constant: use '
                f"{'energy' if self.kind == 'energy' else 'score'}."
            )
        found = self._over_batches(given, lambda z: flow_log_prob(self.net, z, sde=sde, kind=self.kind))
        return _numbers(found + self.log_det, "log_prob")

    def _scaled_score(self, z: Tensor) -> Tensor:
        plain = isinstance(self.net, Autoregressive)  # its quadrature is for autograd
        return score(self.evaluated, z, kind=self.kind, backend="reference" if plain else "auto")

    @torch.no_grad()
    def _over_batches(self, given: Rows, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply a function of scaled rows on the device, and return its results in float64 on the CPU."""
        size = QUADRATURE_ROWS if isinstance(self.net, Autoregressive) else BATCH_ROWS
        scaled = self.scaler.scale(given.values).to(self.dtype)
        parts = [function(part.to(self.device)).double().cpu() for part in torch.split(scaled, size) if len(part)]
        return torch.cat(parts) if parts else function_of_none(self, function)


def function_of_none(model: Model, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the result for no rows, by the shape of the result for one."""
    one = function(torch.zeros(1, model.facts.features, device=model.device, dtype=model.dtype))
    return one[:0].double().cpu()


def _numbers(result: Tensor, name: str) -> Tensor:
    """Return the result; raise if it is NaN for a row."""
    nan = result.isnan()
    bad = (nan if nan.ndim == 1 else nan.any(1)).nonzero()
    if len(bad):
        raise ValueError(
            f"the {name} must be a number for every row, but is NaN in {len(bad)} row(s), first in row "
            f"{int(bad[0])}; such rows lie too far from those that the model was trained on."
        )
    return result
