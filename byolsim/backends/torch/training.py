"""A group of runs as one batch of stacked parameters: the step of `byolsim.model.step` with gradients by autograd.

Every parameter carries the run as its first axis, so one operation serves the whole group, and the gradient of the sum
of the runs' losses is the stack of their gradients. Products are batched, one of a fixed shape per run. On CUDA nothing
in a step waits for the device: bounds, counters and the divergence check are tensors. (Torch itself waits in the
factorisations that the optimal and the spectral rules and the limit of noise ask for.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from byolsim.backends.torch.layers import ACTIVATIONS, Layers, apply, product
from byolsim.backends.torch.rates import Rates
from byolsim.backends.torch.rules import PREDICTOR_RULES, Seen
from byolsim.backends.torch.samplers import PARTS, sampler_class
from byolsim.backends.torch.schedule import Curvature
from byolsim.backends.torch.target import EMA
from byolsim.backends.torch.world import TorchWorld
from byolsim.config.run import RunConfig
from byolsim.model.start import Start
from byolsim.model.state import DIVERGENCE_BOUND
from byolsim.model.world import World


class Group:
    """Parameters, momentum buffers, target and schedule of K runs, and their step.

    Attributes
    ----------
    straight : whether the encoder's gradient passes the predictor by.
    is_linear : whether encoder and predictor are, so that their products are matrices.
    """

    def __init__(
        self, group: Sequence[RunConfig], world: World, device: torch.device, initial: Start | None = None
    ) -> None:
        config = group[0]
        self.config, self.K = config, len(group)
        self.dtype = torch.float64 if config.dtype == "float64" else torch.float32
        self.world = TorchWorld.of(world, device, self.dtype)
        self.sampler = sampler_class(config)(config, world, self.world)
        self.activation = ACTIVATIONS[config.activation or "identity"]
        self.is_linear, self.straight = config.hidden is None, config.pred_jacobian == "straight"
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
        self.mu_P, self.mu_B, self.eta_P, self.eta_B, self.tau = (
            self._per_run(getattr(self.rates, name)) for name in ("mu_P", "mu_B", "eta_P", "eta_B", "tau")
        )
        self.decays_P, self.decays_B = (any(getattr(run, eta) > 0 for run in group) for eta in ("eta_P", "eta_B"))
        self.follow = EMA(self.target)
        self.curvature = Curvature(self.K, config.k, config.power_iters, device)
        self.behind = initial.epoch if initial else 0
        self.rates_wait = initial is not None and initial.curvature is not None
        if initial is not None:
            self._recall(initial)
        self.diverged = torch.full((self.K,), -1, device=device)
        self.loss = torch.full((self.K,), torch.nan, device=device, dtype=self.dtype)
        self.rule = PREDICTOR_RULES[config.pred_rule](config, world, self.sampler.basis())
        with torch.no_grad():
            if initial is not None and (initial.epoch > 0 or initial.memory is not None):
                self._set(self.rule.goes_on(self.predictor[0], initial.memory))
            else:
                self._set(self.rule.start(Seen(self.predictor[0], self._nothing_drawn, self.whole_encoders)))

    def _recall(self, initial: Start) -> None:
        """What a start knows beside parameters and momentum."""
        if initial.curvature is not None:
            self.curvature.recall(initial.curvature)
        upper = [None] * (len(self.target) - 1) if initial.lost_upper is None else list(initial.lost_upper)
        for kept, lost in zip(self.follow.lost, [self.sampler.lost(initial), *upper], strict=False):
            if lost is not None:
                kept[:] = torch.tensor(lost, dtype=kept.dtype)

    def final(self, run: int, epoch: int) -> Start | None:
        """Where a linear run ended, `epoch` steps behind it, in double precision; None if it diverged."""
        if not self.is_linear or self.diverged[run] >= 0:
            return None

        def numbers(layers: Layers) -> list[np.ndarray]:
            return [W[run].detach().double().cpu().numpy().copy() for W in layers]

        (P,), (V_P,) = numbers(self.predictor), numbers(self.V_pred)
        kept = self.follow.lost or [torch.zeros_like(W) for W in self.target]
        (B_o, *upper), (V_B, *V_upper), (B_t, *upper_t), (lost, *lost_upper) = (
            numbers(layers) for layers in (self.encoder, self.V_enc, self.target, kept)
        )
        start = Start(P, V_P, B_o, V_B, B_t, epoch, curvature=self.curvature.state(run))
        if upper:
            above, V, above_t, lost_above = map(np.stack, (upper, V_upper, upper_t, lost_upper))
            start = start._replace(upper=above, V_upper=V, upper_t=above_t, lost_upper=lost_above)
        start = start._replace(lost=lost if lost.any() else None, memory=self.rule.kept(run))
        return self.sampler.end(start)

    def encode(self, x: Tensor) -> Tensor:
        """The online features (K, k, n) of views x (K, d, n)."""
        return apply(self.encoder, x, self.activation)

    def encode_target(self, x: Tensor) -> Tensor:
        """The features of the target branch, constants but where there is one encoder."""
        if not self.config.stop_grad:
            return self.encode(x)
        with torch.no_grad():
            return apply(self.target, x, self.activation)

    def predict(self, z: Tensor) -> Tensor:
        """The predictions of online features z; with the straight Jacobian their derivative in z is the identity."""
        if self.straight:
            return apply(self.predictor, z.detach(), self.activation) + (z - z.detach())
        return apply(self.predictor, z, self.activation)

    def whole_encoders(self) -> tuple[Tensor, Tensor]:
        """W_L ... W_1 of the online and the target encoder of a linear model; one and the same with `stop_grad` off."""
        online = product(self.encoder)
        return online, product(self.target) if self.config.stop_grad else online

    def step(self, t: int, row: Tensor) -> None:
        """Step t on one row of the sampler's draws."""
        self.sampler.step(self, t, row)

    def set_predictor(self, t: int, covariance: Callable[[], Tensor]) -> None:
        """Set the predictors that step t uses, as their rule says, which sees the features' covariance of the step."""
        with torch.no_grad():
            self._set(self.rule.before_step(t, Seen(self.predictor[0], covariance, self.whole_encoders)))

    def _set(self, P: Tensor | None) -> None:
        if P is not None:
            self.predictor[0].copy_(P)

    def _nothing_drawn(self) -> Tensor:
        raise AssertionError("no rule looks at a covariance before there is a step")

    def descend(self, t: int, loss: Tensor, covariance: Callable[[], Tensor]) -> None:
        """Update by the gradients of the sum of the runs' losses (K,)."""
        parameters = [*self.predictor, *self.encoder] if self.rule.learns else self.encoder
        self.update(t, loss, torch.autograd.grad(loss.sum(), parameters), covariance)

    def descend_from(self, t: int, loss: Tensor, G: Tensor, covariance: Callable[[], Tensor]) -> None:
        """Update by G = (1/n) sum delta x^T (K, k, d) of the loss that was not formed of samples, of linear models."""
        (P,), (whole, _) = self.predictor, self.whole_encoders()
        gradients = [G @ whole.mT] if self.rule.learns else []
        through = G if self.straight else P.mT @ G
        if len(self.encoder) == 1:
            gradients.append(through)
        else:
            with torch.enable_grad():
                whole, _ = self.whole_encoders()
            gradients += torch.autograd.grad(whole, self.encoder, through)
        self.update(t, loss, gradients, covariance)

    def update(self, t: int, loss: Tensor, gradients: Sequence[Tensor], covariance: Callable[[], Tensor]) -> None:
        """The rates, the heavy-ball steps, the EMA and the divergence check, from the gradients without decay.

        Those of the predictor's layers stand first, if it learns.
        """
        config, rates, learnt = self.config, self.rates, len(self.predictor) if self.rule.learns else 0
        with torch.no_grad():
            self.loss = loss.detach()
            if not self.rule.learns:  # a rule may set any P
                self._note_diverged(t, self._size(self.predictor))
            alive = self.diverged < 0
            if (t - 1) % config.auto_every == 0:
                self.curvature.tick(covariance())
                self.rates_wait = True
            if self.rates_wait:
                rates.tick(self.curvature)
                self.rates_wait = False
            rates.step(t, *self._through(), alive)
            if learnt and t % config.pred_update_every == 0:
                eta = self.eta_P if self.decays_P else None
                self._heavy_ball(self.predictor, self.V_pred, gradients[:learnt], rates.alpha, self.mu_P, eta)
            if t % config.enc_update_every == 0:
                eta = self.eta_B if self.decays_B else None
                self._heavy_ball(self.encoder, self.V_enc, gradients[learnt:], rates.beta, self.mu_B, eta)
            self._set(self.rule.after_step(self.predictor[0]))
            if rates.clock.moves_tau:
                self.tau = self._per_run(rates.tau)
            self.follow.after_step(self.target, self.encoder, self.tau)
            self._note_diverged(t, torch.maximum(self._size(self.predictor), self._size(self.encoder)))
            if self.is_linear and len(self.encoder) > 1:
                self._note_diverged(t, self._size(list(self.whole_encoders())))

    def _through(self) -> tuple[Tensor | None, Tensor | None]:
        """P W_L ... W_2 and W_L ... W_2 for `Rates.step`."""
        if not self.is_linear:
            return None, None
        above = self.encoder[1:]
        return product([*above, *self.predictor]), product(above) if above else None

    def _note_diverged(self, t: int, size: Tensor) -> None:
        """Runs (K,) whose largest squared norm is above the bound, or no number, have diverged at step t."""
        self.diverged = torch.where((self.diverged < 0) & ~(size <= DIVERGENCE_BOUND**2), t, self.diverged)

    def _heavy_ball(
        self,
        layers: Layers,
        velocities: Layers,
        gradients: Sequence[Tensor],
        rate: Tensor,
        mu: Tensor,
        eta: Tensor | None,
    ) -> None:
        """V <- mu V + (gradient + eta W), W <- W - rate V in every layer.

        In place throughout: a temporary of a megabyte costs ten times the arithmetic that fills it.
        """
        rate = self._per_run(rate)
        for W, V, gradient in zip(layers, velocities, gradients, strict=True):
            if eta is not None:
                gradient.addcmul_(eta, W)
            V.mul_(mu).add_(gradient)
            W.addcmul_(rate, V, value=-1)

    def _size(self, layers: Layers) -> Tensor:
        """The largest squared norm of a layer of linear models, the sum of those of an MLP's; NaN is kept."""
        join = torch.maximum if self.is_linear else torch.add
        size: Tensor = reduce(join, [torch.linalg.vector_norm(W, dim=(1, 2)).double().square() for W in layers])
        return size

    def _per_run(self, values: Tensor) -> Tensor:
        return values.to(self.dtype)[:, None, None]
