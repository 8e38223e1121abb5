"""What training makes smaller.  An objective is a function and a row of OBJECTIVES."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from ddpm.config import Config
from ddpm.diffusion import Network, network_time, q_sample
from ddpm.schedules import Schedule


class Batch(NamedTuple):
    """One training step's pictures and all that is drawn at random for it."""

    x_start: Tensor  # [N, C, H, W] in [-1, 1]
    t: Tensor  # [N] int64 index into the schedule
    noise: Tensor  # [N, C, H, W] ~ N(0, I)
    y: Tensor | None = None  # [N] int64 labels

    def part(self, start: int, stop: int) -> "Batch":
        return Batch(*(None if field is None else field[start:stop] for field in self))  # type: ignore[arg-type]


Losses = dict[str, Tensor]  # name -> [N]; "loss" is what is minimised, the others are its parts


def simple(network: Network, schedule: Schedule, config: Config, batch: Batch) -> Losses:
    """L_simple: the mean squared error of the prediction (Ho et al. 2020, Eq. 14)."""
    x_t = q_sample(schedule, batch.x_start, batch.t, batch.noise)
    timesteps = batch.t.new_tensor(schedule.timesteps)[batch.t]
    output = network(x_t, network_time(config.diffusion, schedule.T, timesteps), batch.y)
    target = batch.x_start if config.diffusion.predict_xstart else batch.noise
    mse = (target - output).square().flatten(1).mean(dim=1)
    return {"loss": mse, "mse": mse}


Objective = Callable[[Network, Schedule, Config, Batch], Losses]
OBJECTIVES: dict[str, Objective] = {"simple": simple}
