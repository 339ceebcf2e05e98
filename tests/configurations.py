"""Random small configurations over the whole option space of linear models, for Hypothesis.

Those of a plain world with k = r and the target at the encoder are what the oracle and autograd know; `general` ones
have any width, any world, one from a file of second moments among them, and any start.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from cases import trajectory
from comparing import errors
from hypothesis import strategies as st

from byolsim.config.run import RunConfig
from byolsim.model.encoder import initial_weights
from byolsim.model.linalg import lq_factor
from byolsim.model.start import Start
from byolsim.model.world import World

SAMPLERS = ("minibatch", "population", "direct", "reduced")
_FOLDER = tempfile.TemporaryDirectory(prefix="byolsim-worlds-")
_NULL = st.none()


def sampler_options(sampler: str) -> dict[str, Any]:
    """The options that choose one of `SAMPLERS`."""
    return (
        {"sampler": sampler}
        if sampler in ("minibatch", "population")
        else {"sampler": "moments", "moments_form": sampler}
    )


def rates() -> st.SearchStrategy[dict[str, Any]]:
    """Fixed rates, one of which diverges and one of which does nothing; the schedule, with and without clips; mixed."""
    fixed = st.sampled_from([0.0, 1e-3, 0.02, 0.1, 300.0])
    constant = st.sampled_from([0.4, 3.0, 30.0])
    alpha = st.one_of(fixed.map(lambda a: {"lr_pred": a}), constant.map(lambda c: {"auto_alpha_c": c}))
    beta = st.one_of(fixed.map(lambda b: {"lr_enc": b}), constant.map(lambda c: {"auto_beta_c": c}))
    return st.builds(lambda a, b: a | b, alpha, beta)


def own(general: bool = False) -> st.SearchStrategy[dict[str, Any]]:
    """What may differ inside a group."""
    options = {
        "mom_pred": st.sampled_from([0.0, 0.5, 0.95]),
        "mom_enc": st.sampled_from([0.0, 0.3, 0.95]),
        "tau": st.sampled_from([0.0, 1e-3, 0.1, 0.7, 1.0]),
        "weight_decay": st.sampled_from([0.0, 0.0, 0.1, 1.0]),
        "init": st.sampled_from(["zero_pred", "random", "pinv"]),
    }
    if general:
        options |= {
            "init": st.sampled_from(["zero_pred", "random", "modes"]),
            "init_scale": st.one_of(_NULL, st.sampled_from([0.0, 0.3, 2.0])),
            "init_pred_scale": st.one_of(_NULL, st.sampled_from([0.0, 0.5])),
            "target_init": st.sampled_from([None, "zero", "independent"]),
        }
    return st.builds(lambda values, rates: values | rates, st.fixed_dictionaries(options), rates())


def spectra() -> st.SearchStrategy[str]:
    """Variances of latents."""
    return st.sampled_from(["geometric:0.3:4", "flat:1", "linear:0.5:2"])


@st.composite
def shared(draw: st.DrawFn, sampler: str, general: bool = False) -> dict[str, Any]:
    """What a group has in common: small shapes with n below, at and above k and q + 2k, and far above d."""
    k = r = draw(st.integers(1, 4))
    world: dict[str, Any] = {}
    if general:
        k = draw(st.integers(1, 5))
        world = draw(st.one_of(option_worlds(r), st.builds(moment_world, st.just(sampler), st.just(k), *laws(r))))
    q = r + (world.get("d_nuisance") or 0)
    least = q + 4 * k if sampler == "reduced" else max(q, k)
    values = {
        "d_latent": r,
        "d_obs": least + draw(st.integers(0, 6)),
        "batch_size": draw(st.sampled_from(sorted({1, k, q + 2 * k - 1, q + 2 * k, q + 2 * k + 1, 60}))),
        "epochs": draw(st.integers(1, 12)),
        "log_every": draw(st.integers(1, 5)),
        "pred_update_every": draw(st.integers(1, 3)),
        "enc_update_every": draw(st.integers(1, 3)),
        "sigma_n": draw(st.sampled_from([0.0, 0.5, 1.5])),
        "power_iters": draw(st.integers(1, 3)),
        "auto_every": draw(st.integers(1, 4)),
        "latent_spectrum": draw(spectra()),
        "mixing": draw(st.sampled_from(["orthonormal", "gaussian"])),
        "seed": draw(st.integers(0, 10**6)),
        "device": "cpu",
    }
    if "world" in world:
        for name in ("d_latent", "d_obs", "sigma_n", "latent_spectrum", "mixing"):
            del values[name]
    return values | world | sampler_options(sampler) | ({"d_embed": k} if general else {})


def option_worlds(r: int) -> st.SearchStrategy[dict[str, Any]]:
    """Each view with latents and noise of its own: correlations of either sign, one-sided noise, nuisance."""
    listed = ",".join(["1", "-0.4", "0", "0.9"][:r])
    correlation = st.sampled_from([None, "flat:0.6", "linear:1:-0.5", listed])
    nuisance = st.one_of(
        st.just({}), st.builds(lambda p, nu: {"d_nuisance": p, "nuisance_spectrum": nu}, st.integers(1, 3), spectra())
    )
    return st.builds(
        lambda rho, sigma, more: {"correlation": rho, "sigma_n_target": sigma} | more,
        correlation,
        st.sampled_from([None, 0.0, 0.8]),
        nuisance,
    )


def laws(r: int) -> tuple[st.SearchStrategy[Any], ...]:
    """Of moments: q, the rank of all of them, sign of the correlation, both noises, columns of Q beyond it, seed."""
    return (
        st.just(r),
        st.sampled_from(sorted({2 * r, r, max(1, r - 1)})),
        st.sampled_from([1, -1]),
        st.sampled_from([0.0, 0.5, 1.5]),
        st.sampled_from([0.0, 0.5, 0.8]),
        st.sampled_from([0, 0, 1, 4]),
        st.integers(0, 10**6),
    )


def moment_world(
    sampler: str, k: int, q: int, rank: int, sign: int, sigma: float, sigma_plus: float, beyond: int, seed: int
) -> dict[str, Any]:
    """A file of general moments: singular where `rank` < 2q; noise with a hole, or none where d = q."""
    rng = np.random.default_rng(seed)
    d = q + beyond + (4 * k if sampler == "reduced" else max(0, k - q))
    F = rng.normal(size=(2 * q, rank))
    S = F @ F.T / rank
    basis: dict[str, Any] = {"Q": np.linalg.qr(rng.normal(size=(d, q)))[0], "sigma": sigma, "sigma_plus": sigma_plus}
    world = World.from_moments(S[:q, :q], sign * S[q:, :q], S[q:, q:], **(basis if d > q else {}))
    name = "-".join(map(str, (d, q, rank, sign, sigma, sigma_plus, seed)))
    return {"world": str(world.save(Path(_FOLDER.name) / f"{name}.npz"))}


def configurations(sampler: str, general: bool = False) -> st.SearchStrategy[RunConfig]:
    """Runs of one sampler, in either precision, of which rounding does not choose the draws (see `is_determined`)."""
    dtype = st.sampled_from(["float64", "float64", "float32"])
    build = st.builds(
        lambda common, mine, dtype: RunConfig(**common, **mine, dtype=dtype),
        shared(sampler, general),
        own(general),
        dtype,
    )
    return build.filter(answers_to_the_law if general else is_determined)


def is_determined(config: RunConfig) -> bool:
    """Whether the directions of the reduced form are determined by the trajectory.

    With fewer samples than r a gradient of B_o has a rank below r, and so has V_B if it forgets at once or if the first
    gradients have columns in common, as they have from P = 0. Rounding then chooses directions that complete V_B, which
    the target's rows meet: the law is the same, and the draw another one.
    """
    generic = config.mom_enc > 0 and config.init != "zero_pred"
    return config.moments_form != "reduced" or config.batch_size >= config.d_latent or generic


NUDGE, ANSWER = 1e-13, {"float64": 1e-9, "float32": 1e-4}


def answers_to_the_law(config: RunConfig, initial: Start | None = None) -> bool:
    """Whether the plain trajectory hardly answers to rounding, as far as the plain backend can tell.

    A start that is nudged by 1e-13 of each number moves it by less than 1e-9, and single precision, where it is asked
    for, by less than 1e-4. It answers by more where a factor has a row that depends on others (a target without noise,
    an encoder inside the hole, fewer samples than rows, and more): rounding then chooses a direction that later draws
    belong to, as `is_determined` says of one case; or where a rate is far beyond stability.
    """
    exact = RunConfig(**(config.model_dump() | {"backend": "numpy", "dtype": "float64"}))
    start = initial_weights(exact, World.from_config(exact), initial)
    rng = np.random.default_rng(0)
    matrices = {name: M for name, M in start._asdict().items() if isinstance(M, np.ndarray)}
    nudged: dict[str, Any] = {name: M * (1 + NUDGE * rng.normal(size=M.shape)) for name, M in matrices.items()}
    for online, target in (("B_o", "B_t"), ("upper", "upper_t")):
        if online in matrices and np.array_equal(matrices[online], matrices[target]):
            nudged[target] = nudged[online]
    here = trajectory(exact, start)
    others = {"float64": trajectory(exact, start._replace(**nudged))}
    if config.dtype == "float32":
        others["float32"] = trajectory(RunConfig(**(exact.model_dump() | {"dtype": "float32"})), start)
    return all(
        np.array_equal(here.valid, there.valid)
        and max(float(error.max(initial=0)) for error in errors(there, here).values()) < ANSWER[dtype]
        for dtype, there in others.items()
    )


def start_of_a_run(config: RunConfig, seed: int, epoch: int, in_coordinates: bool = False) -> Start:
    """A start in general position, with momentum, that has `epoch` draws behind it."""
    rng = np.random.default_rng(seed)
    k, q, d = config.k, config.structured, config.d_obs
    P, V_P = rng.normal(size=(2, k, k)) / np.sqrt(k)
    if in_coordinates:
        rows = np.hstack([rng.normal(size=(3 * k, q)), lq_factor(rng.normal(size=(3 * k, 4 * k)))]) / np.sqrt(q + 3 * k)
    else:
        rows = rng.normal(size=(3 * k, d)) / np.sqrt(d)
    B_o, V_B, B_t = np.split(rows, 3)
    return Start(P, 0.1 * V_P, B_o, 0.1 * V_B, B_t, epoch)
