"""What a training and a drawing take of memory on a CPU, told from their settings; and how many pictures are drawn at
once.  No torch.

Feature maps are counted layer by layer, as `ddpm.models.torch_ops` and `ddpm.models.native.ops` keep them.
"""

import logging
import os
from typing import NamedTuple

import psutil

from ddpm import formatting
from ddpm.config.model import ModelConfig
from ddpm.config.tasks import SampleConfig
from ddpm.config.training import Config, TrainConfig
from ddpm.host import compiler, hardware
from ddpm.planning import architecture
from ddpm.planning.architecture import Attention, Conv, Layer, Res

log = logging.getLogger("ddpm")

FAST = 64  # pictures at once beyond which nothing gets faster
SHARE = 0.5  # of the memory that is available, for what is being drawn

# Bytes of a training process that has no weights yet: Python and torch; without native kernels torch.optim too.
RUNTIME = {True: 318e6, False: 390e6}
BLOCK = 16  # channels that native convolutions fill up to
# What maps take beyond their size, as measured with glibc: malloc does not use every hole again, and the more is freed
# on the way, the more is wasted.  Native: True.
SLACK = {True: 1.4, False: 1.3}  # where the maps are kept for the backward pass: of native kernels, of torch
SLACK_RECOMPUTED = 2.3  # where most are not
SLACK_FORWARD = {True: 1.8, False: 1.4}  # where nearly none are
SAMPLER = (
    16  # pictures' worth of numbers that a sampler holds of each: x, eps, x_start, earlier steps, float64 on the way
)


class Way(NamedTuple):
    """How a network is computed."""

    native: bool  # by our own kernels, or by torch alone
    bytes: int  # of a number in a feature map


TORCH = Way(native=False, bytes=4)


def way(kernels: str, precision: str) -> Way:
    """What the settings will come to on this machine's CPU, as far as can be told without torch and without
    compiling.
    """
    if precision == "auto":
        precision = "bf16" if hardware.has_bf16() else "fp32"
    ours = kernels in ("auto", "native") and precision != "fp16" and bool(compiler.find_compiler())
    return Way(ours, 4 if precision == "fp32" else 2)


# --- training


def training_bytes(model: ModelConfig, train: TrainConfig) -> float:
    """Estimated peak of a training process: weights, gradients, AdamW's two moments, averages, and maps;
    its pictures not counted.
    """
    precision = "bf16" if train.use_fp16 and train.precision == "auto" else train.precision
    how = way(train.kernels, precision)
    copies = 4.0 + len(train.ema_rates)
    if how == TORCH._replace(bytes=2):
        copies += 0.5  # autocast keeps the weights in 16 bits as well
    threads = train.threads or hardware.asked_outside() or hardware.physical()
    room = _room(model, threads) if how.native else 0
    maps = activation_bytes(model, how) * train.micro
    return RUNTIME[how.native] + 4 * (copies * architecture.parameters(model) + room) + maps


def activation_bytes(model: ModelConfig, how: Way) -> float:
    """Bytes per picture that a training step holds at its peak: feature maps kept for the backward pass."""
    laid_out = architecture.plan(model, model.in_channels)
    layers = laid_out.layers
    last = (2 if how.native else 3) * model.num_channels * model.image_size**2  # the last norm, SiLU and convolution
    whole = [_kept(layer, model, how) for layer in layers]
    # What is joined with later maps is not copied for them: the layer that came next keeps it as it is.
    twice = sum(block[-1].channels * block[-1].size ** 2 for block in laid_out.inputs)
    if not model.use_checkpoint:
        return SLACK[how.native] * how.bytes * (last + sum(whole) - (twice if how.native else 0))
    inputs = [_input(layer) or kept for layer, kept in zip(layers, whole, strict=True)]
    kept = last + sum(inputs) - twice + max(whole)  # one layer at a time is computed again
    return SLACK_RECOMPUTED * how.bytes * kept


def _input(layer: Layer) -> int:
    """Numbers per picture that go into a layer which is computed again for its gradients; 0: this one is not."""
    match layer:
        case Res(channels, _, size) | Attention(channels, size):
            return channels * size**2
    return 0


def _kept(layer: Layer, model: ModelConfig, how: Way) -> int:
    """Numbers per picture that a layer keeps for its gradients."""
    area = layer.size**2
    match layer:
        case Conv(channels_in, _, _, change):
            if how.native and not change:
                channels_in += -channels_in % BLOCK
            return channels_in * area * (4 if change == "down" else 1)
        case Res(channels_in, channels) if how.native:  # what each norm and each convolution is given
            return (2 * channels_in + (3 if model.dropout else 2) * channels) * area
        case Res(channels_in, channels):  # what each SiLU is given as well, and each scale
            scaled = channels if model.use_scale_shift_norm else 0
            return (3 * channels_in + (4 if model.dropout else 3) * channels + scaled) * area
        case Attention(channels) if how.native:  # the norm's input and output, q, k, v, what comes of them
            return 6 * channels * area
        case Attention(channels, _, heads):  # q and k scaled too, and every pixel's weights over all others
            return 8 * channels * area + heads * area**2


def _room(model: ModelConfig, threads: int) -> int:
    """Numbers in which each thread adds up the gradient of a native convolution's weights,
    transformed by Winograd's way.
    """
    most = 0
    for layer in architecture.plan(model, model.in_channels).layers:
        if not isinstance(layer, Attention):
            points = 36 if layer.size >= 16 else 16  # of a tile: (4 + 2)^2, where maps are large, or (2 + 2)^2
            most = max(most, points * max(layer.channels_in, layer.channels, BLOCK) * layer.channels)
    return threads * most


# --- drawing


def batch_size(config: Config, sample: SampleConfig) -> int:
    """Pictures in a batch: at most `sample.batch_size` (0: FAST) and what is asked for, and at least 1.

    They take at most half of the memory that is available now, shared with the other processes on this machine.
    """
    asked = min(sample.batch_size or FAST, sample.num_samples)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    free = psutil.virtual_memory().available * SHARE / processes
    fit = max(1, int(free // bytes_each(config, sample)))
    if fit < asked:
        log.warning(
            "Drawing %s at once instead of %d, for which half of the free memory, %s, has no room.",
            formatting.plural(fit, "picture"),
            asked,
            f"{free / 1e6:,.0f} MB",
        )
    return min(asked, fit)


def bytes_each(config: Config, sample: SampleConfig) -> float:
    """Bytes that each picture of a batch takes while it is drawn: of the network's pass, and of the sampler's step."""
    model = config.model
    guided = model.class_cond and sample.guidance_scale not in (0, 1)
    state = 4 * model.image_channels * model.image_size**2
    return forward_bytes(model, way(sample.kernels, sample.precision)) * (2 if guided else 1) + SAMPLER * state


def forward_bytes(model: ModelConfig, how: Way) -> float:
    """The most bytes per picture that a pass without gradients holds at once; rather too many than too few.

    Those are what waits to be joined in the second half of the network, and what the layer in hand works with.
    """
    laid_out = architecture.plan(model, model.in_channels)
    waiting: list[int] = []
    most = 5 * model.num_channels * model.image_size**2  # the last layers

    def pass_through(block: list[Layer], joined: int = 0) -> int:
        """Numbers that come out of `block`."""
        nonlocal most
        out = 0
        for layer in block:
            out = layer.channels * layer.size**2
            most = max(most, sum(waiting) + joined + _worked_with(layer, how))
            joined = 0
        return out

    for block in laid_out.inputs:
        waiting.append(pass_through(block))
    pass_through(laid_out.middle)
    for block in laid_out.outputs:
        pass_through(block, joined=0 if how.native else waiting[-1])  # torch copies the two parts into one
        waiting.pop()
    return SLACK_FORWARD[how.native] * how.bytes * most


def _worked_with(layer: Layer, how: Way) -> int:
    """Numbers per picture that are alive at once within a layer, its input and output among them.

    Torch's convolutions may copy both into another layout.
    """
    area = layer.size**2
    match layer:
        case Conv(_, channels, _, "") if how.native:  # few channels are filled up
            return (BLOCK + channels) * area
        case Conv(channels_in, channels, _, "down") if how.native:
            return (4 * channels_in + channels) * area
        case Conv(channels_in, channels) if how.native:
            return (channels_in // 4 + channels_in + channels) * area
        case Conv(channels_in, channels, _, change):
            before = int(area * {"": 1, "down": 4, "up": 0.25}[change])
            enlarged = channels_in * area if change == "up" else 0
            return 2 * channels_in * before + 2 * enlarged + 2 * channels * area
        case Res(channels_in, channels) if how.native:
            return max(2 * channels_in + channels, channels_in + 3 * channels) * area
        case Res(channels_in, channels):
            return 4 * (channels_in + channels) * area
        case Attention(channels) if how.native:
            return 5 * channels * area
        case Attention(channels, _, heads):
            return 9 * channels * area + 2 * heads * area**2  # scores, and what softmax makes of them
