"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): momentum whose every matrix is made orthogonal.

For the matrices inside the layers; embeddings, heads, norms and biases stay with AdamW. A step costs five small matrix
products more and learns from fewer sessions, which is what a CPU has few of. The length of a step follows Liu et al.
2025 (arXiv:2502.16982, section 2.2): entries move by `lr` times 0.2 in the root mean square, whatever the shape.
"""

from collections import defaultdict

import torch
from torch import nn

_COEFFICIENTS, _ROUNDS = (3.4445, -4.7750, 2.0315), 5


def orthogonal(stack: torch.Tensor) -> torch.Tensor:
    """Matrices [N, rows, columns] with their singular values brought near 1 by Newton-Schulz rounds in bfloat16."""
    tall = stack.shape[1] > stack.shape[2]
    x = stack.transpose(1, 2) if tall else stack
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
    a, b, c = _COEFFICIENTS
    for _ in range(_ROUNDS):
        square = x @ x.transpose(1, 2)
        x = a * x + (b * square + c * square @ square) @ x
    return (x.transpose(1, 2) if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Parameters of two and three axes; a convolution counts as a matrix [out, in * width]."""

    def __init__(self, parameters: list[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            shapes = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    shapes[p.flatten(1).shape].append(p)
            for (rows, columns), same in shapes.items():
                updates = []
                for p in same:
                    mean = self.state[p].setdefault("momentum", torch.zeros_like(p))
                    mean.lerp_(p.grad, 1 - group["momentum"])
                    updates.append(p.grad.lerp(mean, group["momentum"]).flatten(1))
                length = 0.2 * max(rows, columns) ** 0.5 * group["lr"]
                for p, update in zip(same, orthogonal(torch.stack(updates)), strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update.view_as(p), alpha=length)


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of `model` that Muon is for: weights of linear layers and convolutions, heads left out."""
    heads = {"lm_head", "phones", "head_code"}
    return [
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv1d) and name.split(".")[-1] not in heads
    ]


class Optimizers:
    """AdamW for what Muon is not for, Muon for the rest, as one: same schedule, one state."""

    def __init__(self, model: nn.Module, adamw_rate: float, muon_rate: float, weight_decay: float):
        inner = matrices(model)
        known = {id(p) for p in inner}
        others = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
        self._parts = {
            "adamw": torch.optim.AdamW(others, adamw_rate, (0.9, 0.98), weight_decay=weight_decay),
            "muon": Muon(inner, muon_rate, weight_decay=weight_decay),
        }

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for part in self._parts.values():
            part.zero_grad()

    def step(self, rate: float) -> None:
        """One update with the learning rates times `rate`."""
        for part in self._parts.values():
            for group in part.param_groups:
                group["lr"] = part.defaults["lr"] * rate
            part.step()

    def state_dict(self) -> dict:
        """Everything, to go on with."""
        return {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state: dict) -> bool:
        """Takes up `state`; False, and nothing changes, when another optimiser wrote it."""
        if state.keys() != self._parts.keys():
            return False
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        return True
