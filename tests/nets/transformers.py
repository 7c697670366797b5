"""Attention over particles, tokens and columns, in the forms in which it is written."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.nets.net import Net, times


class EinsumAttention(nn.Module):
    """Heads by views and einsum, LayerNorm before, a GELU network after."""

    def __init__(self, dim: int = 3, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.embed, self.norm1, self.norm2 = nn.Linear(dim, width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_qkv, self.to_out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.ff = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.0), nn.Linear(2 * width, width))
        self.energy = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        b, n, _ = h.shape
        qkv = self.to_qkv(self.norm1(h)).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        attn = (torch.einsum("bhid,bhjd->bhij", q, k) * self.scale).softmax(dim=-1)
        out = torch.einsum("bhij,bhjd->bhid", attn, v).transpose(1, 2).contiguous().view(b, n, -1)
        h = h + self.to_out(out)
        h = h + self.ff(self.norm2(h))
        return self.energy(h).mean(dim=1)


class CausalAttention(nn.Module):
    """`scaled_dot_product_attention`, causal, with learned positions."""

    def __init__(self, length: int = 4, width: int = 8) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Linear(2, width), nn.Embedding(length, width)
        self.ln_1, self.ln_f = nn.LayerNorm(width), nn.LayerNorm(width, bias=False)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.head, self.n_head = nn.Linear(width, 1, bias=False), 2

    def forward(self, x: Tensor) -> Tensor:
        B, T, _ = x.size()
        h = self.wte(x) + self.wpe(torch.arange(T, device=x.device))
        q, k, v = self.c_attn(self.ln_1(h)).split(h.size(-1), dim=2)
        q, k, v = (t.view(B, T, self.n_head, -1).transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=True)
        h = h + self.c_proj(y.transpose(1, 2).contiguous().view(B, T, -1))
        return self.head(self.ln_f(h)).sum(1).squeeze(-1)


class MaskedAttention(nn.Module):
    """`scaled_dot_product_attention` with a mask of who sees whom and a bias that falls with the distance."""

    def __init__(self, n: int = 5, width: int = 6) -> None:
        super().__init__()
        place = torch.arange(n)
        distance = (place[:, None] - place).abs()
        self.register_buffer("window", distance <= 2)
        self.register_buffer("bias", (-0.3 * distance).float())
        self.q, self.kv, self.out = nn.Linear(2, width), nn.Linear(2, 2 * width), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, (k, v) = self.q(x), self.kv(x).chunk(2, -1)
        near = F.scaled_dot_product_attention(q, k, v, attn_mask=self.window)
        far = F.scaled_dot_product_attention(q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1), attn_mask=self.bias)
        return self.out(F.silu(near + far.squeeze(1))).sum((1, 2))


class MultiheadEnergy(nn.Module):
    """`nn.MultiheadAttention` onto learned seeds, with one particle masked out."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.proj = nn.Linear(2, width)
        self.seeds = nn.Parameter(torch.randn(1, 2, width))
        self.pool = nn.MultiheadAttention(width, num_heads=2, batch_first=True)
        self.norm, self.fc = nn.LayerNorm(width), nn.Linear(2 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.proj(x))
        padding = torch.zeros(x.shape[:2], dtype=torch.bool)
        padding[:, -1] = True
        pooled, _ = self.pool(self.seeds.expand(len(x), -1, -1), h, h, key_padding_mask=padding)
        return self.fc(self.norm(pooled).flatten(1)) + 0.5 * x[:, -1].square().sum(1, keepdim=True)


class Encoder(nn.Module):
    """`nn.TransformerEncoder` with a class token."""

    def __init__(self, norm_first: bool, activation: str = "gelu", width: int = 8) -> None:
        super().__init__()
        self.embed, self.cls = nn.Linear(2, width), nn.Parameter(torch.zeros(1, 1, width))
        layer = nn.TransformerEncoderLayer(
            width, 2, dim_feedforward=12, dropout=0.0, activation=activation, batch_first=True, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.cls.repeat(x.shape[0], 1, 1), self.embed(x)], dim=1)
        return self.head(self.encoder(tokens)[:, 0])


class EncoderScore(nn.Module):
    """Length first, positions in sines and cosines, a mask of future steps."""

    def __init__(self, length: int = 4, width: int = 8) -> None:
        super().__init__()
        place = torch.arange(length)[:, None] * torch.exp(-torch.arange(0, width, 2) * math.log(100.0) / width)
        self.register_buffer("pe", torch.stack([place.sin(), place.cos()], -1).flatten(1)[:, None])
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length))
        self.layer = nn.TransformerEncoderLayer(width, nhead=2, dim_feedforward=16, dropout=0.0)
        self.inp, self.out = nn.Linear(2, width), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inp(x.transpose(0, 1)) + self.pe
        return self.out(self.layer(h, src_mask=self.mask)).transpose(0, 1)


class RotaryBlock(nn.Module):
    """RMSNorm, rotary positions, grouped keys, SwiGLU: the block of large language models."""

    def __init__(self, dim: int = 2, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, width // heads
        self.tok, self.attention_norm, self.ffn_norm = nn.Linear(dim, width), nn.RMSNorm(width), nn.RMSNorm(width)
        self.wq, self.wo = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.wk, self.wv = (nn.Linear(width, self.head_dim, bias=False) for _ in range(2))
        self.w1, self.w2, self.w3 = nn.Linear(width, 12), nn.Linear(12, width), nn.Linear(width, 12)
        self.output = nn.Linear(width, 1)

    def rotate(self, t: Tensor) -> Tensor:
        half = self.head_dim // 2
        freqs = 1.0 / (10.0 ** (torch.arange(half, dtype=t.dtype) / half))
        angles = torch.outer(torch.arange(t.shape[-2], dtype=t.dtype), freqs)
        cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
        return t * cos + torch.cat((-t[..., half:], t[..., :half]), dim=-1) * sin

    def forward(self, x: Tensor) -> Tensor:
        h = self.tok(x)
        n = self.attention_norm(h)
        q = self.rotate(self.wq(n).unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2))
        k, v = self.rotate(self.wk(n)).unsqueeze(1), self.wv(n).unsqueeze(1)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        h = h + self.wo(out.transpose(1, 2).flatten(2))
        n = self.ffn_norm(h)
        h = h + self.w2(F.silu(self.w1(n)) * self.w3(n))
        return self.output(h[:, -1]).squeeze(-1)


class GEGLUScore(nn.Module):
    """Columns as tokens; keys and queries normalised; GEGLU: a transformer for tables."""

    def __init__(self, columns: int = 4, width: int = 6) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(columns, width)), nn.Parameter(torch.zeros(columns, width))
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.temperature = nn.Parameter(torch.tensor(2.0))
        self.norm, self.w_in, self.w_out = nn.LayerNorm(width), nn.Linear(width, 16), nn.Linear(8, width)
        self.out = nn.Parameter(torch.randn(columns, width) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        h = x.unsqueeze(-1) * self.weight + self.bias
        q, k, v = self.qkv(h).tensor_split(3, dim=-1)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        h = h + self.proj(torch.softmax(self.temperature * q @ k.mT, -1) @ v)
        value, gate = self.w_in(self.norm(h)).chunk(2, dim=-1)
        h = h + self.w_out(value * F.gelu(gate))
        return (h * self.out).sum(-1)


class DiT(nn.Module):
    """AdaLN-Zero: shifts, scales and gates of both halves of a block from the time."""

    def __init__(self, dim: int = 2, hidden: int = 8) -> None:
        super().__init__()
        self.x_embed = nn.Linear(dim, hidden)
        self.t_embed = nn.Sequential(nn.Linear(1, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.norm1 = nn.LayerNorm(hidden, elementwise_affine=False, eps=1e-6)
        self.norm2 = nn.LayerNorm(hidden, elementwise_affine=False, eps=1e-6)
        self.attn = nn.MultiheadAttention(hidden, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(hidden, 16), nn.GELU(approximate="tanh"), nn.Linear(16, hidden))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 6 * hidden, bias=True))
        self.final = nn.Linear(hidden, dim)
        nn.init.constant_(self.adaLN_modulation[-1].weight, 0)
        nn.init.constant_(self.final.weight, 0)

    @staticmethod
    def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h, c = self.x_embed(x), self.t_embed(t[:, None])
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=1)
        n = self.modulate(self.norm1(h), shift1, scale1)
        h = h + gate1.unsqueeze(1) * self.attn(n, n, n, need_weights=False)[0]
        h = h + gate2.unsqueeze(1) * self.mlp(self.modulate(self.norm2(h), shift2, scale2))
        return self.final(h)


class Hopfield(nn.Module):
    """Energy attention: the log of a sum over keys is itself the energy, next to one over memories."""

    def __init__(self, dim: int = 3, width: int = 6, memories: int = 5) -> None:
        super().__init__()
        self.beta = width**-0.5
        self.ln_gamma, self.ln_delta = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(dim))
        self.Wq, self.Wk = (nn.Parameter(torch.randn(width, dim) * 0.5) for _ in range(2))
        self.Xi = nn.Parameter(torch.randn(memories, dim))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        g = self.ln_gamma * centred / torch.sqrt(centred.var(-1, keepdim=True, unbiased=False) + 1e-5) + self.ln_delta
        q, k = (torch.einsum("bnd,zd->bnz", g, w) for w in (self.Wq, self.Wk))
        a = self.beta * torch.einsum("bqz,bkz->bqk", q, k)
        a = a.masked_fill(torch.eye(x.shape[1], dtype=torch.bool), float("-inf"))
        attention = -torch.logsumexp(a, dim=-1).sum(-1) / self.beta
        memory = -0.5 * F.softplus(g @ self.Xi.T).pow(2).sum((-1, -2))
        return attention + memory + 0.5 * x.pow(2).sum((1, 2))


def net(name: str, build: object, *shape: int, **options: object) -> Net:
    return Net(name, "transformers", build, shape, **options)


NETS = [
    net("attention-einsum", EinsumAttention, 4, 3),
    net("attention-causal", CausalAttention, 4, 2),
    net("attention-masked", MaskedAttention, 5, 2),
    net("multihead-attention", MultiheadEnergy, 4, 2),
    net("transformer-encoder", lambda: Encoder(False), 4, 2),
    net("transformer-encoder-norm-first", lambda: Encoder(True), 4, 2),
    net("transformer-encoder-eval", lambda: Encoder(True), 4, 2, train=False),
    net("transformer-encoder-score", EncoderScore, 4, 2, kind="score", step=1e-5),
    net("rotary-swiglu", RotaryBlock, 4, 2),
    net("table-transformer-geglu", GEGLUScore, 4, kind="score"),
    net("dit-adaln", DiT, 4, 2, kind="score", cond=(times,)),
    net("energy-attention", Hopfield, 4, 3, step=1e-3),
]
