"""The samplers under the names of `byolsim.model.samplers`; nobody else asks which one it is."""

from __future__ import annotations

from byolsim.backends.torch.samplers.base import PARTS, Sampler
from byolsim.backends.torch.samplers.direct import Direct
from byolsim.backends.torch.samplers.minibatch import Minibatch
from byolsim.backends.torch.samplers.population import Population
from byolsim.backends.torch.samplers.reduced import Reduced
from byolsim.config.run import RunConfig
from byolsim.model.samplers import sampler_name

SAMPLERS: dict[str, type[Sampler]] = {
    "minibatch": Minibatch,
    "population": Population,
    "direct": Direct,
    "reduced": Reduced,
}


def sampler_class(config: RunConfig) -> type[Sampler]:
    """The class of a configuration's sampler."""
    return SAMPLERS[sampler_name(config)]


__all__ = ["PARTS", "SAMPLERS", "Sampler", "sampler_class"]
