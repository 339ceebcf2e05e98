"""What a group logs: snapshots on the device, turned into blocks of order parameters afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from byolsim.backends.base import LogBlock
from byolsim.backends.torch.layers import Layers, apply, product
from byolsim.backends.torch.linalg import each, inside_outside, lower_factor, lower_factorisation
from byolsim.backends.torch.training import Group
from byolsim.backends.torch.world import TorchWorld
from byolsim.draws.streams import evaluation_draws
from byolsim.model.order import OrderParameters, SampledFeatures
from byolsim.model.samplers import view_key
from byolsim.model.world import SUPPORT, World


def evaluation_size(d: int) -> int:
    """Views in the evaluation sample: enough for the best linear fit to be well determined."""
    return max(1024, 2 * d)


@dataclass
class LinearLog:
    """Snapshots of linear models: the matrices themselves; factors are taken when the block is full."""

    Q: Tensor
    rows: list[dict[str, Tensor]] = field(default_factory=list)

    @classmethod
    def of(cls, group: Group, world: World) -> LinearLog:
        """A log for this group."""
        return cls(group.sampler.basis())

    def take(self, group: Group) -> None:
        """Keep the state as it is now."""
        self.rows.append(
            {
                "P": group.predictor[0].detach().double().clone(),
                "B_o": product(group.encoder).detach().double().clone(),
                "B_t": product(group.target).double().clone(),
            }
        )

    def parameters(self, valid: Tensor) -> OrderParameters:
        """Order parameters of the rows so far, (K, rows, ., .), zero where a run had diverged; the log is emptied."""
        stacks = {name: _stack([row[name] for row in self.rows], valid) for name in ("P", "B_o", "B_t")}
        self.rows.clear()
        parts = {}
        for name in ("o", "t"):
            parts[f"b_{name}"], parts[f"L_{name}"] = inside_outside(stacks[f"B_{name}"], self.Q)
        gap = (stacks["B_o"] - stacks["B_t"]).flatten(2).norm(dim=-1)
        return OrderParameters(
            P=_numpy(stacks["P"]), gap=_numpy(gap), **{name: _numpy(part) for name, part in parts.items()}
        )


@dataclass
class SampledLog:
    """Snapshots of models with an MLP, measured on the fixed evaluation sample."""

    x: Tensor
    x_plus: Tensor
    fit: Tensor
    Q: Tensor
    rows: list[dict[str, Tensor]] = field(default_factory=list)

    @classmethod
    def of(cls, group: Group, world: World) -> SampledLog:
        """A log for this group, with its evaluation sample in double precision."""
        device = group.world.A.device
        key = view_key(group.config, evaluation_size(world.d))
        row = torch.tensor(evaluation_draws(key), device=device)
        x, x_plus = TorchWorld.of(world, device, torch.float64).views(row, key.n)
        # B = Z x^+; where the views do not span all d dimensions the fit is the one of least norm. Second moments that
        # are singular are so up to the rounding of their eigenvalues, whose roots the views have.
        fit = torch.linalg.pinv(x, rtol=1e-10 if world.noise_inside else SUPPORT**0.5)
        return cls(x, x_plus, fit, torch.tensor(world.Q, device=device))

    def take(self, group: Group) -> None:
        """Measure the state as it is now."""
        with torch.no_grad():
            encoder, predictor, target = (
                [W.detach().double() for W in layers] for layers in (group.encoder, group.predictor, group.target)
            )
            valid = group.diverged < 0
            z_o = self._features(group, encoder, self.x, valid)
            z_t = self._features(group, target, self.x_plus, valid)
            p = torch.nan_to_num(apply(predictor, z_o, group.activation), 0.0, 0.0, 0.0)
            root = self.x.shape[1] ** 0.5
            F, O = lower_factorisation(z_o / root)
            B = each(z_o, self.fit)
            b_o, L_o = inside_outside(B, self.Q)
            differences = [(W - W_t).square().sum(dim=(1, 2)) for W, W_t in zip(encoder, target, strict=True)]
            self.rows.append(
                {
                    "P": predictor[0].clone(),
                    "F": F,
                    "F_pred": lower_factor(p / root),
                    "cross": torch.bmm(z_t / root, O.mT),
                    "b_o": b_o,
                    "L_o": L_o,
                    "loss": 0.5 * (p - z_t).square().sum(dim=(1, 2)) / root**2,
                    "target_power": z_t.square().sum(dim=(1, 2)) / root**2,
                    "gap": torch.stack(differences).sum(dim=0).sqrt(),
                }
            )
            self.linear_predictor = len(predictor) == 1

    def _features(self, group: Group, encoder: Layers, x: Tensor, valid: Tensor) -> Tensor:
        """Features of the sample, zero for runs that have diverged: QR does not take NaN everywhere."""
        z = apply(encoder, x.expand(group.K, -1, -1), group.activation)
        return torch.where(valid[:, None, None], z, 0.0)

    def parameters(self, valid: Tensor) -> SampledFeatures:
        """Measurements of the rows so far, (K, rows, ...); the log is emptied."""
        names = ["F", "F_pred", "cross", "b_o", "L_o", "loss", "target_power", "gap"] + ["P"] * self.linear_predictor
        stacks = {name: _numpy(_stack([row[name] for row in self.rows], valid)) for name in names}
        self.rows.clear()
        return SampledFeatures(P=stacks.pop("P", None), **stacks)


def _stack(rows: Sequence[Tensor], valid: Tensor) -> Tensor:
    """Rows of (K, ...) as (K, rows, ...), zero where not valid (K, rows)."""
    stacked = torch.stack(list(rows), dim=1)
    return torch.where(valid.view(*valid.shape, *[1] * (stacked.ndim - 2)), stacked, 0.0)


def _numpy(M: Tensor) -> np.ndarray:
    return np.asarray(M.detach().cpu().numpy())


class GroupLog:
    """The rows of one block: the state's own log, and the step's values beside it."""

    def __init__(self, group: Group, world: World) -> None:
        self.group = group
        self.state: LinearLog | SampledLog = (LinearLog if group.is_linear else SampledLog).of(group, world)
        self.epochs: list[int] = []
        self.values: list[dict[str, Tensor]] = []
        self.valid: list[Tensor] = []

    def take(self, epoch: int) -> None:
        """Log the group after this epoch."""
        group = self.group
        self.state.take(group)
        self.epochs.append(epoch)
        self.values.append(
            {
                "loss": group.loss.double(),
                "Hmax": group.curvature.H,
                "lr_pred_t": group.rates.alpha,
                "lr_enc_t": group.rates.beta,
                "tau_t": group.rates.tau,
            }
        )
        self.valid.append(group.diverged < 0)

    def block(self) -> LogBlock:
        """The rows so far as one block on the host; the log is emptied."""
        valid = torch.stack(self.valid, dim=1)
        steps = {name: _numpy(_stack([row[name] for row in self.values], valid)) for name in self.values[0]}
        block = LogBlock(
            epochs=np.array(self.epochs, dtype=np.int64),
            order=self.state.parameters(valid),
            valid=_numpy(valid),
            diverged_epoch=np.maximum(_numpy(self.group.diverged) - self.group.behind, -1),
            clips=_numpy(self.group.rates.clips).copy(),
            steps=steps,
        )
        for rows in (self.epochs, self.values, self.valid):
            rows.clear()
        return block
