"""What every sampler answers; the defaults are those of one that keeps its encoders as they are, (k, d)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from byolsim.backends.torch.world import TorchWorld
from byolsim.config.run import RunConfig
from byolsim.model.encoder import initial_layers, initial_weights
from byolsim.model.start import Start
from byolsim.model.state import Array
from byolsim.model.world import World

if TYPE_CHECKING:
    from byolsim.backends.torch.training import Group

PARTS = ("encoder", "predictor", "target", "V_enc", "V_pred")
"""The parts of a state, each a list of layers: weights, and the momentum of those that descend."""


class Sampler(ABC):
    """What a group draws in a step, and what it computes from that.

    Attributes
    ----------
    config : of any run of the group.
    plain_world, world : in double precision on the host, and on the device in the dtype of training.
    """

    def __init__(self, config: RunConfig, plain_world: World, world: TorchWorld) -> None:
        self.config, self.plain_world, self.world = config, plain_world, world

    @staticmethod
    def views(config: RunConfig) -> int:
        """Views of a minibatch that pass through the model in a step, with all of their activations."""
        return 0

    def start(self, run: RunConfig, initial: Start | None = None) -> dict[str, list[Array]]:
        """The layers of each of `PARTS` of one run at epoch 0, from its configuration or from `initial`.

        Raises
        ------
        UserError
            If `initial` is given for a model with an MLP.
        """
        if (run.enc, run.pred) == ("linear", "linear"):
            at = self.coordinates(initial_weights(run, self.plain_world, initial))
            upper, V_upper, upper_t = ([] if W is None else [*W] for W in (at.upper, at.V_upper, at.upper_t))
            return {
                "encoder": [at.B_o, *upper],
                "predictor": [at.P],
                "target": [at.B_t, *upper_t],
                "V_enc": [at.V_B, *V_upper],
                "V_pred": [at.V_P],
            }
        encoder, predictor, target = initial_layers(run, self.plain_world, initial)
        at_rest = ([np.zeros_like(W) for W in layers] for layers in (encoder, predictor))
        return dict(zip(PARTS, (encoder, predictor, target, *at_rest), strict=True))

    def coordinates(self, start: Start) -> Start:
        """A start of a linear model as the state keeps it: with encoders (k, d)."""
        return start

    def lost(self, start: Start) -> Array | None:
        """What rounding had given the first layer of the target too much, in the coordinates of the state."""
        return start.lost

    def end(self, start: Start) -> Start:
        """The state, as parts of a start, in the form in which it is handed over."""
        return start

    def basis(self) -> Tensor:
        """Orthonormal columns that span the structured subspace, in the coordinates of an encoder, double precision."""
        return torch.tensor(self.plain_world.Q, device=self.world.A.device)

    @abstractmethod
    def step(self, group: Group, t: int, row: Tensor) -> None:
        """Step t of the group, on a row of draws in the dtype of training.

        It tells the group the features' covariance, which sets the predictor where a rule does (`Group.set_predictor`),
        and after that the loss: to be differentiated (`Group.descend`), or with G (`Group.descend_from`).
        """
