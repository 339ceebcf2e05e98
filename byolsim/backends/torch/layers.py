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
    """W x for one layer (K, out, in), W_2 act(W_1 x) for two; x is (K, in, n), samples as columns."""
    if len(layers) == 1:
        return torch.bmm(layers[0], x)
    return torch.bmm(layers[1], activation(torch.bmm(layers[0], x)))
