"""The U-Net of improved-diffusion.  Tensor names and their order are an external format: checkpoints hold them.

Ho et al. 2020 with the changes of Nichol & Dhariwal 2021, Section 3.4 and Appendix A: attention at several
resolutions with several heads, and a timestep embedding that scales and shifts each normalisation.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ddpm import architecture
from ddpm.architecture import Attention, Conv, Res
from ddpm.config import ModelConfig

GROUPS = 32  # of every normalisation


class ResBlock(nn.Module):
    """Two 3x3 convolutions around the timestep embedding, and a way past them."""

    def __init__(self, channels_in: int, channels: int, embed: int, config: ModelConfig):
        super().__init__()
        self.scale_shift = config.use_scale_shift_norm
        self.in_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, channels_in), nn.SiLU(), nn.Conv2d(channels_in, channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embed, (2 if self.scale_shift else 1) * channels))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, channels),
            nn.SiLU(),
            nn.Dropout(config.dropout),
            zeroed(nn.Conv2d(channels, channels, 3, padding=1)),
        )
        same = channels_in == channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels_in, channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.in_layers(x)
        e = self.emb_layers(embedding)[:, :, None, None]  # [N, C or 2C, 1, 1]
        norm, rest = self.out_layers[0], self.out_layers[1:]
        if self.scale_shift:
            scale, shift = e.chunk(2, dim=1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + e)
        return self.skip_connection(x) + rest(h)


class AttentionBlock(nn.Module):
    """Self-attention among the pixels of a feature map."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        n, c, *size = x.shape
        flat = x.reshape(n, c, -1)
        # Heads are outermost, then q, k, v, then the channels of a head: [N, heads, 3, C / heads, pixels].
        qkv = self.qkv(self.norm(flat)).reshape(n, self.heads, 3, c // self.heads, -1)
        q, k, v = qkv.transpose(-1, -2).unbind(dim=2)  # [N, heads, pixels, C / heads] each
        h = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(n, c, -1)
        return (flat + self.proj_out(h)).reshape(n, c, *size)


class Downsample(nn.Module):
    """A convolution with stride 2."""

    def __init__(self, channels: int):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Every pixel doubled, then a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Stem(nn.Conv2d):
    """The first convolution, called like every other layer."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)


class Block(nn.Sequential):
    """Layers one after the other, each given the embedding."""

    def __init__(self, layers: Sequence[nn.Module], recompute: bool):
        super().__init__(*layers)
        self.recompute = recompute

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            if self.recompute and self.training and isinstance(layer, (ResBlock, AttentionBlock)):
                x = checkpoint(layer, x, embedding, use_reentrant=False)
            else:
                x = layer(x, embedding)
        return x


class UNet(nn.Module):
    """(x [N, C, H, W], t [N], y [N] int64 if class-conditional) -> [N, C, H, W], or 2C with learn_sigma."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        width, embed = config.num_channels, 4 * config.num_channels
        plan = architecture.plan(config, config.in_channels)
        self.time_embed = nn.Sequential(nn.Linear(width, embed), nn.SiLU(), nn.Linear(embed, embed))
        if config.class_cond:
            self.label_emb = nn.Embedding(config.label_slots, embed)
        self.input_blocks = nn.ModuleList(self._block(layers) for layers in plan.inputs)
        self.middle_block = self._block(plan.middle)
        self.output_blocks = nn.ModuleList(self._block(layers) for layers in plan.outputs)
        self.out = nn.Sequential(
            nn.GroupNorm(GROUPS, width), nn.SiLU(), zeroed(nn.Conv2d(width, config.out_channels, 3, padding=1))
        )

    def _block(self, layers: Sequence[architecture.Layer]) -> Block:
        return Block([self._layer(layer) for layer in layers], self.config.use_checkpoint)

    def _layer(self, layer: architecture.Layer) -> nn.Module:
        match layer:
            case Res(channels_in, channels):
                return ResBlock(channels_in, channels, 4 * self.config.num_channels, self.config)
            case Attention(channels, _, heads):
                return AttentionBlock(channels, heads)
            case Conv(_, channels, _, "down"):
                return Downsample(channels)
            case Conv(_, channels, _, "up"):
                return Upsample(channels)
            case Conv(channels_in, channels):
                return Stem(channels_in, channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        embedding = self.time_embed(timestep_embedding(t, self.config.num_channels))
        if self.config.class_cond:
            assert y is not None, "a class-conditional network needs labels"
            embedding = embedding + self.label_emb(y)
        skips = []
        for block in self.input_blocks:
            x = block(x, embedding)
            skips.append(x)
        x = self.middle_block(x, embedding)
        for block in self.output_blocks:
            x = block(torch.cat([x, skips.pop()], dim=1), embedding)
        return self.out(x)


class SuperResUNet(UNet):
    """A U-Net that also sees a smaller picture, enlarged to its own size (Nichol & Dhariwal 2021, Appendix)."""

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, low_res: Tensor | None = None) -> Tensor:
        """low_res: [N, C, h, w] in [-1, 1]."""
        assert low_res is not None, "a super-resolution network needs the small picture"
        enlarged = F.interpolate(low_res, x.shape[2:], mode="bilinear")
        return super().forward(torch.cat([x, enlarged], dim=1), t, y)


def build(config: ModelConfig) -> UNet:
    """The network that the settings describe, with weights at random."""
    return (SuperResUNet if config.super_res else UNet)(config)


def timestep_embedding(t: Tensor, channels: int, slowest: float = 10000.0) -> Tensor:
    """[N] timesteps, fractions allowed, as [N, channels] of cosines and sines (Vaswani et al. 2017)."""
    half = channels // 2
    frequencies = torch.exp(-math.log(slowest) / half * torch.arange(half, dtype=torch.float32, device=t.device))
    angles = t[:, None].float() * frequencies[None]
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


def zeroed(module: nn.Module) -> nn.Module:
    """A layer that begins as nothing, so that its block begins as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
