"""Exponential moving averages of a network's weights."""

import torch
from torch import Tensor, nn


class Ema:
    """One average per rate, after each step: average <- rate * average + (1 - rate) * weights.

    With `warmup` the rate begins at 1/10 and rises to its value as (1 + n) / (10 + n) after n updates, so that
    the random start is forgotten at once; 0.9999 alone still holds half of it after 7,000 steps.
    """

    def __init__(self, model: nn.Module, rates: tuple[str, ...], warmup: bool):
        self.rates = rates
        self.warmup = warmup
        self.updates = 0
        self._weights = [p.detach() for p in model.parameters()]
        self._names = [name for name, _ in model.named_parameters()]
        self._averages = {rate: [w.clone() for w in self._weights] for rate in rates}

    @torch.no_grad()
    def update(self) -> None:
        for kept, average in self.due():
            torch._foreach_mul_(average, kept)
            torch._foreach_add_(average, self._weights, alpha=1 - kept)

    def due(self) -> list[tuple[float, list[Tensor]]]:
        """An update, counted and to be done by whoever asks: (how much of it stays, average) per rate."""
        self.updates += 1
        return [(self.rate_now(rate), average) for rate, average in self._averages.items()]

    def rate_now(self, rate: str) -> float:
        """The rate in force at this update."""
        ramp = (1 + self.updates) / (10 + self.updates)
        return min(float(rate), ramp) if self.warmup else float(rate)

    def weights(self, rate: str) -> dict[str, Tensor]:
        """name -> tensor; the averages themselves, not copies."""
        return dict(zip(self._names, self._averages[rate], strict=True))

    @torch.no_grad()
    def load(self, rate: str, weights: dict[str, Tensor]) -> None:
        for average, name in zip(self._averages[rate], self._names, strict=True):
            average.copy_(weights[name])
