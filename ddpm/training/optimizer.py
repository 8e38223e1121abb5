"""The end of a training step: the length of the gradient, then AdamW and the moving averages."""

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ddpm.config.training import TrainConfig
from ddpm.models.native.build import Addresses, addresses
from ddpm.training.ema import Ema
from ddpm.training.moments import Moments


class Update:
    """Moves weights and averages by a gradient; its optimiser is AdamW, whose state goes into checkpoints.

    With a kernel library, and weights in float32 on a CPU, everything is done in two readings of the gradient; what
    comes out agrees with torch's to rounding.
    """

    def __init__(self, parameters: Sequence[Tensor], ema: Ema, train: TrainConfig, library: ctypes.CDLL | None):
        self.parameters, self.ema, self.library = list(parameters), ema, library
        self.optimizer: torch.optim.AdamW | Moments
        if library is None:
            self.optimizer = torch.optim.AdamW(self.parameters, train.lr, weight_decay=train.weight_decay, fused=True)
        else:
            self.optimizer = Moments(self.parameters, train.lr, train.weight_decay)
        self.clip = train.grad_clip
        self._places: tuple[Any, tuple[Addresses, Addresses, Addresses, Addresses]] | None = None
        self._sizes = (ctypes.c_long * len(self.parameters))(*(p.numel() for p in self.parameters))

    def apply(self, lr: float) -> tuple[float, bool]:
        """(length of the whole gradient before clipping, whether it was applied): one that is not finite is not."""
        gradients = [self._dense(p) for p in self.parameters]
        norm = self.length(gradients)
        if not math.isfinite(norm):
            return norm, False
        factor = self.clip / norm if 0 < self.clip < norm else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if isinstance(self.optimizer, Moments):
            self._step(self.optimizer, gradients, factor)
        else:
            if factor != 1.0:
                torch._foreach_mul_(gradients, factor)
            self.optimizer.step()
            self.ema.update()
        return norm, True

    def _dense(self, parameter: Tensor) -> Tensor:
        """The gradient, in the order in which its weights lie; zero where nothing depended on them."""
        gradient = parameter.grad
        if gradient is None:
            gradient = parameter.grad = torch.zeros_like(parameter)
        elif gradient.stride() != parameter.stride():  # torch's own kernel does not look at them either
            gradient = parameter.grad = torch.empty_like(parameter).copy_(gradient)
        return gradient

    def length(self, tensors: Sequence[Tensor]) -> float:
        """Of all gradients, or all weights, together, in the order of the parameters."""
        assert len(tensors) == len(self._sizes), "it knows the sizes of the parameters alone"
        if self.library is None:
            return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors)))))
        self.library.use_threads(torch.get_num_threads())
        return math.sqrt(self.library.update_square(len(tensors), addresses(tensors), self._sizes))

    @torch.no_grad()
    def _step(self, moments: Moments, gradients: list[Tensor], factor: float) -> None:
        assert self.library is not None, "moments are for the kernel"
        (group,) = moments.param_groups
        weights, means, squares, averages = self._found(moments)
        moments.steps += 1
        beta1, beta2 = group["betas"]
        kept = [rate for rate, _ in self.ema.due()]
        self.library.update_adamw(
            len(gradients),
            weights,
            addresses(gradients),
            means,
            squares,
            self._sizes,
            len(kept),
            averages,
            (ctypes.c_double * len(kept))(*kept),
            group["lr"],
            group["weight_decay"],
            beta1,
            beta2,
            group["eps"],
            1 - beta1**moments.steps,
            math.sqrt(1 - beta2**moments.steps),
            factor,
        )

    def _found(self, moments: Moments) -> tuple[Addresses, Addresses, Addresses, Addresses]:
        """Where weights, both moments and averages are; they stay there until the optimiser's state is loaded."""
        if self._places is None or self._places[0] is not moments.state:
            moments.begin()
            averages = [average for rate in self.ema.rates for average in self.ema.weights(rate).values()]
            of_all = (self.parameters, moments.all("exp_avg"), moments.all("exp_avg_sq"), averages)
            weights, means, squares, kept = map(addresses, of_all)
            self._places = moments.state, (weights, means, squares, kept)
        return self._places[1]
