"""Initial weights of the encoder and the predictor."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from byolsim.config.run import RunConfig
from byolsim.draws.streams import keyed_generator
from byolsim.model.world import World, complement

Array = NDArray[np.float64]


class Start(NamedTuple):
    """Where a run starts, in double precision.

    For the reduced form of the moments sampler B_o, V_B and B_t may also be coordinates, (k, q + 3k)
    (`byolsim.model.moments`).
    """

    P: Array  # (k, k)
    V_P: Array  # (k, k)
    B_o: Array  # (k, d)
    V_B: Array  # (k, d)
    B_t: Array  # (k, d)
    epoch: int = 0  # draws that are behind it: the first step is draw epoch + 1 of the stream


def initial_weights(config: RunConfig, world: World, initial: Start | None = None) -> Start:
    """P (k, k), B_o and B_t (k, d) with no momentum, by the key (seed, d, k, init, architecture); or `initial`.

    `zero_pred`: B_o entries N(0, 1/d), P = 0. `random`: P entries N(0, 1/k) too. `pinv`: B_o = A^+, P = I. `modes`:
    B_o = V_k^T Q^T, the first k canonical directions as rows (orthonormal rows; beyond the structured subspace an
    arbitrary completion), and P = I, so that the modes stay decoupled where S_xx commutes with W.
    `init_scale` multiplies B_o and `init_pred_scale` P. The target starts at B_o (`copy`), at 0 (`zero`), or is a draw
    of its own of the law of B_o (`independent`; where B_o is not random, the same). Momentum starts at 0.
    """
    if initial is not None:
        return initial
    d, k = world.d, config.k
    kind = (config.seed, d, k, config.init, config.enc, config.pred)
    generator = keyed_generator("weights", *kind)
    B_o = _encoder(config, world, generator)
    P = np.zeros((k, k)) if config.init == "zero_pred" else np.eye(k)
    if config.init == "random":
        P = generator.standard_normal((k, k)) / np.sqrt(k)
    B_t = B_o
    if config.target_init == "independent":
        B_t = _encoder(config, world, keyed_generator("target weights", *kind))
    if config.init_scale is not None:
        B_o, B_t = config.init_scale * B_o, config.init_scale * B_t
    if config.init_pred_scale is not None:
        P = config.init_pred_scale * P
    if config.target_init == "zero":
        B_t = np.zeros_like(B_o)
    return Start(P, np.zeros_like(P), B_o, np.zeros_like(B_o), B_t)


def _encoder(config: RunConfig, world: World, generator: np.random.Generator) -> Array:
    """B_o (k, d) but for its scale."""
    if config.init == "pinv":
        return world.A_pinv.copy()
    if config.init == "modes":
        return canonical_rows(world, config.k)
    return np.asarray(generator.standard_normal((config.k, world.d)) / np.sqrt(world.d))


def canonical_rows(world: World, k: int) -> Array:
    """(k, d) orthonormal rows: the first k canonical directions, and beyond q a completion of them."""
    rows = world.directions[:, :k].T @ world.Q.T
    if k <= world.q:
        return np.ascontiguousarray(rows)
    more = k - world.q
    rest = complement(world.Q, keyed_generator("completion", 0, world.d, more).standard_normal((world.d, more)))
    return np.ascontiguousarray(np.vstack([rows, rest.T]))


def initial_layers(config: RunConfig, world: World) -> tuple[list[Array], list[Array], list[Array]]:
    """Initial layers of the encoder, the predictor and the target, by the key of `initial_weights`.

    A linear model has one layer, an MLP of `hidden` = h units two and no biases: f(x) = W_2 act(W_1 x). Entries of W_1
    are N(0, 2 / fan-in) for relu and gelu and N(0, 1 / fan-in) for tanh, those of W_2 N(0, 1 / h). With `zero_pred` the
    last layer of the predictor is 0, so that it starts from nothing, as the linear one does. A scale of an MLP
    multiplies each of its two layers by its square root.
    """
    if (config.enc, config.pred) == ("linear", "linear"):
        start = initial_weights(config, world)
        return [start.B_o], [start.P], [start.B_t]
    d, k, h = world.d, config.k, config.hidden or 0
    kind = (config.seed, d, k, config.init, config.enc, config.pred, h, str(config.activation))

    def layers(generator: np.random.Generator, model: str, fan_in: int) -> list[Array]:
        if model == "linear":
            return [generator.standard_normal((k, fan_in)) / np.sqrt(fan_in)]
        gain = 1.0 if config.activation == "tanh" else 2.0
        first = generator.standard_normal((h, fan_in)) * np.sqrt(gain / fan_in)
        return [first, generator.standard_normal((k, h)) / np.sqrt(h)]

    def scaled(weights: list[Array], factor: float | None) -> list[Array]:
        return weights if factor is None else [factor ** (1 / len(weights)) * W for W in weights]

    generator = keyed_generator("weights", *kind)
    encoder, predictor = layers(generator, config.enc, d), layers(generator, config.pred, k)
    if config.init == "zero_pred":
        predictor[-1] = np.zeros_like(predictor[-1])
    encoder, predictor = scaled(encoder, config.init_scale), scaled(predictor, config.init_pred_scale)
    target = encoder
    if config.target_init == "zero":
        target = [np.zeros_like(W) for W in encoder]
    elif config.target_init == "independent":
        target = scaled(layers(keyed_generator("target weights", *kind), config.enc, d), config.init_scale)
    return encoder, predictor, target
