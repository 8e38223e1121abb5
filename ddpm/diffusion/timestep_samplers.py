"""Samplers of the timesteps of a training step: uniform, stratified, or by importance (Nichol & Dhariwal 2021, 3.3).

A sampler returns timesteps and weights of their losses, so that the mean of the weighted loss is unbiased.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

HISTORY = 10  # losses that are kept of each timestep
UNIFORM = 0.001  # share of the probability that is uniform, so that every timestep is sampled


class TimestepSampler(Protocol):
    """Samples timesteps 0 .. T-1; t, weights and losses are [n]."""

    def sample(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Timesteps int64 [n], and the weight float32 [n] of each one's loss; None where all are 1."""

    def update(self, t: Tensor, losses: Tensor) -> None:
        """Updates the probabilities by the unweighted losses [n] at timesteps t [n]."""

    def state(self) -> dict[str, Any]:
        """State for an exact resume."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Restores an earlier `state()`."""


class Uniform:
    """Uniform sampling: t int64 [n], no weights."""

    def __init__(self, T: int):
        self.T = T

    def sample(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        return torch.randint(self.T, (n,), generator=rng), None

    def update(self, t: Tensor, losses: Tensor) -> None:
        """Does nothing."""

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Does nothing."""


class Stratified(Uniform):
    """Uniform sampling that covers the range with each batch: t int64 [n], no weights (Kingma et al. 2021, I.1).

    The range is cut into n equal parts, and each gives one timestep, all at the same place in it.
    """

    def sample(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        place = torch.rand((), generator=rng, dtype=torch.float64)
        t = ((torch.arange(n) + place) * (self.T / n)).long().clamp(max=self.T - 1)
        return t[torch.randperm(n, generator=rng)], None


class LossSecondMoment:
    """p(t) in proportion to sqrt(E[L_t^2]) over the last losses (Nichol & Dhariwal 2021, Eq. 18): t int64 [n].

    Uniform until each timestep has HISTORY losses.
    """

    def __init__(self, T: int):
        self.T = T
        self._losses = np.zeros((T, HISTORY))
        self._counts = np.zeros(T, dtype=np.int64)

    def weights(self) -> np.ndarray:
        """Relative probabilities, float64 [T]; they sum to 1 once every timestep has HISTORY losses."""
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
        if "losses" not in state or state["losses"].shape != self._losses.shape:
            return  # of another sampler, or of another number of timesteps: it begins to measure
        self._losses, self._counts = state["losses"].numpy().copy(), state["counts"].numpy().copy()


SAMPLERS: dict[str, Callable[[int], TimestepSampler]] = {
    "uniform": Uniform,
    "stratified": Stratified,
    "loss-second-moment": LossSecondMoment,
}
