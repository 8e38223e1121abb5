"""What follows the backward pass of a training step: the gradient norm, AdamW, and moving averages of the weights.

Optimizer does all three.  AdamWState holds AdamW's moments for the kernel library; Ema holds the averages.
"""

import ctypes
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ddpm.checkpoints.power_profiles import gamma_of, rate_at
from ddpm.config import ema_rates
from ddpm.config.training import TrainConfig
from ddpm.models.native.build import Addresses, addresses


class Ema:
    """Moving averages of a network's weights, one per rate: a decay rate, or a power profile as in power0.05.

    average <- rate * average + (1 - rate) * weights.  Averages are float32, of the weights' shapes [...].  With
    `warmup` a decay rate begins at 1/10 and rises to its value as (1 + n) / (10 + n) after n updates, so that the
    random initial weights are soon forgotten; 0.9999 alone still holds half of them after 7,000 steps.  The rate of a
    power profile follows from the number of updates (`ddpm.checkpoints.power_profiles`).
    """

    def __init__(self, model: nn.Module, rates: tuple[str, ...], warmup: bool):
        self.rates = rates
        self.warmup = warmup
        self.updates = 0
        self._weights = [p.detach() for p in model.parameters()]
        widths = {rate: ema_rates.width_of(rate) for rate in rates}
        self._gammas = {rate: gamma_of(width) for rate, width in widths.items() if width is not None}
        self._names = [name for name, _ in model.named_parameters()]
        self._averages = {rate: [w.clone() for w in self._weights] for rate in rates}

    @torch.no_grad()
    def update(self) -> None:
        """Moves every average towards the weights, once."""
        for rate, average in self.begin_update():
            torch._foreach_mul_(average, rate)
            torch._foreach_add_(average, self._weights, alpha=1 - rate)

    def begin_update(self) -> list[tuple[float, list[Tensor]]]:
        """Counts an update, which the caller does: (rate in force, average [...] of each weight) per rate."""
        self.updates += 1
        return [(self.effective_rate(rate), average) for rate, average in self._averages.items()]

    def effective_rate(self, rate: str) -> float:
        """The rate in force at this update, after warm-up."""
        if rate in self._gammas:
            return rate_at(self._gammas[rate], self.updates)
        ramp = (1 + self.updates) / (10 + self.updates)
        return min(float(rate), ramp) if self.warmup else float(rate)

    def weights(self, rate: str) -> dict[str, Tensor]:
        """Parameter name -> average, float32 [...]; the averages themselves, not copies."""
        return dict(zip(self._names, self._averages[rate], strict=True))

    @torch.no_grad()
    def load(self, rate: str, weights: dict[str, Tensor]) -> None:
        """Copies an average from parameter name -> tensor [...]."""
        for average, name in zip(self._averages[rate], self._names, strict=True):
            average.copy_(weights[name])


class AdamWState:
    """AdamW's two moments of each weight, in the form in which torch.optim.AdamW holds and saves them.

    `state`, `param_groups` and `state_dict()` are as torch's; the step count, `steps`, is one for all weights.
    Moments are float32, of the weights' shapes [...].  torch's class is not used because its first instance takes a
    second and 70 MB, for a compiler that is not needed here.
    """

    def __init__(self, parameters: Sequence[Tensor], lr: float, weight_decay: float):
        self.steps = 0.0
        self.state: dict[Tensor, dict[str, Tensor]] = {}
        fixed = {
            "amsgrad": False,
            "maximize": False,
            "foreach": None,
            "capturable": False,
            "differentiable": False,
            "fused": True,
            "decoupled_weight_decay": True,
        }
        group = {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": weight_decay, **fixed}
        self.param_groups: list[dict[str, Any]] = [{**group, "params": list(parameters)}]

    @property
    def parameters(self) -> list[Tensor]:
        """The weights, float32 [...] each."""
        parameters: list[Tensor] = self.param_groups[0]["params"]
        return parameters

    def allocate(self) -> None:
        """Creates the moments of each weight that has none yet, as zeros."""
        for parameter in self.parameters:
            if parameter not in self.state:
                zeros = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                self.state[parameter] = {"step": torch.zeros(()), **zeros}

    def moments(self, name: str) -> list[Tensor]:
        """`name` is exp_avg or exp_avg_sq; returns that moment of every weight, float32 [...] each."""
        return [self.state[parameter][name] for parameter in self.parameters]

    def state_dict(self) -> dict[str, Any]:
        """The same dict as torch.optim.AdamW's; it holds the tensors themselves, not copies."""
        state = {}
        for number, parameter in enumerate(self.parameters):
            if parameter in self.state:
                self.state[parameter]["step"].fill_(self.steps)
                state[number] = dict(self.state[parameter])
        groups = [{**group, "params": list(range(len(group["params"])))} for group in self.param_groups]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Loads what `state_dict` returned.  Raises ValueError for another number of weights or other shapes."""
        (group,), parameters = saved["param_groups"], self.parameters
        if len(group["params"]) != len(parameters):
            raise ValueError(
                f"the optimiser's state is of {len(group['params'])} weights, and there are {len(parameters)}"
            )
        self.param_groups = [{**group, "params": parameters}]
        self.state = {}
        for number, entry in saved["state"].items():
            parameter = parameters[number]
            if entry["exp_avg"].shape != parameter.shape:
                raise ValueError(
                    f"a moment is {tuple(entry['exp_avg'].shape)}, and its weight {tuple(parameter.shape)}"
                )
            moments = {name: torch.empty_like(parameter).copy_(entry[name]) for name in ("exp_avg", "exp_avg_sq")}
            step = torch.as_tensor(entry["step"], dtype=torch.float32)
            self.state[parameter] = {"step": step.detach().clone(), **{k: v.detach() for k, v in moments.items()}}
        self.steps = max((float(entry["step"]) for entry in self.state.values()), default=0.0)


class Optimizer:
    """AdamW with gradient clipping (`train.grad_clip`) and moving averages, from the gradients of parameters [...].

    With a kernel library, and weights in float32 on a CPU, all of it reads the gradient twice; the result agrees with
    torch's to rounding.  `adamw` is torch's optimiser or its AdamWState, and holds what checkpoints keep.
    """

    def __init__(self, parameters: Sequence[Tensor], ema: Ema, train: TrainConfig, library: ctypes.CDLL | None):
        self.parameters, self.ema, self.library = list(parameters), ema, library
        self.adamw: torch.optim.AdamW | AdamWState
        if library is None:
            self.adamw = torch.optim.AdamW(self.parameters, train.lr, weight_decay=train.weight_decay, fused=True)
        else:
            self.adamw = AdamWState(self.parameters, train.lr, train.weight_decay)
        self.clip = train.grad_clip
        self._addresses: tuple[Any, tuple[Addresses, Addresses, Addresses, Addresses]] | None = None
        self._sizes = (ctypes.c_long * len(self.parameters))(*(p.numel() for p in self.parameters))

    def state_dict(self) -> dict[str, Any]:
        """AdamW's state as torch.optim.AdamW saves it: the tensors themselves, not copies."""
        return self.adamw.state_dict()

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Loads what `state_dict` returned.  Raises ValueError where it does not fit the weights."""
        self.adamw.load_state_dict(dict(saved))

    def step(self, lr: float) -> tuple[float, bool]:
        """Updates weights and averages; returns (norm of the whole gradient before clipping, True if it was applied).

        A gradient whose norm is not finite is not applied.
        """
        gradients = [self._dense_gradient(p) for p in self.parameters]
        norm = self.norm(gradients)
        if not math.isfinite(norm):
            return norm, False
        factor = self.clip / norm if 0 < self.clip < norm else 1.0
        for group in self.adamw.param_groups:
            group["lr"] = lr
        if isinstance(self.adamw, AdamWState):
            self._native_step(self.adamw, gradients, factor)
        else:
            if factor != 1.0:
                torch._foreach_mul_(gradients, factor)
            self.adamw.step()
            self.ema.update()
        return norm, True

    def _dense_gradient(self, parameter: Tensor) -> Tensor:
        """The gradient in the memory order of its weights; zeros where nothing depended on them."""
        gradient = parameter.grad
        if gradient is None:
            gradient = parameter.grad = torch.zeros_like(parameter)
        elif gradient.stride() != parameter.stride():  # torch's own kernel ignores strides too
            gradient = parameter.grad = torch.empty_like(parameter).copy_(gradient)
        return gradient

    def norm(self, tensors: Sequence[Tensor]) -> float:
        """L2 norm over all gradients, or all weights, together: float32 [...] each, in the order of the parameters."""
        assert len(tensors) == len(self._sizes), "it knows the sizes of the parameters alone"
        if self.library is None:
            return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors)))))
        self.library.use_threads(torch.get_num_threads())
        return math.sqrt(self.library.update_square(len(tensors), addresses(tensors), self._sizes))

    @torch.no_grad()
    def _native_step(self, adamw: AdamWState, gradients: list[Tensor], factor: float) -> None:
        assert self.library is not None, "AdamWState is for the kernel library"
        (group,) = adamw.param_groups
        weights, means, squares, averages = self._find_addresses(adamw)
        adamw.steps += 1
        beta1, beta2 = group["betas"]
        rates = [rate for rate, _ in self.ema.begin_update()]
        self.library.update_adamw(
            len(gradients),
            weights,
            addresses(gradients),
            means,
            squares,
            self._sizes,
            len(rates),
            averages,
            (ctypes.c_double * len(rates))(*rates),
            group["lr"],
            group["weight_decay"],
            beta1,
            beta2,
            group["eps"],
            1 - beta1**adamw.steps,
            math.sqrt(1 - beta2**adamw.steps),
            factor,
        )

    def _find_addresses(self, adamw: AdamWState) -> tuple[Addresses, Addresses, Addresses, Addresses]:
        """Addresses of weights, both moments and averages; they stay valid until the optimiser's state is loaded."""
        if self._addresses is None or self._addresses[0] is not adamw.state:
            adamw.allocate()
            averages = [average for rate in self.ema.rates for average in self.ema.weights(rate).values()]
            of_all = (self.parameters, adamw.moments("exp_avg"), adamw.moments("exp_avg_sq"), averages)
            weights, means, squares, kept = map(addresses, of_all)
            self._addresses = adamw.state, (weights, means, squares, kept)
        return self._addresses[1]
