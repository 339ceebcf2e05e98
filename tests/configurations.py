"""Random small configurations over the whole option space of linear models, for Hypothesis."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from byolsim.config.run import RunConfig

SAMPLERS = ("minibatch", "population", "direct", "reduced")


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


def own() -> st.SearchStrategy[dict[str, Any]]:
    """What may differ inside a group."""
    return st.builds(
        lambda values, rates: values | rates,
        st.fixed_dictionaries(
            {
                "mom_pred": st.sampled_from([0.0, 0.5, 0.95]),
                "mom_enc": st.sampled_from([0.0, 0.3, 0.95]),
                "tau": st.sampled_from([0.0, 1e-3, 0.1, 0.7, 1.0]),
                "weight_decay": st.sampled_from([0.0, 0.0, 0.1, 1.0]),
                "init": st.sampled_from(["zero_pred", "random", "pinv"]),
            }
        ),
        rates(),
    )


@st.composite
def shared(draw: st.DrawFn, sampler: str) -> dict[str, Any]:
    """What a group has in common: small shapes with n below, at and above r and 3r, and far above d."""
    r = draw(st.integers(1, 4))
    least = 5 * r if sampler == "reduced" else r
    values = {
        "d_latent": r,
        "d_obs": least + draw(st.integers(0, 6)),
        "batch_size": draw(st.sampled_from(sorted({1, r, 3 * r - 1, 3 * r, 3 * r + 1, 60}))),
        "epochs": draw(st.integers(1, 12)),
        "log_every": draw(st.integers(1, 5)),
        "pred_update_every": draw(st.integers(1, 3)),
        "enc_update_every": draw(st.integers(1, 3)),
        "sigma_n": draw(st.sampled_from([0.0, 0.5, 1.5])),
        "power_iters": draw(st.integers(1, 3)),
        "auto_every": draw(st.integers(1, 4)),
        "latent_spectrum": draw(st.sampled_from(["geometric:0.3:4", "flat:1", "linear:0.5:2"])),
        "mixing": draw(st.sampled_from(["orthonormal", "gaussian"])),
        "seed": draw(st.integers(0, 10**6)),
        "device": "cpu",
    }
    return values | sampler_options(sampler)


def configurations(sampler: str) -> st.SearchStrategy[RunConfig]:
    """Runs of one sampler, in either precision, of which rounding does not choose the draws (see `is_determined`)."""
    dtype = st.sampled_from(["float64", "float64", "float32"])
    build = st.builds(
        lambda common, mine, dtype: RunConfig(**common, **mine, dtype=dtype), shared(sampler), own(), dtype
    )
    return build.filter(is_determined)


def is_determined(config: RunConfig) -> bool:
    """Whether the directions of the reduced form are determined by the trajectory.

    With fewer samples than r a gradient of B_o has a rank below r, and so has V_B if it forgets at once or if the first
    gradients have columns in common, as they have from P = 0. Rounding then chooses directions that complete V_B, which
    the target's rows meet: the law is the same, and the draw another one.
    """
    generic = config.mom_enc > 0 and config.init != "zero_pred"
    return config.moments_form != "reduced" or config.batch_size >= config.d_latent or generic
