"""The baseline that speed is measured against: the same network and training step in plain torch.

Plain is what improved-diffusion does in eager fp32 on a CPU: [N, C, H, W], attention by einsum with a softmax in fp32,
SiLU as x * sigmoid(x), a normalisation that casts to fp32 and back, separate operations for scale and shift, and the
optimiser, the averages and the gradient norm tensor by tensor.  Nothing is slowed down on purpose.

plain = PlainTrainer(config)
loss = plain.update(batch)
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm import schedules
from ddpm.config.training import Config
from ddpm.diffusion.losses import Batch, training_losses
from ddpm.models import unet
from ddpm.models.unet import AttentionBlock, Block, Downsample, ResBlock, Stem, UNet, Upsample
from ddpm.training.optimizer import Ema


class PlainTrainer:
    """A network in training, step by step, with the initial weights of `ddpm.training.trainer.Trainer`."""

    def __init__(self, config: Config):
        self.config = config
        self.full = config.diffusion.full_schedule()
        kept = schedules.space_timesteps(self.full.T, config.diffusion.timestep_respacing)
        self.schedule = schedules.respaced(self.full, kept)
        torch.manual_seed(config.train.seed)
        self.model = unet.build(config.model).train()
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.train.lr, weight_decay=config.train.weight_decay, foreach=False, fused=False
        )
        self.averages = {rate: [p.detach().clone() for p in self.parameters] for rate in config.train.ema_rates}
        self._rates = Ema(nn.Module(), config.train.ema_rates, config.train.ema_warmup)  # gives the rate in force
        self.grad_norm = 0.0  # of the last step

    def network(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        """(x [N, C, H, W], t [N], y int64 [N], low_res [N, C, h, w]) -> [N, C or 2C, H, W]; y and low_res if needed."""
        if "low_res" in condition:
            x = torch.cat([x, F.interpolate(condition["low_res"], x.shape[2:], mode="bilinear")], dim=1)
        return network(self.model, x, t, condition.get("y"), condition.get("augmented"))

    def update(self, batch: Batch) -> float:
        """One optimiser step at the settings' constant learning rate; returns the mean loss of the batch."""
        for p in self.parameters:
            p.grad = None
        count, loss = len(batch.x_start), 0.0
        for start in range(0, count, self.config.train.micro):
            part = batch.part(start, min(start + self.config.train.micro, count))
            losses = training_losses(self.network, self.schedule, self.full, self.config, part)["loss"]
            share = (losses if part.weight is None else losses * part.weight).sum() / count
            share.backward()
            loss += share.item()
        self.grad_norm = sum((p.grad**2).sum().item() for p in self.parameters if p.grad is not None) ** 0.5
        self.optimizer.step()
        self._average()
        return loss

    @torch.no_grad()
    def _average(self) -> None:
        self._rates.updates += 1
        for rate, averages in self.averages.items():
            kept = self._rates.effective_rate(rate)
            for average, p in zip(averages, self.parameters, strict=True):
                average.mul_(kept).add_(p, alpha=1 - kept)


def network(model: UNet, x: Tensor, t: Tensor, y: Tensor | None, augmented: Tensor | None = None) -> Tensor:
    """Evaluates `model` in plain torch: x [N, C, H, W], t float32 [N], y int64 [N] -> [N, C or 2C, H, W]."""
    first, _, second = model.time_embed
    embedding = second(silu(first(unet.timestep_embedding(t, model.config.num_channels))))
    if model.config.class_cond:
        embedding = embedding + model.label_emb(y)
    if augmented is not None:
        embedding = embedding + model.augment_emb(augmented)
    skips = []
    image, x = x, model.to_patches(x)
    for block in model.input_blocks:
        x = through(block, x, embedding)
        skips.append(x)
    x = through(model.middle_block, x, embedding)
    for block in model.output_blocks:
        x = through(block, torch.cat([x, skips.pop()], dim=1), embedding)
    normalise, _, last = model.out
    x = model.to_pixels(last(silu(norm(normalise, x))))
    if model.config.edge_channels:
        x, features = x.split([model.config.out_channels, model.config.edge_channels], dim=1)
        x = x + model.edge_out(silu(model.edge_in(image) + features))
    return x


def through(block: nn.Module, x: Tensor, embedding: Tensor) -> Tensor:
    """A block's layers in sequence, x [N, C, H, W]; embedding: [N, E]."""
    assert isinstance(block, Block)
    for layer in block:
        match layer:
            case ResBlock():
                x = residual(layer, x, embedding)
            case AttentionBlock():
                x = attention(layer, x)
            case Downsample():
                x = layer.op(x)
            case Upsample():
                x = layer.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
            case Stem():
                x = layer(x, embedding)
            case _:
                raise TypeError(f"the baseline has no {type(layer).__name__}")
    return x


def residual(layer: ResBlock, x: Tensor, embedding: Tensor) -> Tensor:
    """A residual block: x [N, C_in, H, W], embedding [N, E] -> [N, C, H, W]."""
    normalise, _, conv = layer.in_layers
    h = conv(silu(norm(normalise, x)))
    e = layer.emb_layers[1](silu(embedding))[:, :, None, None]
    normalise, _, dropout, conv = layer.out_layers
    if layer.scale_shift:
        scale, shift = torch.chunk(e, 2, dim=1)
        h = norm(normalise, h) * (1 + scale) + shift
    else:
        h = norm(normalise, h + e)
    return layer.skip_connection(x) + conv(dropout(silu(h)))


def attention(layer: AttentionBlock, x: Tensor) -> Tensor:
    """Self-attention [N, C, H, W] -> [N, C, H, W], with the whole matrix of weights [N * heads, H * W, H * W]."""
    n, c, *size = x.shape
    flat = x.reshape(n, c, -1)
    qkv = layer.qkv(norm(layer.norm, flat))
    if layer.new_order:
        qkv = qkv.unflatten(1, (3, layer.heads, -1)).transpose(1, 2)
    qkv = qkv.reshape(n * layer.heads, 3 * c // layer.heads, -1)
    q, k, v = torch.split(qkv, c // layer.heads, dim=1)
    scale = (c // layer.heads) ** -0.25  # of each of the two: better in 16 bits than of their product
    weights = torch.einsum("bct,bcs->bts", q * scale, k * scale)
    weights = torch.softmax(weights.float(), dim=-1).type(weights.dtype)
    h = torch.einsum("bts,bcs->bct", weights, v).reshape(n, c, -1)
    return (flat + layer.proj_out(h)).reshape(n, c, *size)


def norm(layer: nn.Module, x: Tensor) -> Tensor:
    """A normalisation of x [N, C, ...] in fp32, in x's dtype again."""
    normalised: Tensor = layer(x.float())
    return normalised.type(x.dtype)


def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x), elementwise on [...]."""
    return x * torch.sigmoid(x)
