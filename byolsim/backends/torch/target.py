"""How the targets of a group follow their encoders: `byolsim.model.target`."""

from __future__ import annotations

import torch
from torch import Tensor

from byolsim.backends.torch.layers import Layers


class EMA:
    """`target.EMA`, from the nearer of the target and the encoder, so that tau = 1 copies; every layer has its own.

    In single precision `lost` keeps what rounding took from each layer of the target, for the next step.
    """

    def __init__(self, target: Layers) -> None:
        self.lost = [torch.zeros_like(W) for W in target if W.dtype == torch.float32]

    def after_step(self, target: Layers, encoder: Layers, tau: Tensor) -> None:
        """Move the target, with the new encoder, at the rates tau (K, 1, 1)."""
        if not self.lost:
            for slow, fast in zip(target, encoder, strict=True):
                slow.lerp_(fast, tau)
            return
        near = tau < 0.5
        weight = torch.where(near, tau, tau - 1)
        for slow, fast, lost in zip(target, encoder, self.lost, strict=True):
            step = torch.sub(fast, slow).mul_(weight).sub_(lost)
            start = torch.where(near, slow, fast)
            torch.add(start, step, out=slow)
            torch.sub(slow, start, out=lost).sub_(step)
