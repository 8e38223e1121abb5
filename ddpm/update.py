"""The end of a training step: the length of the gradient, then AdamW and the moving averages."""

import ctypes
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ddpm.config import TrainConfig
from ddpm.ema import Ema

Addresses = ctypes.Array[ctypes.c_void_p]


class Update:
    """Moves weights and averages by a gradient; its optimiser is torch's AdamW, whose state goes into checkpoints.

    With a kernel library, and weights in float32 on a CPU, everything is done in two readings of the gradient; what
    comes out agrees with torch's to rounding.
    """

    def __init__(self, parameters: Sequence[Tensor], ema: Ema, train: TrainConfig, library: ctypes.CDLL | None):
        self.parameters, self.ema, self.library = list(parameters), ema, library
        self.optimizer = torch.optim.AdamW(self.parameters, lr=train.lr, weight_decay=train.weight_decay, fused=True)
        self.clip = train.grad_clip
        self._steps = 0.0  # done by the kernel: torch counts them for each weight, which takes a hundredth of a step
        self._places: tuple[Addresses, Addresses, Addresses, Addresses] | None = None
        if library is not None:
            self.optimizer.register_state_dict_pre_hook(self._tell_steps)
            self.optimizer.register_load_state_dict_post_hook(self._hear_steps)
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
        elif gradient.stride() != parameter.stride():  # torch's own kernel does not look at them either
            gradient = parameter.grad = torch.empty_like(parameter).copy_(gradient)
        return gradient

    def _norm(self, gradients: list[Tensor]) -> float:
        if self.library is None:
            return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))))
        return math.sqrt(self.library.update_square(len(gradients), _addresses(gradients), self._sizes))

    @torch.no_grad()
    def _step(self, library: ctypes.CDLL, gradients: list[Tensor], factor: float) -> None:
        (group,) = self.optimizer.param_groups
        if self._places is None:
            self._places = self._found()
        self._steps += 1
        beta1, beta2 = group["betas"]
        kept = [rate for rate, _ in self.ema.due()]
        weights, means, squares, averages = self._places
        library.update_adamw(
            len(gradients), weights, _addresses(gradients), means, squares, self._sizes,
            len(kept), averages, (ctypes.c_double * len(kept))(*kept),
            group["lr"], group["weight_decay"], beta1, beta2, group["eps"],
            1 - beta1**self._steps, math.sqrt(1 - beta2**self._steps), factor,
        )  # fmt: skip

    def _found(self) -> tuple[Addresses, Addresses, Addresses, Addresses]:
        """Where weights, both moments and averages are; they stay there until the optimiser's state is loaded."""
        states = [self._state(p) for p in self.parameters]
        averages = [average for rate in self.ema.rates for average in self.ema.weights(rate).values()]
        moments = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))
        weights, means, squares, kept = map(_addresses, (self.parameters, *moments, averages))
        return weights, means, squares, kept

    def _state(self, parameter: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.optimizer.state[parameter]
        if not state:  # as torch's own begins
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        return state

    def _tell_steps(self, optimizer: torch.optim.Optimizer) -> None:
        for state in optimizer.state.values():
            state["step"].fill_(self._steps)

    def _hear_steps(self, optimizer: torch.optim.Optimizer) -> None:
        self._places = None
        self._steps = max((float(state["step"]) for state in optimizer.state.values()), default=0.0)


def _addresses(tensors: Sequence[Tensor]) -> Addresses:
    return (ctypes.c_void_p * len(tensors))(*(t.data_ptr() for t in tensors))
