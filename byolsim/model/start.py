"""Where a run starts, and where it ended: everything that its next step depends on.

A run that starts from the end of another one goes on as if that had not ended: its clocks, its periods and its draws
are those of the steps after `epoch`, so that with fixed rates its rows are those of one longer run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from byolsim.config.run import RunConfig

Array = NDArray[np.float64]


class Curvature(NamedTuple):
    """The state of `schedule.CurvatureEstimate`."""

    H: Array  # () NaN before the first tick
    H_floor: Array  # ()
    ticks: Array  # ()
    average: Array  # (k, k)
    vector: Array  # (k,)


class Start(NamedTuple):
    """Parameters, momentum buffers and memories of one run, in double precision.

    In the reduced form of the moments sampler B_o, V_B, B_t and `lost` may be coordinates, (k, q + 3k)
    (`byolsim.model.moments`): q of them inside the structured subspace, the others in directions that are never formed.
    """

    P: Array  # (k, k)
    V_P: Array  # (k, k)
    B_o: Array  # (k, d)
    V_B: Array  # (k, d)
    B_t: Array  # (k, d)
    epoch: int = 0  # steps that are behind it: the first step here is draw epoch + 1 of the stream
    upper: Array | None = None  # (L - 1, k, k) layers of the online encoder above B_o; None for one layer
    V_upper: Array | None = None
    upper_t: Array | None = None
    lost_upper: Array | None = None
    lost: Array | None = None  # (k, d) what rounding gave B_t too much, in single precision; None for 0
    curvature: Curvature | None = None  # None for an estimate that has seen nothing
    memory: Array | None = None  # (k, k) F of a spectral predictor rule; None for one that has seen nothing

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits of a hash of all of it: part of the id of a run that starts here."""
        content = hashlib.sha256()
        for name, value in self.arrays().items():
            content.update(f"{name}{value.shape}".encode() + (np.ascontiguousarray(value, "<f8") + 0.0).tobytes())
        return content.hexdigest()[:16]

    def arrays(self) -> dict[str, Array]:
        """All of it by name, as a file holds it; what is None is left out."""
        named = {name: value for name, value in self._asdict().items() if name != "curvature" and value is not None}
        if self.curvature is not None:
            named |= {f"curvature_{name}": value for name, value in self.curvature._asdict().items()}
        return {name: np.asarray(value, dtype=np.float64) for name, value in named.items()}


def start_of_arrays(arrays: Mapping[str, ArrayLike]) -> Start:
    """`Start.arrays` backwards; what is missing but for P and B_o is as at the start of an ordinary run.

    Momentum is 0, B_t is B_o and epoch is 0.

    Raises
    ------
    ValueError
        If a name is not known, P or B_o is missing, or an array holds something else than finite numbers.
    """
    known = {*Start._fields, *(f"curvature_{name}" for name in Curvature._fields)} - {"curvature"}
    unknown = sorted(arrays.keys() - known)
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no part of a start: must be one of {', '.join(sorted(known))}")
    given = {name: np.array(value, dtype=np.float64) for name, value in arrays.items()}
    for name in ("P", "B_o"):
        if name not in given:
            raise ValueError(f"{name} is missing: a start needs P and B_o")
    for name, value in given.items():
        if not np.isfinite(value).all():
            raise ValueError(f"{name} holds a number that is not finite")
    epoch = float(given.pop("epoch", np.zeros(())))
    if epoch != int(epoch) or epoch < 0:
        raise ValueError(f"epoch = {epoch:g} is not allowed: must be a whole number >= 0")
    parts = {name: given.pop(f"curvature_{name}") for name in Curvature._fields if f"curvature_{name}" in given}
    if parts and len(parts) < len(Curvature._fields):
        raise ValueError("a curvature estimate needs all of its arrays")
    zeros = {"V_P": np.zeros_like(given["P"]), "V_B": np.zeros_like(given["B_o"]), "B_t": given["B_o"]}
    return Start(**(zeros | given), epoch=int(epoch), curvature=Curvature(**parts) if parts else None)


def check_start(start: Start, config: RunConfig) -> None:
    """`ValueError`, one line, if a run of this configuration cannot start there."""
    k, d, q = config.k, config.d_obs, config.structured
    if "mlp" in (config.enc, config.pred):
        raise ValueError("initial is for linear models: an MLP starts where its configuration says")
    widths = [d] + [q + 3 * k] * (config.moments_form == "reduced")
    width = start.B_o.shape[-1]
    if width not in widths:
        coordinates = " or, as coordinates of the reduced form," if len(widths) > 1 else ""
        raise ValueError(f"initial B_o has {width} columns: must be {f'{coordinates} '.join(map(str, widths))}")
    shapes: dict[str, tuple[int, ...]] = {
        "P": (k, k),
        "V_P": (k, k),
        "B_o": (k, width),
        "V_B": (k, width),
        "B_t": (k, width),
        "lost": (k, width),
        "memory": (k, k),
    }
    if config.depth > 1 and (start.upper is None or start.V_upper is None or start.upper_t is None):
        raise ValueError(f"initial has one layer: must have enc_depth = {config.depth}, in upper, V_upper and upper_t")
    names = ("upper", "V_upper", "upper_t", "lost_upper")
    shapes |= dict.fromkeys(names, (config.depth - 1, k, k))
    if start.curvature is not None:
        shapes |= dict.fromkeys(("curvature_H", "curvature_H_floor", "curvature_ticks"), ())
        shapes |= {"curvature_average": (k, k), "curvature_vector": (k,)}
    for name, value in start.arrays().items():
        if name in shapes and value.shape != shapes[name]:
            raise ValueError(f"initial {name} has shape {value.shape}: must be {shapes[name]}")
    _check_meaning(start, config)


def _check_meaning(start: Start, config: RunConfig) -> None:
    """What a start of the right shapes cannot be."""
    layers = [(start.B_o, start.B_t)]
    if start.upper is not None and start.upper_t is not None:
        layers.append((start.upper, start.upper_t))
    if not config.stop_grad and not all(np.array_equal(W, W_t) for W, W_t in layers):
        raise ValueError("initial B_t is not B_o, and stop_grad = False has one encoder: leave out the target")
    for name in ("lr_schedule", "ema_schedule"):
        if start.epoch and getattr(config, name) is not None:
            raise ValueError(
                f"{name} = {getattr(config, name)!r} ends at step {config.epochs}, and the start has {start.epoch} "
                f"steps behind it: use {name} = 'constant', or a start at epoch 0"
            )
    scheduled = config.lr_pred is None or config.lr_enc is None
    if scheduled and start.curvature is None and start.epoch % config.auto_every:
        raise ValueError(
            f"initial has {start.epoch} steps behind it and no curvature estimate, which the schedule of the rates "
            f"takes up again at a multiple of auto_every = {config.auto_every}: give its arrays, or epoch = 0"
        )
