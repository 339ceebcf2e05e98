"""A group of runs as one batch of stacked parameters: the step of SPEC 3 with gradients by autograd.

Every parameter carries the run as its first axis, so one operation serves the whole group, and the gradient of the sum
of the runs' losses is the stack of their gradients. Products are batched, one of a fixed shape per run. On CUDA nothing
in a step waits for the device: bounds, counters and the divergence check are tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from byolsim.config.run import RunConfig
from byolsim.model.schedule import AVERAGE_RATE, FIRST_ITERATIONS, FLOOR_FRACTION, FLOOR_MINIMUM, LIMIT_FRACTION
from byolsim.model.state import DIVERGENCE_BOUND
from byolsim.model.world import World, initial_layers

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


@dataclass(frozen=True)
class TorchWorld:
    """The world on the device, in the dtype of training."""

    A: Tensor
    lam: Tensor
    sigma: float
    lambda_max_x: float

    @classmethod
    def of(cls, world: World, device: torch.device, dtype: torch.dtype) -> TorchWorld:
        """Copy a world to the device."""
        return cls(
            A=torch.tensor(world.A, device=device, dtype=dtype),
            lam=torch.tensor(world.lam, device=device, dtype=dtype),
            sigma=world.sigma,
            lambda_max_x=world.lambda_max_x,
        )

    def views(self, row: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """X = A z + e and x+ = A z + e+ (d, n) from one row of `streams.minibatch_blocks`."""
        d, r = self.A.shape
        signal = self.A @ (self.lam.sqrt()[:, None] * row[: r * n].view(r, n))
        e, e_plus = row[r * n : (r + d) * n].view(d, n), row[(r + d) * n :].view(d, n)
        return signal + self.sigma * e, signal + self.sigma * e_plus


class Curvature:
    """`schedule.CurvatureEstimate` for K runs at once, in double precision."""

    def __init__(self, K: int, r: int, power_iters: int, device: torch.device) -> None:
        self.power_iters = power_iters
        self.ticks = 0
        self.average = torch.zeros(K, r, r, device=device, dtype=torch.float64)
        self.vector = torch.full((K, r, 1), 1 / np.sqrt(r), device=device, dtype=torch.float64)
        self.H = torch.full((K,), torch.nan, device=device, dtype=torch.float64)
        self.floor = torch.zeros(K, device=device, dtype=torch.float64)

    def tick(self, C: Tensor) -> None:
        """Take one feature covariance of each run (K, r, r) into the average and iterate."""
        self.ticks += 1
        self.average = (1 - AVERAGE_RATE) * self.average + AVERAGE_RATE * C.double()
        corrected = self.average / (1 - (1 - AVERAGE_RATE) ** self.ticks)
        for _ in range(FIRST_ITERATIONS if self.ticks == 1 else self.power_iters):
            image = torch.bmm(corrected, self.vector)
            size = image.norm(dim=1, keepdim=True)
            self.vector = torch.where(size > 0, image / size, self.vector)
        self.H = (self.vector * torch.bmm(corrected, self.vector)).sum(dim=(1, 2))
        if self.ticks == 1:
            self.floor = (FLOOR_FRACTION * self.H).clamp(min=FLOOR_MINIMUM)


class Rates:
    """`schedule.AutoRates` for K runs at once: the rates in force (K,) and how often a bound was active."""

    def __init__(self, group: Sequence[RunConfig], world: World, device: torch.device) -> None:
        def column(name: str) -> Tensor:
            values = [getattr(config, name) for config in group]
            return torch.tensor([np.nan if v is None else v for v in values], device=device, dtype=torch.float64)

        self.fixed_alpha, self.fixed_beta = column("lr_pred"), column("lr_enc")
        self.alpha, self.beta = self.fixed_alpha, self.fixed_beta
        self.mu_P, self.mu_B, self.eta, self.tau = (
            column(name) for name in ("mom_pred", "mom_enc", "weight_decay", "tau")
        )
        self.c_alpha, self.c_beta = column("auto_alpha_c"), column("auto_beta_c")
        self.lambda_max_x = world.lambda_max_x
        self.any_alpha = any(config.lr_pred is None for config in group)
        self.any_beta = any(config.lr_enc is None for config in group)
        self.active = torch.zeros(len(group), 3, device=device, dtype=torch.bool)
        self.clips = torch.zeros(len(group), 3, device=device, dtype=torch.int64)

    def tick(self, curvature: Curvature) -> None:
        """Follow a new estimate H_t: all but the bound of beta, which moves with P."""
        H = torch.maximum(curvature.H, curvature.floor)
        scheduled = (self.c_alpha > 0) | (self.c_beta > 0)
        rate, self.free_beta = self.c_alpha * self.tau / H, self.c_beta * self.tau / H
        limit = LIMIT_FRACTION * 2 * (1 + self.mu_P) / (H + self.eta)
        self.alpha = torch.where(self.c_alpha > 0, torch.minimum(rate, limit), self.fixed_alpha)
        self.beta = torch.where(self.c_beta > 0, self.free_beta, self.fixed_beta)
        self.active[:, 0] = (self.c_alpha > 0) & (rate > limit)
        self.active[:, 2] = scheduled & (curvature.floor > curvature.H)

    def step(self, P: Tensor | None, alive: Tensor) -> None:
        """Bound beta by the predictor before this step, None for a model with an MLP; count what is active."""
        if P is not None and self.any_beta:
            limit = LIMIT_FRACTION * 2 * (1 + self.mu_B) / (self.lambda_max_x * self._norm_squared(P) + self.eta)
            self.beta = torch.where(self.c_beta > 0, torch.minimum(self.free_beta, limit), self.fixed_beta)
            self.active[:, 1] = (self.c_beta > 0) & (self.free_beta > limit)
        if self.any_alpha or self.any_beta:
            self.clips += self.active & alive[:, None]

    def _norm_squared(self, P: Tensor) -> Tensor:
        """||P||_2^2, or on the CPU its bound ||P||_F^2 where that is enough to see that no rate is cut.

        On CUDA by squaring, since an exact singular value would make every step wait for the device.
        """
        P = P.detach().double()
        if P.device.type == "cuda":
            return norm_squared_by_squaring(P)
        bound = P.square().sum(dim=(1, 2))
        top = LIMIT_FRACTION * 2 * (1 + self.mu_B)
        cut = (self.free_beta * (self.lambda_max_x * bound + self.eta) > top) & bound.isfinite()
        if bool(cut.any()):
            bound = bound.clone()
            bound[cut] = torch.linalg.matrix_norm(P[cut], 2).square()
        return bound


def norm_squared_by_squaring(P: Tensor) -> Tensor:
    """||P||_2^2 of stacked P (K, r, r): N = P^T P / tr squared 14 times weighs the top eigenvector, tr(N P^T P)."""
    G = torch.bmm(P.mT, P)
    N = _unit_trace(G)
    for _ in range(14):
        N = _unit_trace(torch.bmm(N, N))
    return (N * G).sum(dim=(1, 2))


def _unit_trace(G: Tensor) -> Tensor:
    trace = G.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None]
    return torch.where(trace > 0, G / trace, 0.0)


class Group:
    """Parameters, momentum buffers, target and schedule of K runs, and their step."""

    def __init__(self, group: Sequence[RunConfig], world: World, device: torch.device) -> None:
        config = group[0]
        self.config, self.K = config, len(group)
        self.dtype = torch.float64 if config.dtype == "float64" else torch.float32
        self.world = TorchWorld.of(world, device, self.dtype)
        self.activation = ACTIVATIONS[config.activation or "identity"]
        weights = [self.initial_weights(run, world) for run in group]
        self.encoder, self.predictor = (
            [
                torch.tensor(np.stack(layers), device=device, dtype=self.dtype).requires_grad_()
                for layers in zip(*(w[part] for w in weights), strict=True)
            ]
            for part in (0, 1)
        )
        self.target = [W.detach().clone() for W in self.encoder]
        self.V_enc = [torch.zeros_like(W, requires_grad=False) for W in self.encoder]
        self.V_pred = [torch.zeros_like(W, requires_grad=False) for W in self.predictor]
        self.rates = Rates(group, world, device)
        self.mu_P, self.mu_B, self.eta, self.tau = (
            self._per_run(v) for v in (self.rates.mu_P, self.rates.mu_B, self.rates.eta, self.rates.tau)
        )
        self.curvature = Curvature(self.K, world.r, config.power_iters, device)
        self.diverged = torch.full((self.K,), -1, device=device)
        self.loss = torch.full((self.K,), torch.nan, device=device, dtype=self.dtype)
        self.has_decay = any(run.weight_decay > 0 for run in group)
        self.is_linear = len(self.encoder) == len(self.predictor) == 1

    def initial_weights(self, run: RunConfig, world: World) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Layers of the encoder and the predictor of one run."""
        return initial_layers(run, world)

    def minibatch_step(self, t: int, row: Tensor) -> None:
        """Step t on one row of draws."""
        n = self.config.batch_size
        x, x_plus = (view.expand(self.K, -1, -1) for view in self.world.views(row, n))
        z_o = apply(self.encoder, x, self.activation)
        with torch.no_grad():
            z_t = apply(self.target, x_plus, self.activation)
        loss = 0.5 * (apply(self.predictor, z_o, self.activation) - z_t).square().sum(dim=(1, 2)) / n
        z = z_o.detach()
        self._descend(t, loss, lambda: torch.bmm(z, z.mT) / n)

    def population_step(self, t: int) -> None:
        """Step t on the population loss of the linear model (`theory.population_loss`)."""
        A, lam, variance = self.world.A, self.world.lam, self.world.sigma**2
        (B_o,), (P,), (B_t,) = self.encoder, self.predictor, self.target
        A_each = A.expand(self.K, -1, -1)
        M_o, M_t = torch.bmm(B_o, A_each), torch.bmm(B_t, A_each)
        signal = ((torch.bmm(P, M_o) - M_t).square() * lam).sum(dim=(1, 2))
        noise = torch.bmm(P, B_o).square().sum(dim=(1, 2)) + B_t.square().sum(dim=(1, 2))

        def covariance() -> Tensor:
            B, M = B_o.detach(), M_o.detach()
            return torch.bmm(M * lam, M.mT) + variance * torch.bmm(B, B.mT)

        self._descend(t, 0.5 * (signal + variance * noise), covariance)

    def _descend(self, t: int, loss: Tensor, covariance: Callable[[], Tensor]) -> None:
        """Update by the gradients of the sum of the runs' losses."""
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
                rates.tick(self.curvature)
            rates.step(self.predictor[0] if self.is_linear else None, alive)
            size = torch.zeros(self.K, device=loss.device, dtype=torch.float64)
            for layers, velocities, grads, every, rate, mu in (
                (self.predictor, self.V_pred, gradients[: len(self.predictor)], config.pred_update_every,
                 rates.alpha, self.mu_P),
                (self.encoder, self.V_enc, gradients[len(self.predictor) :], config.enc_update_every,
                 rates.beta, self.mu_B),
            ):  # fmt: skip
                if t % every == 0:
                    size = torch.maximum(size, self._heavy_ball(layers, velocities, grads, rate, mu))
            for slow, fast in zip(self.target, self.encoder, strict=True):
                slow.lerp_(fast, self.tau)
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
