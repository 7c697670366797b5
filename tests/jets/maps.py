"""Other linear functions: sums, differences, Fourier transforms, pooling, interpolation, types of numbers."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.jets.case import DTYPE, Case, curved, each, grid, one

fft = torch.fft


def _sums(x: Tensor) -> tuple[Tensor, ...]:
    h = grid(x)
    return (
        h.sum(1),
        h.sum(-1, keepdim=True),
        h.sum((1, 2)),
        h.sum((-1, 1), keepdim=True).sin(),
        h.mean(-2),
        h.mean(1, keepdim=True),
        h.mean((1, -1)),
        h.nansum(2),
        torch.sum(h, dim=-2).sin(),
        each(h, torch.sum),
        each(h, torch.mean),
    )


def _differences(x: Tensor) -> tuple[Tensor, ...]:
    h = curved(x)
    steps = torch.tensor([0.0, 0.5, 1.5, 2.0, 3.5, 4.0], dtype=DTYPE)
    return (
        h.cumsum(1),
        h.cumsum(-1).sin(),
        h.diff(dim=1),
        h.diff(2, -1),
        torch.trapezoid(h, dim=1),
        torch.trapz(h, steps, dim=-1),
        torch.cumulative_trapezoid(h, dim=1),
        torch.trapezoid(h, dx=0.3, dim=-1).sin(),
    )


def _transforms(x: Tensor) -> tuple[Tensor, ...]:
    """Complex values between, a real number of every one."""
    h = curved(x)
    line = [fft.fft(h), fft.ifft(h), fft.rfft(h), fft.ihfft(h), fft.fftshift(h, 1), fft.ifftshift(h, -1)]
    line += [fft.hfft(fft.rfft(h), 5), fft.irfft(fft.rfft(h) * 1.5, n=6), fft.irfft(fft.rfft(h, norm="ortho"), 5)]
    return tuple(line)


def _transforms_of_planes(x: Tensor) -> tuple[Tensor, ...]:
    h = grid(x)
    planes = [
        fft.fft2(h),
        fft.ifft2(h),
        fft.rfft2(h),
        fft.irfft2(fft.rfft2(h)),
        fft.fftn(h, dim=(1, 2)),
        fft.rfftn(h, dim=(1, 2)),
    ]
    return (*planes, fft.ifftn(h, dim=(1, 2)), fft.irfftn(fft.rfftn(h, dim=(1, 2)), s=(2, 3), dim=(1, 2)))


def _spectral(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    """A filter with complex weights, and powers of a spectrum."""
    spectrum = fft.rfft(curved(x))
    filtered = spectrum * torch.view_as_complex(w)
    power = spectrum.real.square() + torch.imag(spectrum) ** 2 + torch.real(filtered) * filtered.imag
    return (
        fft.irfft(filtered, n=6),
        power,
        (spectrum * spectrum.conj()).real,
        filtered.conj().resolve_conj(),
        filtered.abs(),
    )


def _pooled(dimensions: int) -> Callable[[Tensor], tuple[Tensor, ...]]:
    average, adaptive = getattr(F, f"avg_pool{dimensions}d"), getattr(F, f"adaptive_avg_pool{dimensions}d")
    return lambda x: (
        average(curved(x), 2),
        average(x.sin(), 3, stride=1, padding=1),
        adaptive(curved(x), 1),
        adaptive(x.cos(), 3),
    )


def _resized(x: Tensor) -> tuple[Tensor, ...]:
    h = curved(x)
    return (
        F.interpolate(h, scale_factor=2),
        F.interpolate(h, size=(5, 3), mode="bilinear", align_corners=False),
        F.interpolate(h, scale_factor=1.5, mode="bicubic"),
        F.upsample(h, scale_factor=2),
        F.interpolate(h, 2, mode="area"),
    )


def _padded(x: Tensor) -> tuple[Tensor, ...]:
    h = curved(x)
    around = [F.pad(h, (1, 2, 0, 1), mode) for mode in ("reflect", "replicate", "circular")]
    return F.pad(h, (1, 2)), F.pad(h, (1, 0, 0, 2), value=0.7), *around


def _shuffled(x: Tensor) -> tuple[Tensor, ...]:
    h = curved(x)
    return F.pixel_shuffle(h, 2), F.pixel_unshuffle(h, 2), F.channel_shuffle(h, 2)


def _laid_out(x: Tensor) -> Tensor:
    h = curved(x).contiguous(memory_format=torch.channels_last).to(memory_format=torch.channels_last)
    return h.clone(memory_format=torch.channels_last) * x


CASES: list[Case] = [
    one("sums", _sums),
    one("differences", _differences),
    one("transforms", _transforms),
    one("transforms of planes", _transforms_of_planes),
    one("spectral", _spectral, (4, 2)),
    *(one(f"pooled {d}d", _pooled(d), shape=(2, *[4] * d)) for d in (1, 2, 3)),
    one("pooled sample", lambda x: each(x, lambda image: F.avg_pool2d(curved(image), 2)), shape=(2, 4, 4)),
    one("resized", _resized, shape=(2, 3, 3)),
    one("resized sequence", lambda x: F.interpolate(curved(x), size=7, mode="linear"), shape=(2, 4)),
    one("laid out", _laid_out, shape=(2, 3, 3)),
    one("padded", _padded, shape=(2, 3, 4)),
    one("shuffled", _shuffled, shape=(4, 2, 2)),
    one("fold unfold", lambda x: F.fold(F.unfold(curved(x), 2), (3, 3), 2), shape=(2, 3, 3)),
    one("to", lambda x: curved(x).to(torch.float64).type_as(x).double() + x.to(x) + x.to("cpu")),
    one("float", lambda x: curved(x).float().double() * x, rtol=1e-6),
    one("half", lambda x: curved(x).half().double() * x, rtol=2e-2),
    one("bfloat16", lambda x: curved(x).bfloat16().double() * x, rtol=2e-2),
]
