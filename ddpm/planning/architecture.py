"""Layers, parameters and FLOPs of the U-Net that settings describe.  No torch.

`ddpm.models.unet` builds its modules from the same plan.
"""

from dataclasses import dataclass
from typing import NamedTuple

from ddpm.config.model import AUGMENTED, ModelConfig


class Conv(NamedTuple):
    """A 3x3 convolution: the first layer, and each change of resolution."""

    channels_in: int
    channels: int
    size: int  # of the feature map that comes out
    change: str = ""  # "", "down" or "up"


class Res(NamedTuple):
    channels_in: int
    channels: int
    size: int


class Attention(NamedTuple):
    channels: int
    size: int
    heads: int


Layer = Conv | Res | Attention


@dataclass(frozen=True)
class Plan:
    """The layers of each block, in the order in which improved-diffusion numbers them."""

    inputs: list[list[Layer]]
    middle: list[Layer]
    outputs: list[list[Layer]]

    @property
    def layers(self) -> list[Layer]:
        return [layer for block in [*self.inputs, self.middle, *self.outputs] for layer in block]


def plan(config: ModelConfig) -> Plan:
    """Lays out the network, but for its last layers."""
    width, size = config.num_channels, config.map_size
    inputs: list[list[Layer]] = [[Conv(config.inner_in, width, size)]]
    skips, channels = [width], width
    last = len(config.multipliers) - 1
    for level, mult in enumerate(config.multipliers):
        for _ in range(config.num_res_blocks):
            block: list[Layer] = [Res(channels, mult * width, size)]
            channels = mult * width
            if size in config.attention_sizes:
                block.append(Attention(channels, size, config.heads(channels)))
            inputs.append(block)
            skips.append(channels)
        if level != last:
            size //= 2
            inputs.append([Conv(channels, channels, size, "down")])
            skips.append(channels)
    middle: list[Layer] = [
        Res(channels, channels, size),
        Attention(channels, size, config.heads(channels)),
        Res(channels, channels, size),
    ]
    outputs: list[list[Layer]] = []
    for level, mult in reversed(list(enumerate(config.multipliers))):
        for i in range(config.num_res_blocks + 1):
            block = [Res(channels + skips.pop(), mult * width, size)]
            channels = mult * width
            if size in config.attention_sizes:
                block.append(Attention(channels, size, config.heads(channels, up=True)))
            if level and i == config.num_res_blocks:
                size *= 2
                block.append(Conv(channels, channels, size, "up"))
            outputs.append(block)
    return Plan(inputs, middle, outputs)


def parameters(config: ModelConfig) -> int:
    """Counts the parameters of the U-Net."""
    width, embed = config.num_channels, 4 * config.num_channels
    total = (width + 1) * embed + (embed + 1) * embed
    total += config.label_slots * embed + (AUGMENTED * embed if config.augment else 0)
    for layer in plan(config).layers:
        match layer:
            case Conv(channels_in, channels):
                total += 9 * channels_in * channels + channels
            case Res(channels_in, channels):
                total += 2 * channels_in + 9 * channels_in * channels + channels  # norm, conv
                total += (embed + 1) * channels * (2 if config.use_scale_shift_norm else 1)
                total += 2 * channels + 9 * channels * channels + channels
                total += (channels_in + 1) * channels if channels_in != channels else 0
            case Attention(channels):
                total += 2 * channels + (channels + 1) * 3 * channels + (channels + 1) * channels
    total += 2 * width + (9 * width + 1) * config.inner_out
    if edge := config.edge_channels:
        total += (9 * config.in_channels + 1) * edge + (9 * edge + 1) * config.out_channels
    return total


def flops(config: ModelConfig) -> float:
    """Counts the floating-point operations of a forward pass for one image: direct convolutions, and attention.

    A training step takes three times as many, since the backward pass has two products for each of the forward pass.
    Pixelwise operations, such as normalisations, are not counted.
    """
    width, embed = config.num_channels, 4 * config.num_channels
    products = (width + embed) * embed + 9 * width * config.inner_out * config.map_size**2
    products += 9 * (config.in_channels + config.out_channels) * config.edge_channels * config.image_size**2
    for layer in plan(config).layers:
        area = layer.size**2
        match layer:
            case Conv(channels_in, channels):
                products += 9 * channels_in * channels * area
            case Res(channels_in, channels):
                products += 9 * (channels_in + channels) * channels * area
                products += embed * channels * (2 if config.use_scale_shift_norm else 1)
                products += channels_in * channels * area if channels_in != channels else 0
            case Attention(channels):
                products += 4 * channels**2 * area + 2 * channels * area**2  # q, k, v and what comes out; two products
    return 2.0 * products
