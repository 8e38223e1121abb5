"""Estimates training and sampling memory on a CPU from the config, and the batch size that fits.  No torch.

Feature maps are counted layer by layer, as `ddpm.models.torch_ops` and `ddpm.models.native.ops` keep them.
"""

import logging
import os
from typing import NamedTuple

from ddpm.config.model import ModelConfig
from ddpm.config.tasks import SampleConfig
from ddpm.config.training import Config, TrainConfig
from ddpm.errors import UserError
from ddpm.formatting import memory
from ddpm.host import compiler, hardware
from ddpm.host import memory as host_memory
from ddpm.planning import architecture, guidance
from ddpm.planning.architecture import Attention, Conv, Layer, Res

log = logging.getLogger("ddpm")

FAST = 64  # images in a batch beyond which sampling gets no faster
SHARE = 0.5  # of the available memory, for sampling

# Bytes of a training process before it has weights: Python and torch; without native kernels torch.optim too.
RUNTIME = {True: 318e6, False: 390e6}
BLOCK = 16  # channels that native convolutions pad to
# Memory of feature maps as a multiple of their size, measured with glibc, whose malloc does not reuse every hole.
# Native: True.
SLACK = {True: 1.2, False: 1.3}  # where feature maps are kept for the backward pass
SLACK_RECOMPUTED = {True: 1.9, False: 2.3}  # where most are recomputed
SLACK_FORWARD = {True: 1.8, False: 1.4}  # without a backward pass
SAMPLER = 16  # copies of an image that a sampler holds: x, eps, x_start, earlier steps, float64 intermediates


class ExpectedMode(NamedTuple):
    """How a network will be computed."""

    native: bool  # by native kernels, or by torch alone
    bytes: int  # of a number in a feature map


TORCH = ExpectedMode(native=False, bytes=4)


def expected_mode(kernels: str, precision: str) -> ExpectedMode:
    """Predicts how the settings are computed on this machine's CPU, without torch and without compiling."""
    if precision == "auto":
        precision = "bf16" if hardware.has_bf16() else "fp32"
    ours = kernels in ("auto", "native", "amx") and precision != "fp16" and bool(compiler.find_compiler())
    return ExpectedMode(ours, 4 if precision == "fp32" else 2)


def check_network(model: ModelConfig) -> None:
    """Raises UserError where the weights of a network are more than the memory of this machine."""
    need, there = 4 * architecture.parameters(model), host_memory.total()
    if need > there:
        raise UserError(
            f"A network with num_channels {model.num_channels}, channel_mult"
            f" {','.join(map(str, model.multipliers))} and num_res_blocks {model.num_res_blocks} has"
            f" {need / 4e6:,.0f} million parameters, and this machine's memory of {memory(there)} holds"
            f" {there / 4e6:,.0f} million: choose a smaller one.",
            code="too-large",
        )


# --- training


def training_bytes(model: ModelConfig, train: TrainConfig) -> float:
    """Estimates the peak bytes of a training process: weights, gradients, AdamW's moments, averages and feature maps.

    The data set is not counted.
    """
    how = training_mode(train)
    copies = 4.0 + len(train.ema_rates)
    if how == TORCH._replace(bytes=2):
        copies += 0.5  # autocast keeps the weights in 16 bits as well
    threads = train.threads or hardware.requested_by_environment() or hardware.physical()
    room = _gradient_workspace(model, threads) if how.native else 0
    maps = activation_bytes(model, how) * train.micro
    return RUNTIME[how.native] + 4 * (copies * architecture.parameters(model) + room) + maps


def training_mode(train: TrainConfig) -> ExpectedMode:
    """Predicts how a training is computed on this machine's CPU."""
    precision = "bf16" if train.use_fp16 and train.precision == "auto" else train.precision
    return expected_mode(train.kernels, precision)


def activation_bytes(model: ModelConfig, how: ExpectedMode) -> float:
    """Estimates the peak bytes per image of a training step: feature maps kept for the backward pass."""
    laid_out = architecture.plan(model)
    layers = laid_out.layers
    last = (2 if how.native else 3) * model.num_channels * model.map_size**2  # the last norm, SiLU and convolution
    last += (2 * model.edge_channels + BLOCK) * model.image_size**2 if model.edge_channels else 0
    whole = [_kept(layer, model, how) for layer in layers]
    # What is joined with later maps is not copied for them: the layer that came next keeps it as it is.
    twice = sum(block[-1].channels * block[-1].size ** 2 for block in laid_out.inputs)
    if not model.use_checkpoint:
        return SLACK[how.native] * how.bytes * (last + sum(whole) - (twice if how.native else 0))
    inputs = [_input(layer) or kept for layer, kept in zip(layers, whole, strict=True)]
    kept = last + sum(inputs) - twice + max(whole)  # one layer at a time is computed again
    return SLACK_RECOMPUTED[how.native] * how.bytes * kept


def _input(layer: Layer) -> int:
    """Counts the input numbers per image of a layer that is recomputed for its gradients; 0 for other layers."""
    match layer:
        case Res(channels, _, size) | Attention(channels, size):
            return channels * size**2
    return 0


def _kept(layer: Layer, model: ModelConfig, how: ExpectedMode) -> int:
    """Counts the numbers per image that a layer keeps for its gradients."""
    area = layer.size**2
    match layer:
        case Conv(channels_in, _, _, change):
            if how.native and not change:
                channels_in += -channels_in % BLOCK
            return channels_in * area * (4 if change == "down" else 1)
        case Res(channels_in, channels) if how.native:  # what each norm is given
            return (channels_in + channels) * area
        case Res(channels_in, channels):  # what each SiLU is given as well, and each scale
            scaled = channels if model.use_scale_shift_norm else 0
            return (3 * channels_in + (4 if model.dropout else 3) * channels + scaled) * area
        case Attention(channels) if how.native:  # the norm's input, q, k, v, what comes of them
            return 5 * channels * area
        case Attention(channels, _, heads):  # q and k scaled too, and every pixel's weights over all others
            return 8 * channels * area + heads * area**2


def _gradient_workspace(model: ModelConfig, threads: int) -> int:
    """Counts the numbers in which all threads accumulate a convolution's weight gradient, in Winograd's domain."""
    most, large = 0, 8  # pixels across
    for layer in architecture.plan(model).layers:
        if not isinstance(layer, Attention):
            points = 36 if layer.size >= large else 16  # of a tile: (4 + 2)^2, where maps are large, or (2 + 2)^2
            most = max(most, points * max(layer.channels_in, layer.channels, BLOCK) * layer.channels)
    return threads * most


# --- sampling


def batch_size(config: Config, sample: SampleConfig) -> int:
    """Chooses the batch size: at most `sample.batch_size` (0: FAST) and `num_samples`, and at least 1.

    A batch takes at most half of the available memory, divided among the processes on this machine.
    """
    asked = min(sample.batch_size or FAST, sample.num_samples)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    free = host_memory.available() * SHARE / processes
    fit = max(1, int(free // sampling_bytes(config, sample)))
    if fit < asked:
        log.warning(
            "The batch size is %s instead of %d, for which half of the free memory, %s, is too little.",
            fit,
            asked,
            memory(free),
        )
    return min(asked, fit)


def images_at_once(model: ModelConfig, most: int) -> int:
    """How many images, 1 to `most`, are evaluated at once in fp32: with at most half of the free memory."""
    free = host_memory.available() * SHARE / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(most, int(free // forward_bytes(model, expected_mode("auto", "fp32")))))


def sampling_bytes(config: Config, sample: SampleConfig) -> float:
    """Estimates the bytes per image of a batch: of the network's forward pass, and of the sampler's step."""
    model = config.model
    state = 4 * model.image_channels * model.image_size**2
    return (
        forward_bytes(model, expected_mode(sample.kernels, sample.precision)) * guidance.passes(model, sample)
        + SAMPLER * state
    )


def forward_bytes(model: ModelConfig, how: ExpectedMode) -> float:
    """Estimates the peak bytes per image of a forward pass without gradients; rather too many than too few.

    These are the skip connections that are still needed, and what the current layer works with.
    """
    laid_out = architecture.plan(model)
    skips: list[int] = []
    most = 5 * model.num_channels * model.map_size**2  # the last layers
    most += 3 * model.edge_channels * model.image_size**2

    def pass_through(block: list[Layer], joined: int = 0) -> int:
        """Returns the size of the output of `block`."""
        nonlocal most
        out = 0
        for layer in block:
            out = layer.channels * layer.size**2
            most = max(most, sum(skips) + joined + _worked_with(layer, how))
            joined = 0
        return out

    for block in laid_out.inputs:
        skips.append(pass_through(block))
    pass_through(laid_out.middle)
    for block in laid_out.outputs:
        pass_through(block, joined=0 if how.native else skips[-1])  # torch copies the two parts into one
        skips.pop()
    return SLACK_FORWARD[how.native] * how.bytes * most


def _worked_with(layer: Layer, how: ExpectedMode) -> int:
    """Counts the numbers per image that are alive at once within a layer, with its input and output.

    Torch's convolutions may copy both into another layout.
    """
    area = layer.size**2
    match layer:
        case Conv(_, channels, _, "") if how.native:  # few channels are padded
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
