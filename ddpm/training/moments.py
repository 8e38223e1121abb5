"""What AdamW remembers of each weight, in the form in which torch.optim.AdamW has it and writes it.

Without that one: the first optimiser of torch.optim takes a second to make, and 70 MB, for a compiler that is not used.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class Moments:
    """Both moments of the gradient of each weight, the number of steps, and AdamW's settings.

    `state` and `param_groups` are as torch's, and so is what `state_dict` gives, but for the steps, which are counted in
    `steps` for all weights together.
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
        parameters: list[Tensor] = self.param_groups[0]["params"]
        return parameters

    def begin(self) -> None:
        """Make both moments of all weights, as zeros, where there are none yet."""
        for parameter in self.parameters:
            if parameter not in self.state:
                zeros = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                self.state[parameter] = {"step": torch.zeros(()), **zeros}

    def all(self, name: str) -> list[Tensor]:
        """exp_avg or exp_avg_sq of every weight."""
        return [self.state[parameter][name] for parameter in self.parameters]

    def state_dict(self) -> dict[str, Any]:
        """As torch.optim.AdamW gives it: the tensors themselves, not copies."""
        state = {}
        for number, parameter in enumerate(self.parameters):
            if parameter in self.state:
                self.state[parameter]["step"].fill_(self.steps)
                state[number] = dict(self.state[parameter])
        groups = [{**group, "params": list(range(len(group["params"])))} for group in self.param_groups]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from what state_dict gave.  Raises ValueError where it is of another number of weights, or of other sizes."""
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
