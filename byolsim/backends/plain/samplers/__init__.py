"""The samplers under the names of `byolsim.model.samplers`; nobody else asks which one it is."""

from __future__ import annotations

from byolsim.backends.plain.samplers.base import Sampler
from byolsim.backends.plain.samplers.direct import Direct
from byolsim.backends.plain.samplers.minibatch import Minibatch
from byolsim.backends.plain.samplers.population import Population
from byolsim.backends.plain.samplers.reduced import Reduced
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


__all__ = ["SAMPLERS", "Sampler", "sampler_class"]
