"""Initial weights of the encoder and the predictor."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from byolsim.config.run import RunConfig
from byolsim.draws.streams import keyed_generator
from byolsim.model.world import World

Array = NDArray[np.float64]


def initial_weights(config: RunConfig, world: World) -> tuple[Array, Array]:
    """Initial (B_o, P), of shapes (r, d) and (r, r), by the key (seed, d, r, init, architecture).

    `zero_pred`: B_o entries N(0, 1/d), P = 0. `random`: P entries N(0, 1/r) too. `pinv`: B_o = A^+, P = I.
    The target starts at B_t = B_o and momentum buffers at 0.
    """
    d, r = world.d, world.r
    if config.init == "pinv":
        return world.A_pinv.copy(), np.eye(r)
    key = keyed_generator("weights", config.seed, d, r, config.init, config.enc, config.pred)
    B_o = key.standard_normal((r, d)) / np.sqrt(d)
    P = key.standard_normal((r, r)) / np.sqrt(r) if config.init == "random" else np.zeros((r, r))
    return B_o, P


def initial_layers(config: RunConfig, world: World) -> tuple[list[Array], list[Array]]:
    """Initial weights of the encoder and the predictor as lists of layers, by the key of `initial_weights`.

    A linear model has one layer, an MLP of `hidden` = h units two and no biases: f(x) = W_2 act(W_1 x). Entries of W_1
    are N(0, 2 / fan-in) for relu and gelu and N(0, 1 / fan-in) for tanh, those of W_2 N(0, 1 / h). With `zero_pred` the
    last layer of the predictor is 0, so that it starts from nothing, as the linear one does.
    """
    if (config.enc, config.pred) == ("linear", "linear"):
        B_o, P = initial_weights(config, world)
        return [B_o], [P]
    d, r, h = world.d, world.r, config.hidden or 0
    kind = (config.enc, config.pred, h, str(config.activation))
    generator = keyed_generator("weights", config.seed, d, r, config.init, *kind)

    def layers(model: str, fan_in: int) -> list[Array]:
        if model == "linear":
            return [generator.standard_normal((r, fan_in)) / np.sqrt(fan_in)]
        gain = 1.0 if config.activation == "tanh" else 2.0
        first = generator.standard_normal((h, fan_in)) * np.sqrt(gain / fan_in)
        return [first, generator.standard_normal((r, h)) / np.sqrt(h)]

    encoder, predictor = layers(config.enc, d), layers(config.pred, r)
    if config.init == "zero_pred":
        predictor[-1] = np.zeros_like(predictor[-1])
    return encoder, predictor
