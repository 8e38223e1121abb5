"""How well a model knows pictures it is shown: the variational bound in bits per dimension."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm import diffusion, losses
from ddpm.config import DiffusionConfig
from ddpm.diffusion import Condition, Network
from ddpm.schedules import Schedule

Noise = Callable[[int, int], Tensor]  # (place k of a picture, timestep index t) -> [C, H, W] ~ N(0, I)


class Bits(NamedTuple):
    """Bits per dimension of N pictures, and the terms they are made of, t = 0 first."""

    total: Tensor  # [N] prior and all terms of the bound
    prior: Tensor  # [N] L_T, of which nothing can be learnt
    vb: Tensor  # [N, T] the terms of the bound
    xstart_mse: Tensor  # [N, T] mean squared error of the predicted clean picture
    mse: Tensor  # [N, T] mean squared error of the predicted noise


@torch.no_grad()
def bits_per_dim(
    network: Network,
    full: Schedule,
    schedule: Schedule,
    settings: DiffusionConfig,
    x_start: Tensor,
    noise: Noise,
    condition: Condition | None = None,
    clip: bool = True,
    rows: int = 64,
) -> Bits:
    """The bound of each of the pictures x_start [N, C, H, W] over `schedule` (Ho et al. 2020, Eq. 5).

    Pictures times timesteps go through the network `rows` at a time, which bounds the memory.
    """
    count, T = len(x_start), len(schedule)
    terms = {name: torch.zeros(count, T, dtype=torch.float64) for name in ("vb", "xstart_mse", "mse")}
    pairs = [(k, t) for t in reversed(range(T)) for k in range(count)]
    for begin in range(0, len(pairs), rows):
        chunk = pairs[begin : begin + rows]
        places, index = (torch.tensor(column, device=x_start.device) for column in zip(*chunk, strict=True))
        drawn = torch.stack([noise(k, t) for k, t in chunk]).to(x_start.device)
        told = {name: value[places] for name, value in (condition or {}).items()}
        denoise = diffusion.denoiser(network, full, settings, told, clip)
        clean = x_start[places]
        x_t = diffusion.q_sample(schedule, clean, index, drawn)
        predicted = denoise(x_t, index.new_tensor(schedule.timesteps)[index])
        eps = diffusion.eps_from_x_start(schedule, x_t, index, predicted.x_start)
        found = {
            "vb": losses.vlb_terms(schedule, settings, clean, x_t, index, predicted),
            "xstart_mse": losses.mean_flat((predicted.x_start - clean).square()),
            "mse": losses.mean_flat((eps - drawn).square()),
        }
        for name, values in found.items():
            terms[name][places.cpu(), index.cpu()] = values.double().cpu()
    prior = losses.prior_bpd(schedule, x_start).double().cpu()
    return Bits(terms["vb"].sum(dim=1) + prior, prior, **terms)
