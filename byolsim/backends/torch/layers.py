"""The functions of stacked layers: linear models and MLPs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "gelu": torch.nn.functional.gelu,
    "identity": lambda x: x,
}
Layers = list[Tensor]


def apply(layers: Sequence[Tensor], x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """W_L act(... act(W_1 x)) of layers (K, out, in); x is (K, in, n), samples as columns."""
    z = torch.bmm(layers[0], x)
    for W in layers[1:]:
        z = torch.bmm(W, activation(z))
    return z


def product(layers: Sequence[Tensor]) -> Tensor:
    """W_L ... W_1 of linear layers; of one layer that layer itself."""
    if len(layers) == 1:
        return layers[0]
    upper = layers[1]
    for W in layers[2:]:
        upper = torch.bmm(W, upper)
    return torch.bmm(upper, layers[0])
