"""Draw docs/bottleneck.png: a strong noisy mode is passed over for a weak clean one; docs/derivation.md, section 18.

python scripts/draw_bottleneck.py [FILE.png]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from byolsim.backends import get_backend
from byolsim.config.run import RunConfig
from byolsim.model.start import Start
from byolsim.model.world import World

SIGNAL, NOISE = np.array([4.0, 0.5]), np.array([8.0, 0.1])
COLOURS = ("#c44e52", "#4c72b0")
LABELS = ("strong and noisy: $\\lambda$ = 4, noise 8", "weak and clean: $\\lambda$ = 1/2, noise 1/10")
RATE, STEPS = 5e-3, 4000


def trajectory() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps (L,), the energy of each mode (L, 2) and P (L,) of one run of k = 1 from P = 0."""
    world = World.from_moments(np.diag(SIGNAL + NOISE), np.diag(SIGNAL), np.diag(SIGNAL + NOISE))
    B_o, nothing = np.array([[0.3, 0.3]]), np.zeros((1, 1))
    config = RunConfig(
        backend="numba", sampler="population", d_latent=2, d_obs=2, d_embed=1, tau=1.0, mom_pred=0.0, mom_enc=0.0,
        lr_pred=RATE, lr_enc=RATE, epochs=STEPS, log_every=4,
    )  # fmt: skip
    start = Start(nothing, nothing, B_o, np.zeros_like(B_o), B_o)
    blocks = list(get_backend("numba").simulate(world, [config], lambda epochs: None, start))
    steps = np.concatenate([block.epochs for block in blocks])
    b_o, P = (np.concatenate([getattr(block.order, name)[0] for block in blocks]) for name in ("b_o", "P"))
    return steps, b_o[:, 0] ** 2 * (SIGNAL + NOISE), P[:, 0, 0]


def draw() -> Figure:
    """Two panels over the steps: what the feature holds of each mode, and the predictor between the gains."""
    steps, energies, P = trajectory()
    gains = SIGNAL / (SIGNAL + NOISE)
    figure = Figure(figsize=(7.2, 5.0), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    for energy, colour, label in zip(energies.T, COLOURS, LABELS, strict=True):
        top.plot(steps, energy, color=colour, lw=2, label=label)
    top.set(ylabel="energy of a mode, $||f_j||^2$", ylim=(0, None))
    top.legend(frameon=False, loc="center right")
    bottom.plot(steps, P, color="black", lw=2)
    half = steps[np.argmax(P > 0.5)]
    bottom.annotate("eigenvalue of $P$", (half, 0.5), (14, -8), textcoords="offset points", va="center")
    for gain, colour, text in zip(gains, COLOURS, ("gain 1/3", "gain 5/6"), strict=True):
        bottom.axhline(gain, color=colour, ls="--", lw=1.3)
        bottom.annotate(text, (0.9 * STEPS, gain), (0, 5), textcoords="offset points", color=colour)
    bottom.set(xlabel="step", ylabel="gain", xlim=(0, STEPS), ylim=(0, 1))
    passed = steps[np.argmax(gains[0] < P)]
    for panel in (top, bottom):
        panel.axvline(passed, color="0.7", lw=1, zorder=0)
        panel.spines[["top", "right"]].set_visible(False)
    bottom.annotate("$P$ passes the noisy gain", (passed, 0.05), (6, 0), textcoords="offset points", color="0.4")
    return figure


if __name__ == "__main__":
    default = Path(__file__).resolve().parents[1] / "docs" / "bottleneck.png"
    draw().savefig(Path(sys.argv[1]) if len(sys.argv) > 1 else default, dpi=150)
