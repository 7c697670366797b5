"""Energies of images: convolutions, residual blocks, norms, pooling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils import spectral_norm as spectral_norm_by_hook

from tests.nets.net import Net


class Swish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


class SwishCNN(nn.Module):
    """Strided convolutions that halve the image, then a small head."""

    def __init__(self, hidden: int = 4) -> None:
        super().__init__()
        self.cnn_layers = nn.Sequential(
            nn.Conv2d(1, hidden, kernel_size=5, stride=2, padding=4),
            Swish(),
            nn.Conv2d(hidden, hidden * 2, kernel_size=3, stride=2, padding=1),
            Swish(),
            nn.Flatten(),
            nn.Linear(hidden * 2 * 9, hidden * 2),
            Swish(),
            nn.Linear(hidden * 2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.cnn_layers(x).squeeze(dim=-1)


class ResBlock(nn.Module):
    def __init__(self, channels: int, groups: int = 2) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(groups, channels), nn.GroupNorm(groups, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return x + h


class ResNetGroupNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.blocks = nn.ModuleList([ResBlock(4), ResBlock(4)])
        self.fc = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for i, block in enumerate(self.blocks):
            h = block(h)
            if i == 0:
                h = F.avg_pool2d(h, 2)
        return self.fc(h.mean(dim=(2, 3)))


class SpectralResNet(nn.Module):
    """Spectral norm on every layer, average pooling in the skip, a sum over positions at the end."""

    def __init__(self, by_hook: bool) -> None:
        super().__init__()
        normed = spectral_norm_by_hook if by_hook else parametrizations.spectral_norm
        self.conv1 = normed(nn.Conv2d(1, 4, 3, padding=1))
        self.conv2 = normed(nn.Conv2d(4, 4, 3, padding=1))
        self.conv3 = normed(nn.Conv2d(4, 6, 3, padding=1))
        self.skip = normed(nn.Conv2d(4, 6, 1))
        self.energy_map = normed(nn.Linear(6, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.conv1(x))
        h = h + F.silu(self.conv2(h))
        out = F.avg_pool2d(self.conv3(F.silu(h)), 2) + self.skip(F.avg_pool2d(h, 2))
        out = out.view(out.size(0), out.size(1), -1).sum(2)
        return self.energy_map(F.silu(out))


class ConvNeXt(nn.Module):
    """Depthwise convolution, then LayerNorm and linear maps with channels last, and a layer scale."""

    def __init__(self, dim: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, dim, kernel_size=2, stride=2)
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, 2 * dim)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(2 * dim, dim)
        self.gamma = nn.Parameter(0.5 * torch.ones(dim))
        self.head = nn.Linear(dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        shortcut = x
        x = self.dwconv(x).permute(0, 2, 3, 1)
        x = self.gamma * self.pwconv2(self.act(self.pwconv1(self.norm(x))))
        x = shortcut + x.permute(0, 3, 1, 2)
        return self.head(x.flatten(2).mean(-1)).squeeze(1)


class Dilated(nn.Module):
    """Grouped and dilated convolutions with reflected, replicated and circular borders."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, 4, 3, padding=2, dilation=2, groups=2, padding_mode="circular")
        self.b = nn.Conv2d(4, 4, 3, padding=1, groups=4, padding_mode="reflect")
        self.c = nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.softplus(self.a(x))
        h = torch.tanh(self.b(F.pad(h, (1, 1, 0, 0), mode="replicate")))
        return self.c(h).flatten(1).sum(dim=1, keepdim=True)


class DenseBlock(nn.Module):
    """Every layer sees all earlier ones."""

    def __init__(self, growth: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(1 + i * growth, growth, 3, padding=1) for i in range(3))
        self.out = nn.Linear(1 + 3 * growth, 1)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(F.mish(layer(torch.cat(features, 1))))
        return self.out(torch.cat(features, dim=1).mean([2, 3]))


def conv_bn(inp: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inp, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out), nn.SiLU(inplace=True))


class BatchNormCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(conv_bn(1, 4), nn.AvgPool2d(2), conv_bn(4, 4))
        self.classifier = nn.Linear(4 * 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.classifier(x.view(x.shape[0], -1))


class InstanceNormCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.InstanceNorm2d(4, affine=True),
            nn.Softplus(),
            nn.Conv2d(4, 4, 3, padding=1, stride=2),
            nn.InstanceNorm2d(4),
            nn.Softplus(),
        )
        self.out = nn.Conv2d(4, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.main(x)).mean((1, 2, 3))


class SqueezeExcite(nn.Module):
    """Channels weighed by what an adaptive pool sees of the whole image."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, channels, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(nn.Linear(channels, 2), nn.Tanh(), nn.Linear(2, channels), nn.Sigmoid())
        self.last = nn.AdaptiveAvgPool2d((2, 3))
        self.head = nn.Linear(channels * 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.mish(self.conv(x))
        b, c, _, _ = h.size()
        h = h * self.fc(self.pool(h).view(b, c)).view(b, c, 1, 1).expand_as(h)
        return self.head(self.last(h).reshape(b, -1))


class Shuffled(nn.Module):
    """Space to depth and back again."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.PixelUnshuffle(2), nn.PixelShuffle(2)
        self.conv1, self.conv2 = nn.Conv2d(4, 8, 1), nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(torch.tanh(self.conv1(self.down(x))))
        return (self.conv2(h) * x).sum(dim=[1, 2, 3]) + 0.5 * x.pow(2).flatten(1).sum(-1)


class MaxPooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(F.softplus(self.conv1(x)), 2)
        h = F.softplus(self.conv2(h))
        return self.fc(torch.amax(h, dim=(-2, -1)))


class Volume(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv3d(1, 3, 3, padding=1), nn.SiLU(), nn.AvgPool3d((1, 2, 2)), nn.Conv3d(3, 2, (2, 1, 1)), nn.SiLU()
        )
        self.out = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.net(x).mean(dim=2).flatten(start_dim=1))


class AutoencoderEnergy(nn.Module):
    """The error of a reconstruction is the energy."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.SiLU(), nn.Conv2d(4, 3, 2))
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(3, 4, 2), nn.SiLU(), nn.ConvTranspose2d(4, 1, 3, stride=2, padding=1, output_padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.mse_loss(self.decoder(self.encoder(x)), x, reduction="none").sum(dim=(1, 2, 3))


class MultiScale(nn.Module):
    """The sum of the energies of an image and of its halves."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.ModuleDict({name: nn.Conv2d(1, 3, 3, padding=1) for name in ("fine", "middle", "coarse")})
        self.downsample = nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)
        self.weight = nn.ParameterList([nn.Parameter(torch.randn(3)) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        energy = x.new_zeros(x.shape[0])
        for (_, conv), weight in zip(self.scales.items(), self.weight, strict=True):
            energy = energy + torch.einsum("bchw,c->b", F.silu(conv(x)), weight)
            x = self.downsample(x)
        return energy


class WeightNormed(nn.Module):
    """Weight norm by parametrization, LayerNorm over the whole feature map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = parametrizations.weight_norm(nn.Conv2d(1, 4, 3, padding=1))
        self.norm = nn.LayerNorm([4, 4, 4])
        self.conv2 = parametrizations.weight_norm(nn.Conv2d(4, 4, 4))
        self.fc = parametrizations.weight_norm(nn.Linear(4, 1), dim=None)

    def forward(self, x: Tensor) -> Tensor:
        h = F.gelu(self.norm(self.conv1(x)), approximate="tanh")
        return self.fc(torch.tanh(self.conv2(h)).squeeze(-1).squeeze(-1))


class FourierLayer(nn.Module):
    """A product in Fourier space for the low modes, next to a pointwise map."""

    def __init__(self, width: int = 3, modes: int = 2) -> None:
        super().__init__()
        self.modes, self.width = modes, width
        self.lift = nn.Conv2d(1, width, 1)
        self.weights = nn.Parameter(torch.rand(width, width, modes, modes, 2) / width)
        self.w = nn.Conv2d(width, width, 1)
        self.proj = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.lift(x)
        h_ft = torch.fft.rfft2(h)
        out_ft = torch.zeros_like(h_ft)
        low = h_ft[:, :, : self.modes, : self.modes]
        out_ft[:, :, : self.modes, : self.modes] = torch.einsum(
            "bixy,ioxy->boxy", low, torch.view_as_complex(self.weights)
        )
        h = F.gelu(torch.fft.irfft2(out_ft, s=h.shape[-2:]) + self.w(h))
        return self.proj(h).mean(dim=(1, 2, 3))


def net(name: str, build: object, shape: tuple[int, ...], **options: object) -> Net:
    return Net(name, "images", build, shape, **options)


NETS = [
    net("swish-cnn", SwishCNN, (1, 8, 6)),
    net("resnet-group-norm", ResNetGroupNorm, (2, 4, 4)),
    net("resnet-spectral-norm", lambda: SpectralResNet(False), (1, 4, 4), settle=3, train=False),
    net("resnet-spectral-norm-training", lambda: SpectralResNet(False), (1, 4, 4), settle=100),
    net("resnet-spectral-norm-hooks", lambda: SpectralResNet(True), (1, 4, 4), settle=3, train=False),
    net("convnext", ConvNeXt, (1, 6, 6)),
    net("grouped-dilated", Dilated, (2, 4, 4)),
    net("densenet", DenseBlock, (1, 4, 4)),
    net("cnn-batch-norm", BatchNormCNN, (1, 4, 4), settle=3, train=False),
    net("cnn-batch-norm-training", BatchNormCNN, (1, 4, 4), coupled=True),
    net("cnn-instance-norm", InstanceNormCNN, (1, 4, 4)),
    net("squeeze-excite", SqueezeExcite, (1, 4, 6)),
    net("pixel-shuffle", Shuffled, (1, 4, 4)),
    net("max-pool", MaxPooled, (1, 4, 4), step=3e-3),
    net("conv3d", Volume, (1, 3, 4, 2)),
    net("autoencoder", AutoencoderEnergy, (1, 4, 4)),
    net("multi-scale", MultiScale, (1, 5, 5)),
    net("weight-norm", WeightNormed, (1, 4, 4)),
    net("fourier-operator", FourierLayer, (1, 6, 4)),
]
