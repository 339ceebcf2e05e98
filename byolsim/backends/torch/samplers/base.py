"""What every sampler answers; the defaults are those of one that keeps its encoders as they are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from byolsim.backends.torch.world import TorchWorld
from byolsim.config.run import RunConfig
from byolsim.model.encoder import initial_layers
from byolsim.model.world import World

if TYPE_CHECKING:
    from byolsim.backends.torch.training import Group


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

    def initial_layers(self, run: RunConfig) -> tuple[list[Any], list[Any]]:
        """Layers of the encoder and the predictor of one run at epoch 0."""
        return initial_layers(run, self.plain_world)

    def basis(self) -> Tensor:
        """Columns that span those of A, orthonormal, in the coordinates of an encoder and in double precision."""
        return torch.tensor(self.plain_world.Q, device=self.world.A.device)

    @abstractmethod
    def step(self, group: Group, t: int, row: Tensor) -> None:
        """Step t of the group, by `Group.descend` or `Group.update`, on a row of draws in the dtype of training."""
