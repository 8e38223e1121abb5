"""The end of a training step: the length of the gradient, then AdamW and the moving averages."""

import ctypes
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ddpm.config import TrainConfig
from ddpm.ema import Ema


class Update:
    """Moves weights and averages by a gradient; its optimiser is torch's AdamW, whose state goes into checkpoints.

    With a kernel library, and weights in float32 on a CPU, everything is done in two readings of the gradient; what
    comes out agrees with torch's to rounding.
    """

    def __init__(self, parameters: Sequence[Tensor], ema: Ema, train: TrainConfig, library: ctypes.CDLL | None):
        self.parameters, self.ema, self.library = list(parameters), ema, library
        self.optimizer = torch.optim.AdamW(self.parameters, lr=train.lr, weight_decay=train.weight_decay, fused=True)
        self.clip = train.grad_clip
        self._sizes = (ctypes.c_long * len(self.parameters))(*(p.numel() for p in self.parameters))

    def apply(self, lr: float) -> tuple[float, bool]:
        """(length of the whole gradient before clipping, whether it was applied): one that is not finite is not."""
        gradients = [self._dense(p) for p in self.parameters]
        norm = self._norm(gradients)
        if not math.isfinite(norm):
            return norm, False
        factor = self.clip / norm if 0 < self.clip < norm else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if self.library is None:
            if factor != 1.0:
                torch._foreach_mul_(gradients, factor)
            self.optimizer.step()
            self.ema.update()
        else:
            self._step(self.library, gradients, factor)
        return norm, True

    def _dense(self, parameter: Tensor) -> Tensor:
        """The gradient, in the order in which its weights lie; zero where nothing depended on them."""
        gradient = parameter.grad
        if gradient is None:
            gradient = parameter.grad = torch.zeros_like(parameter)
        elif self.library is not None and gradient.stride() != parameter.stride():
            gradient = parameter.grad = torch.empty_like(parameter).copy_(gradient)
        return gradient

    def _norm(self, gradients: list[Tensor]) -> float:
        if self.library is None:
            return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))))
        return math.sqrt(self.library.update_square(len(gradients), _addresses(gradients), self._sizes))

    @torch.no_grad()
    def _step(self, library: ctypes.CDLL, gradients: list[Tensor], factor: float) -> None:
        (group,) = self.optimizer.param_groups
        states = [self._state(p) for p in self.parameters]
        torch._foreach_add_([state["step"] for state in states], 1)
        n = float(states[0]["step"])
        (beta1, beta2), averages = group["betas"], self.ema.due()
        library.update_adamw(
            len(gradients),
            _addresses(self.parameters),
            _addresses(gradients),
            _addresses([state["exp_avg"] for state in states]),
            _addresses([state["exp_avg_sq"] for state in states]),
            self._sizes,
            len(averages),
            _addresses([tensor for _, tensors in averages for tensor in tensors]),
            (ctypes.c_double * len(averages))(*(kept for kept, _ in averages)),
            group["lr"], group["weight_decay"], beta1, beta2, group["eps"],
            1 - beta1**n, math.sqrt(1 - beta2**n), factor,
        )  # fmt: skip

    def _state(self, parameter: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.optimizer.state[parameter]
        if not state:  # as torch's own begins
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        return state


def _addresses(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*(t.data_ptr() for t in tensors))
