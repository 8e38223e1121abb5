"""The U-Net of improved-diffusion.  Tensor names and their order are an external format: checkpoints hold them.

Ho et al. 2020 with the changes of Nichol & Dhariwal 2021, Section 3.4 and Appendix A: attention at several
resolutions with several heads, and a timestep embedding that scales and shifts each normalisation.
"""

import math
from collections.abc import Sequence
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ddpm.config.model import AUGMENTED, ModelConfig
from ddpm.models.torch_ops import TORCH, Joined, Ops
from ddpm.planning import architecture, memory
from ddpm.planning.architecture import Attention, Conv, Res

GROUPS = 32  # of every normalisation
M = TypeVar("M", bound=nn.Module)


class Computed(nn.Module):
    """A module whose operations are computed by its `ops`."""

    ops: Ops = TORCH


class ResBlock(Computed):
    """Residual block: [N, C_in, H, W] -> [N, C, H, W], two 3x3 convolutions with the timestep embedding between them.

    embedded: for each residual block of the network, its own projection of the embedding, [N, C] or [N, 2C].
    """

    place: int  # index among the residual blocks of the network

    def __init__(self, channels_in: int, channels: int, embed: int, config: ModelConfig):
        super().__init__()
        self.scale_shift = config.use_scale_shift_norm
        self.in_layers: Any = nn.Sequential(
            nn.GroupNorm(GROUPS, channels_in), nn.SiLU(), nn.Conv2d(channels_in, channels, 3, padding=1)
        )
        self.emb_layers: Any = nn.Sequential(nn.SiLU(), nn.Linear(embed, (2 if self.scale_shift else 1) * channels))
        self.out_layers: Any = nn.Sequential(
            nn.GroupNorm(GROUPS, channels),
            nn.SiLU(),
            nn.Dropout(config.dropout),
            zeroed(nn.Conv2d(channels, channels, 3, padding=1)),
        )
        same = channels_in == channels
        self.skip_connection: Any = nn.Identity() if same else nn.Conv2d(channels_in, channels, 1)

    def forward(self, x: Tensor | Joined, embedded: Sequence[Tensor]) -> Tensor:
        norm, _, conv = self.in_layers
        second_norm, _, dropout, second_conv = self.out_layers
        return self.ops.residual(
            x,
            embedded[self.place],
            (norm, conv),
            (second_norm, second_conv),
            None if isinstance(self.skip_connection, nn.Identity) else self.skip_connection,
            scale_shift=self.scale_shift,
            dropout=dropout.p if self.training else 0.0,
        )


class AttentionBlock(Computed):
    """Self-attention among the pixels of a feature map [N, C, H, W]."""

    def __init__(self, channels: int, heads: int, new_order: bool):
        super().__init__()
        self.heads, self.new_order = heads, new_order
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor, embedded: Sequence[Tensor]) -> Tensor:
        return self.ops.attention_block(x, self.norm, self.qkv, self.proj_out, self.heads, self.new_order)


class Downsample(Computed):
    """A convolution with stride 2: [N, C, H, W] -> [N, C, H/2, W/2]."""

    def __init__(self, channels: int):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, embedded: Sequence[Tensor]) -> Tensor:
        return self.ops.conv(x, self.op)


class Upsample(Computed):
    """Nearest-neighbour upsampling, then a convolution: [N, C, H, W] -> [N, C, 2H, 2W]."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, embedded: Sequence[Tensor]) -> Tensor:
        return self.ops.conv(F.interpolate(x, scale_factor=2, mode="nearest"), self.conv)


class Stem(nn.Conv2d, Computed):
    """The first convolution, [N, C_in, H, W] -> [N, C, H, W], called like every other layer."""

    def forward(self, x: Tensor, embedded: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
        return self.ops.conv(x, self)


class Block(nn.Sequential):
    """Layers in sequence, each given all residual blocks' projections of the embedding."""

    def __init__(self, layers: Sequence[nn.Module], recompute: bool):
        super().__init__(*layers)
        self.recompute = recompute

    def forward(self, x: Any, embedded: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
        """x: [N, C, H, W], or, where a ResBlock comes first, two of them Joined."""
        for layer in self:
            if self.recompute and self.training and isinstance(layer, (ResBlock, AttentionBlock)):
                x = checkpoint(layer, x, embedded, use_reentrant=False)
            else:
                x = layer(x, embedded)
        return cast(Tensor, x)


class UNet(Computed):
    """(x [N, C, H, W], t [N], y [N] int64 if class-conditional) -> [N, C, H, W], or 2C with learn_sigma.

    With a patch size p it works on [N, C p^2, H / p, W / p]: each square of p x p pixels becomes the channels of one,
    and pixels again behind the network, so that mean and variance are still the halves of the output's channels.  A
    path at full resolution adds edge_out(SiLU(edge_in(x) + features)), whose features for each pixel are further
    channels of the network's output.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        width, embed = config.num_channels, 4 * config.num_channels
        plan = architecture.plan(config)
        self.time_embed = nn.Sequential(nn.Linear(width, embed), nn.SiLU(), nn.Linear(embed, embed))
        if config.class_cond:
            vectors = torch.empty(config.label_slots, embed)
            if not vectors.is_meta:  # to draw what has no values, torch imports its compiler: more than a second
                nn.init.normal_(vectors)
            self.label_emb = nn.Embedding(config.label_slots, embed, _weight=vectors)
        if config.augment:
            self.augment_emb = nn.Linear(AUGMENTED, embed, bias=False)  # an image that is as it was adds nothing
        self.input_blocks = nn.ModuleList(self._block(layers) for layers in plan.inputs)
        self.middle_block = self._block(plan.middle)
        self.output_blocks = nn.ModuleList(self._block(layers) for layers in plan.outputs)
        self.out: Any = nn.Sequential(
            nn.GroupNorm(GROUPS, width),
            nn.SiLU(),
            zeroed(nn.Conv2d(width, config.inner_out, 3, padding=1)),
        )
        if edge := config.edge_channels:
            self.edge_in = nn.Conv2d(config.in_channels, edge, 3, padding=1)
            self.edge_out = zeroed(nn.Conv2d(edge, config.out_channels, 3, padding=1))

        # A list, of which torch knows nothing: the blocks are in the modules above.
        self.res_blocks = [module for module in self.modules() if isinstance(module, ResBlock)]
        for place, block in enumerate(self.res_blocks):
            block.place = place

    def _block(self, layers: Sequence[architecture.Layer]) -> Block:
        return Block([self._layer(layer) for layer in layers], self.config.use_checkpoint)

    def _layer(self, layer: architecture.Layer) -> nn.Module:
        match layer:
            case Res(channels_in, channels):
                return ResBlock(channels_in, channels, 4 * self.config.num_channels, self.config)
            case Attention(channels, _, heads):
                return AttentionBlock(channels, heads, self.config.use_new_attention_order)
            case Conv(_, channels, _, "down"):
                return Downsample(channels)
            case Conv(_, channels, _, "up"):
                return Upsample(channels)
            case Conv(channels_in, channels):
                return Stem(channels_in, channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, *, augmented: Tensor | None = None) -> Tensor:
        """augmented: float32 [N, AUGMENTED], in training alone: what was done to the images; None: nothing."""
        self._check(x)
        embedding = self.time_embed(timestep_embedding(t, self.config.num_channels))
        if self.config.class_cond:
            assert y is not None, "a class-conditional network needs labels"
            embedding = embedding + self.label_emb(y)
        if augmented is not None:
            embedding = embedding + self.augment_emb(augmented)
        # All projections at once: their SiLU is the same, and together they take less time.
        embedded = self.ops.linear(F.silu(embedding), [block.emb_layers[1] for block in self.res_blocks])
        skips = []
        image = x
        x = self.ops.enter(self.to_patches(x))
        for block in self.input_blocks:
            x = block(x, embedded)
            skips.append(x)
        x = self.middle_block(x, embedded)
        for block in self.output_blocks:
            x = block(Joined(x, skips.pop()), embedded)
        norm, _, conv = self.out
        x = self.to_pixels(self.ops.conv(self.ops.norm_silu(x, norm), conv))
        if self.config.edge_channels:
            x, features = x.split([self.config.out_channels, self.config.edge_channels], dim=1)
            features = F.silu(self.ops.conv(self.ops.enter(image), self.edge_in, add=features))
            x = self.ops.conv(features, self.edge_out, add=x)
        return self.ops.leave(x)

    def _check(self, x: Tensor) -> None:
        """Raises ValueError for images [N, C, H, W] of other channels, or that cannot be halved as often as needed.

        The native kernels would read past their ends.
        """
        multiple = self.config.patch_size * 2 ** (len(self.config.multipliers) - 1)
        if x.dim() != 4 or x.shape[1] != self.config.in_channels or x.shape[2] % multiple or x.shape[3] % multiple:
            raise ValueError(
                f"The network takes [N, {self.config.in_channels}, H, W] with H and W multiples of {multiple}, not"
                f" {list(x.shape)}."
            )

    def to_patches(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C p^2, H / p, W / p] with patch size p: channel c p^2 + p i + j is pixel (i, j) of c."""
        return F.pixel_unshuffle(x, self.config.patch_size) if self.config.patch_size > 1 else x

    def to_pixels(self, x: Tensor) -> Tensor:
        """The inverse of `to_patches`: [N, C p^2, H / p, W / p] -> [N, C, H, W]."""
        return F.pixel_shuffle(x, self.config.patch_size) if self.config.patch_size > 1 else x

    def use(self, ops: Ops) -> None:
        """Sets the operations that all modules compute with."""
        for module in self.modules():
            if isinstance(module, Computed):
                module.ops = ops


class SuperResUNet(UNet):
    """A U-Net that is conditioned on a smaller image, enlarged to its own size (Nichol & Dhariwal 2021, Appendix)."""

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor | None = None,
        low_res: Tensor | None = None,
        *,
        augmented: Tensor | None = None,
    ) -> Tensor:
        """As UNet's, [N, C, H, W] in and out.  low_res: [N, C, h, w] in [-1, 1]."""
        assert low_res is not None, "a super-resolution network needs the small image"
        enlarged = F.interpolate(low_res, x.shape[2:], mode="bilinear")
        return super().forward(torch.cat([x, enlarged], dim=1), t, y, augmented=augmented)


def build(config: ModelConfig) -> UNet:
    """Builds the network that the settings describe, with random weights.

    Raises UserError where its weights alone are more than the memory of this machine.
    """
    memory.check_network(config)
    return (SuperResUNet if config.super_res else UNet)(config)


def timestep_embedding(t: Tensor, channels: int, slowest: float = 10000.0) -> Tensor:
    """Sinusoidal embedding of timesteps t [N], fractions allowed, float32 [N, channels] (Vaswani et al. 2017)."""
    half = channels // 2
    frequencies = torch.exp(-math.log(slowest) / half * torch.arange(half, dtype=torch.float32, device=t.device))
    angles = t[:, None].float() * frequencies[None]
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


def zeroed(module: M) -> M:
    """Sets a layer's weights to zero, so that its block is initially the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
