"""Sparse graphs: the minima of the loss with an l1 penalty on the interactions, for many penalties."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastssm import checks
from fastssm.graphical.descent import Problem
from fastssm.graphical.quadratics import Quadratic


@dataclass(frozen=True)
class Graph:
    """One graph of a path, refitted without penalty and multiplier.

    Attributes:
        k: the matrix of interactions, `[m, m]`.
        eta: the linear part, `[m]`.
        edges: which interactions differ from zero, bool `[m, m]`, false on the diagonal.
        penalty: the penalty that chose the edges.
        ebic: the criterion.
    """

    k: Tensor
    eta: Tensor
    edges: Tensor
    penalty: float
    ebic: float


@dataclass(frozen=True)
class Path:
    """The minima for a sequence of penalties.

    Attributes:
        quadratic: the loss.
        penalties: `[L]`, falling.
        theta: the parameters, `[L, P]`.
    """

    quadratic: Quadratic
    penalties: Tensor
    theta: Tensor

    @property
    def edges(self) -> Tensor:
        """Which interactions differ from zero, bool `[L, m, m]`, false on the diagonal."""
        return self.quadratic.split(self.theta)[0].ne(0) & ~torch.eye(
            self._variables, dtype=torch.bool, device=self.theta.device
        )

    @property
    def _variables(self) -> int:
        return self.quadratic.family.variables(self.quadratic.dim)

    def refit(self) -> Tensor:
        """Return the minima without penalty on the edges of each graph, `[L, P]`; NaN where there is none."""
        rows = []
        for theta in self.theta:
            try:
                rows.append(self.quadratic.solve(_support(self.quadratic, theta)))
            except ValueError:  # Gamma is singular on these edges
                rows.append(torch.full_like(theta, math.nan))
        return torch.stack(rows)

    def ebic(self, gamma: float = 0.5) -> Tensor:
        r"""Return the extended Bayesian information criterion of each graph, `[L]`.

        `2 n J(refit) + |E| log n + 2 gamma log C(m (m - 1) / 2, |E|)` for n rows, m variables and `|E|` edges; infinite
        where the refit has no minimum. `gamma=0` is the BIC.

        Args:
            gamma: a number of at least 0.

        Raises:
            ValueError: if gamma is negative or not finite.

        Source: Chen and Chen 2008, "Extended Bayesian information criteria for model selection with large model
            spaces"; for score matching: Yu, Drton, Shojaie 2019, "Generalized score matching
            for non-negative data".
        """
        if not 0 <= gamma < math.inf:
            raise ValueError(f"gamma of the criterion must be finite and at least 0, got {gamma}.")
        count, most = self.edges.sum((1, 2)).double() / 2, self._variables * (self._variables - 1) / 2
        choices = math.lgamma(most + 1) - torch.lgamma(count + 1) - torch.lgamma(most - count + 1)
        loss = self.quadratic.loss(self.refit()).nan_to_num(math.inf)
        return 2 * self.quadratic.rows * loss + count * math.log(self.quadratic.rows) + 2 * gamma * choices

    def best(self, gamma: float = 0.5) -> Graph:
        """Return the graph with the least `ebic`.

        Args:
            gamma: as of `ebic`.

        Raises:
            ValueError: if gamma is negative or not finite, or no graph can be refitted.
        """
        criteria = self.ebic(gamma)
        least = int(criteria.argmin())
        if not bool(criteria[least].isfinite()):
            raise ValueError("no graph of the path can be refitted without a penalty; pass more rows.")
        k, eta = self.quadratic.split(self.quadratic.solve(_support(self.quadratic, self.theta[least])))
        return Graph(k, eta, self.edges[least], float(self.penalties[least]), float(criteria[least]))


def multiplier(rows: int, variables: int) -> float:
    """Return the factor of Gamma's diagonal that makes the l1 path exist with high probability for few rows.

    `2 - 1 / (1 + 4 e max(6 log m / n, sqrt(6 log m / n)))`, between 1 and 2; it tends to 1 as n grows.

    Args:
        rows: n.
        variables: m.

    Raises:
        TypeError: if an argument is not an integer.
        ValueError: if an argument is not positive.

    Example:
        >>> round(multiplier(80, 100), 3)
        1.865

    Source: Yu, Drton, Shojaie 2019, "Generalized score matching for non-negative data", in the form of their package
        genscore.
    """
    checks.check_count("rows", rows)
    checks.check_count("variables", variables)
    ratio = 6 * math.log(variables) / rows
    return 2 - 1 / (1 + 4 * math.e * max(ratio, math.sqrt(ratio)))


def path(
    quadratic: Quadratic,
    *,
    penalties: Sequence[float] | Tensor | None = None,
    count: int = 50,
    smallest: float = 1e-3,
    diagonal: float = 1.0,
) -> Path:
    r"""Return the minima of the loss with an l1 penalty on the interactions, by coordinate descent.

    `J(theta) + penalty sum_{i != j} |K_ij|`, with the diagonal of Gamma that belongs to K multiplied by `diagonal`. The
    diagonal of K and eta are not penalised. Each minimum begins at that of the penalty before. Every one satisfies the
    optimality conditions to 1e-10 of the largest entry of g.

    Args:
        quadratic: the loss, from `fastssm.graphical.quadratic`.
        penalties: positive numbers; by default `count` of them, evenly spaced in the logarithm, from the least that
            leaves no edge to `smallest` times it.
        count: number of penalties.
        smallest: ratio of the last to the first.
        diagonal: a number of at least 1. With fewer rows than parameters Gamma is singular, and the penalised loss may
            have no minimum; `multiplier(rows, variables)` of Yu et al. makes it exist.

    Returns:
        A `Path`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a number is out of range, the family has no interactions, or Gamma is singular.

    Example:
        >>> x = torch.randn(500, 4) @ torch.tensor([[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
        >>> graph = path(fastssm.graphical.quadratic(x)).best()
        >>> bool(graph.edges[0, 1]), graph.k.shape
        (True, torch.Size([4, 4]))

    Source: Lin, Drton, Shojaie 2016, "Estimation of high-dimensional graphical models using regularized score
        matching"; Yu, Drton, Shojaie 2019, "Generalized score matching for non-negative data" (the multiplier).
    """
    if not isinstance(quadratic, Quadratic):
        raise TypeError(f"quadratic must come from fastssm.graphical.quadratic, got {type(quadratic).__name__}.")
    checks.check_count("count", count)
    if not 1 <= diagonal < math.inf or not 0 < smallest < 1:
        raise ValueError(f"diagonal must be at least 1 and smallest in (0, 1), got {diagonal} and {smallest}.")
    off = quadratic.family.off_diagonal(quadratic.dim)
    if not bool(off.any()):
        raise ValueError("the family must have interactions of two variables; use quadratic.solve() instead.")
    gamma, g = quadratic.gamma.cpu().clone(), quadratic.g.cpu()
    of_k = torch.arange(len(g)) < len(g) - quadratic.family.linear * quadratic.family.variables(quadratic.dim)
    gamma.diagonal()[of_k] *= diagonal
    if int(torch.linalg.cholesky_ex(gamma).info):
        raise ValueError(
            f"Gamma of {len(g)} parameters from {quadratic.rows} row(s) must not be singular; pass more rows, or "
            "diagonal=fastssm.graphical.multiplier(rows, variables)."
        )
    problem = Problem(gamma.numpy(), g.numpy(), off.numpy())
    falling = _spaced(problem.first() / 2, count, smallest) if penalties is None else _checked(penalties)
    theta = torch.stack([torch.from_numpy(found) for found in problem.minima((2 * falling).numpy())])
    return Path(quadratic, falling.to(quadratic.g), theta.to(quadratic.g))


def _spaced(first: float, count: int, smallest: float) -> Tensor:
    return first * smallest ** torch.linspace(0, 1, count, dtype=torch.float64)


def _checked(penalties: Sequence[float] | Tensor) -> Tensor:
    """Return penalties in falling order."""
    found = torch.as_tensor(penalties, dtype=torch.float64).cpu()
    if found.ndim != 1 or not len(found) or not bool(((found > 0) & found.isfinite()).all()):
        raise ValueError(f"penalties must be positive finite numbers, [L], got {penalties}.")
    return found.sort(descending=True).values


def _support(quadratic: Quadratic, theta: Tensor) -> Tensor:
    """Return the parameters that a graph leaves free: its edges, the diagonal of K and eta."""
    return theta.ne(0) | ~quadratic.family.off_diagonal(quadratic.dim).to(theta.device)
