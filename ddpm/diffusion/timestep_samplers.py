"""Which timesteps a training step looks at: all alike, or by how much their losses vary.

A sampler draws timesteps and gives each a weight that keeps the mean of the weighted loss what it would be
if all timesteps were drawn alike.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

HISTORY = 10  # losses remembered of each timestep
UNIFORM = 0.001  # share of the probability that all timesteps have alike, so that none is forgotten


class TimestepSampler(Protocol):
    """Draws timesteps for a process of T of them."""

    def sample(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Timesteps int64 [n] and the weight [n] of each one's loss; None where all are 1."""

    def update(self, t: Tensor, losses: Tensor) -> None:
        """Learn from the unweighted losses [n] at timesteps t [n]."""

    def state(self) -> dict[str, Any]:
        """What an exact resume needs."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from an earlier `state()`."""


class Uniform:
    """All timesteps alike."""

    def __init__(self, T: int):
        self.T = T

    def sample(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        return torch.randint(self.T, (n,), generator=rng), None

    def update(self, t: Tensor, losses: Tensor) -> None:
        """Nothing to learn."""

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Nothing to go on from."""


class LossSecondMoment:
    """p(t) in proportion to sqrt(E[L_t^2]) over the last losses (Nichol & Dhariwal 2021, Eq. 18).

    Alike until each timestep has been seen HISTORY times.
    """

    def __init__(self, T: int):
        self.T = T
        self._losses = np.zeros((T, HISTORY))
        self._counts = np.zeros(T, dtype=np.int64)

    def weights(self) -> np.ndarray:
        """Relative probabilities, float64 [T]; they sum to 1 once all timesteps are known well enough."""
        if (self._counts < HISTORY).any():
            return np.ones(self.T)
        weights = np.sqrt((self._losses**2).mean(axis=1))
        return weights / weights.sum() * (1 - UNIFORM) + UNIFORM / self.T

    def sample(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        p = self.weights()
        p = p / p.sum()
        t = torch.multinomial(torch.from_numpy(p), n, replacement=True, generator=rng)
        return t, (1 / (self.T * torch.from_numpy(p)[t])).float()

    def update(self, t: Tensor, losses: Tensor) -> None:
        for timestep, loss in zip(t.tolist(), losses.tolist(), strict=True):
            count = self._counts[timestep]
            if count < HISTORY:
                self._losses[timestep, count] = loss
                self._counts[timestep] += 1
            else:
                self._losses[timestep] = np.append(self._losses[timestep, 1:], loss)

    def state(self) -> dict[str, Any]:
        return {"losses": torch.from_numpy(self._losses.copy()), "counts": torch.from_numpy(self._counts.copy())}

    def load(self, state: Mapping[str, Any]) -> None:
        self._losses, self._counts = state["losses"].numpy().copy(), state["counts"].numpy().copy()


SAMPLERS: dict[str, Callable[[int], TimestepSampler]] = {"uniform": Uniform, "loss-second-moment": LossSecondMoment}
