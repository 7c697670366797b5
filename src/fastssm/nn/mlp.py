"""Networks that the fused engines know: `MLP` with residual blocks and conditioning, `Sin`, Fourier time features."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fastssm.activations import BY_NAME

CONDITIONINGS = ("concat", "film", "additive")


class Sin(nn.Module):
    """The activation `sin(omega z)` of sinusoidal networks.

    Args:
        omega: angular frequency.

    Example:
        >>> Sin(30.0)(torch.zeros(2))
        tensor([0., 0.])

    Source: Sitzmann et al. 2020, "Implicit neural representations with periodic activation functions".
    """

    def __init__(self, omega: float = 1.0) -> None:
        super().__init__()
        self.omega = float(omega)

    def forward(self, z: Tensor) -> Tensor:
        """Return `sin(omega z)`."""
        return torch.sin(self.omega * z)

    def extra_repr(self) -> str:
        """Show the frequency."""
        return f"omega={self.omega:g}"


class FourierFeatures(nn.Module):
    """Random Fourier features of a scalar time: `[sin(2 pi w t), cos(2 pi w t)]`, `w ~ N(0, scale^2)` fixed.

    Args:
        features: width of the output, even.
        scale: standard deviation of the frequencies, in cycles per unit of time.

    Example:
        >>> FourierFeatures(8)(torch.rand(5)).shape
        torch.Size([5, 8])

    Source: Tancik et al. 2020; used for time in Song et al. 2021.
    """

    frequencies: Tensor

    def __init__(self, features: int = 32, scale: float = 4.0) -> None:
        super().__init__()
        if features < 2 or features % 2:
            raise ValueError(f"features must be even and at least 2, got {features}; sines and cosines come in pairs.")
        self.register_buffer("frequencies", torch.randn(features // 2) * scale)

    def forward(self, t: Tensor) -> Tensor:
        """Return the features `[B, features]` of times `[B]` or `[B, 1]`."""
        angles = t.reshape(-1, 1) * self.frequencies * (2.0 * math.pi)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class MLP(nn.Module):
    """A multilayer perceptron that every fastssm engine runs, for energies (`out_features=1`) and scores (`= D`).

    `z_l = W_l h_{l-1} + b_l`, modulated to `scale_l * z_l + shift_l` under FiLM, `h_l = f(z_l) (+ h_{l-1})`.

    Args:
        in_features: D, the number of data coordinates.
        widths: hidden widths.
        out_features: 1 for an energy `E` (`log p = -E + const`), D for a score.
        activation: a name of the activation table (`softplus`, `tanh`, `silu`, ...) or a function returning a module.
        residual: add `h_{l-1}` to `h_l` where two neighbouring hidden widths are equal.
        cond_dim: number of conditioning features, 0 for none.
        conditioning: "concat" (extra input columns), "film" (scale and shift of every hidden layer) or "additive"
            (shift only); the last two through a small embedding network.
        fourier_time: the last argument after `x` is a time `[B]` or `[B, 1]`, seen through random Fourier features.

    Shape:
        `x` is `[B, ...]` with D values per sample, each further argument `[B, ...]`; the output is `[B, out_features]`.

    Raises:
        ValueError: for sizes below one, unknown names, or a conditioning that nothing feeds.

    Example:
        >>> energy = MLP(2, [64, 64])
        >>> energy(torch.zeros(5, 2)).shape
        torch.Size([5, 1])

    Source: FiLM: Perez et al. 2018.
    """

    def __init__(
        self,
        in_features: int,
        widths: Sequence[int],
        out_features: int = 1,
        activation: str | Callable[[], nn.Module] = "softplus",
        *,
        residual: bool = False,
        cond_dim: int = 0,
        conditioning: str = "concat",
        fourier_time: bool = False,
    ) -> None:
        super().__init__()
        widths = check_sizes(widths, in_features=in_features, out_features=out_features)
        check_sizes([], least=0, cond_dim=cond_dim)
        _check_conditioning(conditioning, cond_dim > 0 or fourier_time, bool(widths))
        self.residual, self.cond_dim, self.conditioning = residual, cond_dim, conditioning
        self.time = FourierFeatures() if fourier_time else None
        self.cond_features = cond_dim + (2 * self.time.frequencies.numel() if self.time is not None else 0)
        modulated = self.cond_features > 0 and conditioning != "concat"
        first = in_features + (0 if modulated else self.cond_features)
        sizes = [first, *widths]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, widths, strict=False))
        self.activations = nn.ModuleList(make_activation(activation) for _ in widths)
        self.readout = nn.Linear(sizes[-1], out_features)
        self.modulation = self._modulation(widths) if modulated else None

    def _modulation(self, widths: list[int]) -> nn.Sequential:
        outputs = sum(widths) * (2 if self.conditioning == "film" else 1)
        last = nn.Linear(64, outputs)
        nn.init.zeros_(last.weight)  # start unconditioned: scale 1, shift 0
        nn.init.zeros_(last.bias)
        return nn.Sequential(nn.Linear(self.cond_features, 64), nn.SiLU(), last)

    def features(self, *cond: Tensor | None) -> Tensor | None:
        """Return the conditioning features `[B, cond_features]` of the arguments after `x`, None without any."""
        given = self.check_cond(cond)
        if not given:
            return None
        columns = [c if c.ndim == 2 else c.reshape(c.shape[0], math.prod(c.shape[1:])) for c in given]
        if self.time is not None:
            columns[-1] = self.time(given[-1])
        return columns[0] if len(columns) == 1 else torch.cat(columns, dim=1)

    def check_cond(self, cond: Sequence[Tensor | None]) -> list[Tensor]:
        """Return the arguments that follow `x`, and raise ValueError unless they are what the network takes."""
        expected = (self.cond_dim > 0) + (self.time is not None)
        if len(cond) != expected:
            raise ValueError(
                f"the network takes {expected} conditioning argument(s) after x, got {len(cond)}; pass as many, "
                "model(x, *cond), or cond=(...) to a loss."
            )
        given = [c for c in cond if c is not None]
        if len(given) != len(cond):
            raise ValueError(
                f"the network takes a tensor for each conditioning argument, got None at position {cond.index(None)}; "
                "pass the tensor."
            )
        if any(c.ndim == 0 for c in given):
            raise ValueError("cond must have one row per sample, got shape (); use c.expand(len(x), 1).")
        if self.cond_dim > 0 and math.prod(given[0].shape[1:]) != self.cond_dim:
            raise ValueError(
                f"cond must have {self.cond_dim} features per sample, got shape {tuple(given[0].shape)}; build the "
                "network with the cond_dim of your data."
            )
        if self.time is not None and math.prod(given[-1].shape[1:]) != 1:
            raise ValueError(
                f"time must be [B] or [B, 1], got shape {tuple(given[-1].shape)}; pass it as the last argument after x."
            )
        return given

    def modulations(self, features: Tensor) -> list[tuple[Tensor | None, Tensor | None]]:
        """Return `(scale, shift)` of every hidden layer, each `[B, width]` or None."""
        if self.modulation is None:
            return [(None, None)] * len(self.hidden)
        widths = [layer.out_features for layer in self.linears]
        out = self.modulation(features)
        if self.conditioning == "additive":
            return [(None, shift) for shift in out.split(widths, dim=1)]
        pieces = out.split([w for width in widths for w in (width, width)], dim=1)
        return [(1.0 + scale, shift) for scale, shift in zip(pieces[::2], pieces[1::2], strict=True)]

    @torch.no_grad()
    def at(self, *cond: Tensor) -> MLP:
        """Return the network of `x` alone for conditioning arguments that all samples share.

        A constant conditioning only moves the biases and scales the weights, so nothing is lost: the copy is recognised
        and evaluated like any other.

        Args:
            cond: the arguments that follow `x`, one row each, `[1, ...]`.

        Returns:
            A new `MLP` without conditioning, with its own weights.

        Raises:
            ValueError: unless these are the arguments that follow `x`, one row each.

        Example:
            >>> net = MLP(2, [8, 8], cond_dim=1)
            >>> x = torch.randn(5, 2)
            >>> torch.allclose(net.at(torch.ones(1, 1))(x), net(x, torch.ones(5, 1)), atol=1e-6)
            True
        """
        features = self.features(*cond)
        plain = copy.deepcopy(self)
        if features is None:
            return plain
        if len(features) != 1:
            raise ValueError(f"conditioning that all samples share must have one row, got {len(features)}.")
        plain.cond_dim, plain.cond_features, plain.conditioning = 0, 0, "concat"
        plain.time, plain.modulation = None, None
        plain.hidden, plain.readout = nn.ModuleList(map(_copied, self.linears)), _copied(self.readout)
        if self.modulation is None:
            _fold_columns(plain.linears[0] if plain.linears else plain.readout, features[0])
        for linear, (scale, shift) in zip(plain.linears, self.modulations(features), strict=True):
            _fold_modulation(linear, scale, shift)
        return plain

    @property
    def linears(self) -> list[nn.Linear]:
        """The hidden affine maps, first to last."""
        return list(self.hidden)  # type: ignore[arg-type]

    def skips(self, layer: int) -> bool:
        """Return whether hidden layer `layer` adds its input to its output."""
        linear = self.linears[layer]
        return self.residual and layer > 0 and linear.in_features == linear.out_features

    def forward(self, x: Tensor, *cond: Tensor) -> Tensor:
        """Return the energy `[B, 1]` or score `[B, D]` at `x`, given the conditioning arguments.

        They have one row per sample, or one row for all; a time may be a scalar.
        """
        h = x.reshape(x.shape[0], math.prod(x.shape[1:]))
        features = self.features(*(repeated(c, x) for c in cond))
        modulations: list[tuple[Tensor | None, Tensor | None]] = [(None, None)] * len(self.hidden)
        if features is not None and self.modulation is not None:
            modulations = self.modulations(features)
        elif features is not None:
            h = torch.cat([h, features], dim=1)
        for index, (linear, activation) in enumerate(zip(self.hidden, self.activations, strict=True)):
            scale, shift = modulations[index]
            z = linear(h)
            z = z if scale is None else scale * z
            z = z if shift is None else z + shift
            h = activation(z) + h if self.skips(index) else activation(z)
        out: Tensor = self.readout(h)
        return out


def repeated(c: Tensor | None, x: Tensor) -> Tensor | None:
    """Return a conditioning argument that all samples share with one row for each of them; others as they are."""
    if c is None or (c.ndim and c.shape[0] != 1) or c.shape[:1] == x.shape[:1]:
        return c
    return c.to(x.device).expand(x.shape[0]) if c.ndim == 0 else c.expand(x.shape[0], *c.shape[1:])


def _copied(linear: nn.Linear) -> nn.Linear:
    """Return a plain layer with the same weights: a copied parametrization cannot be removed safely."""
    weight = linear.weight
    options = {"device": weight.device, "dtype": weight.dtype}
    plain: nn.Linear = nn.utils.skip_init(nn.Linear, *weight.shape[::-1], **options)  # type: ignore[no-untyped-call]
    plain.weight.copy_(weight)
    plain.bias.copy_(linear.bias)
    return plain


def _fold_columns(linear: nn.Linear, columns: Tensor) -> None:
    """Move constant last columns of an affine map's input into its bias."""
    count = linear.in_features - len(columns)
    linear.bias.add_(linear.weight[:, count:] @ columns)
    linear.weight = nn.Parameter(linear.weight[:, :count].clone())
    linear.in_features = count


def _fold_modulation(linear: nn.Linear, scale: Tensor | None, shift: Tensor | None) -> None:
    """Multiply an affine map's outputs by a constant row of scales, and add a row of shifts."""
    if scale is not None:
        linear.weight.mul_(scale[0][:, None])
        linear.bias.mul_(scale[0])
    if shift is not None:
        linear.bias.add_(shift[0])


def check_sizes(widths: Sequence[int], *, least: int = 1, **others: int) -> list[int]:
    """Return the widths as a list; raise unless they are positive integers and the others integers from `least` on."""
    if not isinstance(widths, Sequence):
        raise TypeError(f"widths must be a list of integers, got {type(widths).__name__}; for one layer use [8].")
    for size in (*widths, *others.values()):
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"every size must be an integer, got {size!r} of type {type(size).__name__}.")
    if min(widths, default=1) < 1 or min(others.values()) < least:
        named = ", ".join(f"{name}={size}" for name, size in others.items())
        raise ValueError(
            f"every size must be {'positive' if least else 'at least 0'}, got widths={list(widths)}, {named}."
        )
    return list(widths)


def _check_conditioning(conditioning: str, fed: bool, hidden: bool) -> None:
    """Raise ValueError unless a conditioning is known, something feeds it, and it has layers to act on."""
    if conditioning not in CONDITIONINGS:
        raise ValueError(f"conditioning must be one of {', '.join(CONDITIONINGS)}, got {conditioning!r}.")
    if conditioning != "concat" and not fed:
        raise ValueError(f'conditioning="{conditioning}" has no input; pass cond_dim=C or fourier_time=True too.')
    if conditioning != "concat" and not hidden:
        raise ValueError(f'conditioning="{conditioning}" modulates hidden layers, got none; use conditioning="concat".')


def make_activation(activation: str | Callable[[], nn.Module]) -> nn.Module:
    """Build the module of an activation given by its name in the table, or by a function that returns a module.

    Raises:
        TypeError: for a module, which the layers would share.
        ValueError: when no row of the table has the name.
    """
    if isinstance(activation, nn.Module):
        raise TypeError(
            f"activation must be a name or a function that returns a module, got the module {activation}; pass its "
            "class, so that every layer gets its own."
        )
    if callable(activation):
        return activation()
    if activation not in BY_NAME:
        raise ValueError(f"activation must be one of {', '.join(BY_NAME)}, or a function, got {activation!r}.")
    row = BY_NAME[activation]
    return module_class(row.module)(**dict(row.matches))


def module_class(name: str) -> type[nn.Module]:
    """Return the class of `torch.nn`, or of this module, that a row of the activation table names."""
    found: type[nn.Module] = globals()[name] if name == "Sin" else getattr(nn, name)
    return found
