"""A group of runs as one batch of stacked parameters: the step of `byolsim.model.step` with gradients by autograd.

Every parameter carries the run as its first axis, so one operation serves the whole group, and the gradient of the sum
of the runs' losses is the stack of their gradients. Products are batched, one of a fixed shape per run. On CUDA nothing
in a step waits for the device: bounds, counters and the divergence check are tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from byolsim.backends.torch.layers import ACTIVATIONS, Layers
from byolsim.backends.torch.rules import EMA, PREDICTOR_RULES
from byolsim.backends.torch.samplers import PARTS, sampler_class
from byolsim.backends.torch.schedule import Curvature, Rates
from byolsim.backends.torch.world import TorchWorld
from byolsim.config.run import RunConfig
from byolsim.model.start import Start
from byolsim.model.state import DIVERGENCE_BOUND
from byolsim.model.world import World


class Group:
    """Parameters, momentum buffers, target and schedule of K runs, and their step."""

    def __init__(
        self, group: Sequence[RunConfig], world: World, device: torch.device, initial: Start | None = None
    ) -> None:
        config = group[0]
        self.config, self.K = config, len(group)
        self.dtype = torch.float64 if config.dtype == "float64" else torch.float32
        self.world = TorchWorld.of(world, device, self.dtype)
        self.sampler = sampler_class(config)(config, world, self.world)
        self.activation = ACTIVATIONS[config.activation or "identity"]
        starts = [self.sampler.start(run, initial) for run in group]
        self.encoder, self.predictor, self.target, self.V_enc, self.V_pred = (
            [
                torch.tensor(np.stack(layers), device=device, dtype=self.dtype)
                for layers in zip(*(start[part] for start in starts), strict=True)
            ]
            for part in PARTS
        )
        for W in (*self.encoder, *self.predictor):
            W.requires_grad_()
        self.rates = Rates(group, world, device)
        self.mu_P, self.mu_B, self.eta = (self._per_run(v) for v in (self.rates.mu_P, self.rates.mu_B, self.rates.eta))
        self.rule = PREDICTOR_RULES[config.pred_rule](group, self.predictor)
        self.follow = EMA(self._per_run(self.rates.tau), self.target)
        self.curvature = Curvature(self.K, config.k, config.power_iters, device)
        self.behind = initial.epoch if initial else 0
        self.rates_wait = initial is not None and initial.curvature is not None
        if initial is not None:
            self._recall(initial)
        self.diverged = torch.full((self.K,), -1, device=device)
        self.loss = torch.full((self.K,), torch.nan, device=device, dtype=self.dtype)
        self.has_decay = any(run.weight_decay > 0 for run in group)
        self.is_linear = len(self.encoder) == len(self.predictor) == 1

    def _recall(self, initial: Start) -> None:
        """What a start knows beside parameters and momentum."""
        if initial.curvature is not None:
            self.curvature.recall(initial.curvature)
        lost = self.sampler.lost(initial)
        if lost is not None:
            for W in self.follow.lost:
                W[:] = torch.tensor(lost, dtype=W.dtype)

    def final(self, run: int, epoch: int) -> Start | None:
        """Where a linear run ended, `epoch` steps behind it, in double precision; None if it diverged."""
        if not self.is_linear or self.diverged[run] >= 0:
            return None
        lost = self.follow.lost or [torch.zeros_like(self.target[0])]
        layers = (self.predictor, self.V_pred, self.encoder, self.V_enc, self.target, lost)
        P, V_P, B_o, V_B, B_t, kept = (W[0][run].detach().double().cpu().numpy().copy() for W in layers)
        curvature = self.curvature.state(run)
        start = Start(P, V_P, B_o, V_B, B_t, epoch, lost=kept if kept.any() else None, curvature=curvature)
        return self.sampler.end(start)

    def step(self, t: int, row: Tensor) -> None:
        """Step t on one row of the sampler's draws."""
        self.sampler.step(self, t, row)

    def descend(self, t: int, loss: Tensor, covariance: Callable[[], Tensor]) -> None:
        """Update by the gradients of the sum of the runs' losses (K,)."""
        gradients = torch.autograd.grad(loss.sum(), [*self.predictor, *self.encoder])
        self.update(t, loss, gradients, covariance)

    def update(self, t: int, loss: Tensor, gradients: Sequence[Tensor], covariance: Callable[[], Tensor]) -> None:
        """The rates, the heavy-ball steps, the EMA and the divergence check, from the gradients without decay."""
        config, rates = self.config, self.rates
        with torch.no_grad():
            self.loss = loss.detach()
            alive = self.diverged < 0
            if (t - 1) % config.auto_every == 0:
                self.curvature.tick(covariance())
                self.rates_wait = True
            if self.rates_wait:
                rates.tick(self.curvature)
                self.rates_wait = False
            rates.step(self.predictor[0] if self.is_linear else None, alive)
            squares = []
            for layers, velocities, grads, every, rate, mu in (
                (self.predictor, self.V_pred, gradients[: len(self.predictor)], config.pred_update_every,
                 rates.alpha, self.mu_P),
                (self.encoder, self.V_enc, gradients[len(self.predictor) :], config.enc_update_every,
                 rates.beta, self.mu_B),
            ):  # fmt: skip
                if t % every == 0:
                    squares.append(self._heavy_ball(layers, velocities, grads, rate, mu))
            set_to = self.rule.after_step(self.predictor)
            if set_to is not None:
                squares.append(set_to)
            self.follow.after_step(self.target, self.encoder)
            size = torch.zeros(self.K, device=loss.device, dtype=torch.float64)
            for square in squares:
                size = torch.maximum(size, square)
            self.diverged = torch.where(alive & ~(size <= DIVERGENCE_BOUND**2), t, self.diverged)

    def _heavy_ball(
        self, layers: Layers, velocities: Layers, gradients: Sequence[Tensor], rate: Tensor, mu: Tensor
    ) -> Tensor:
        """V <- mu V + (gradient + eta W), W <- W - rate V in every layer; the squared norm of all layers, NaN kept.

        In place throughout: a temporary of a megabyte costs ten times the arithmetic that fills it.
        """
        rate = self._per_run(rate)
        square = torch.zeros(self.K, device=mu.device, dtype=torch.float64)
        for W, V, gradient in zip(layers, velocities, gradients, strict=True):
            if self.has_decay:
                gradient.addcmul_(self.eta, W)
            V.mul_(mu).add_(gradient)
            W.addcmul_(rate, V, value=-1)
            square += torch.linalg.vector_norm(W, dim=(1, 2)).double().square()
        return square

    def _per_run(self, values: Tensor) -> Tensor:
        return values.to(self.dtype)[:, None, None]
