"""Every hyperparameter, declared once: type, bounds, default and help.

`RunConfig` is the configuration of one run; that of a grid (`config/grid.py`) shares most fields. Both are immutable
and strict: text is no number, `True` is no integer, an unknown key is an error, and nothing is infinite. Command-line
options, TOML keys, Parquet columns and `docs/options.md` are derived from these fields.

A configuration is resolved when it is built: learning rates that the auto schedule sets are None, `backend` is
concrete, and what has no meaning for the chosen model or sampler is None. (A torch `device` of auto becomes concrete
in `simulate.resolve`, which asks the backend.)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from byolsim.config.fields import hyper, hyperparameters, known, names
from byolsim.config.parsing import parse_correlation, parse_spectrum, tau_from_ema_m
from byolsim.config.world_file import read_moments
from byolsim.version import NUMERICS_VERSION, SCHEMA_VERSION

CPU_BACKENDS = ("numba", "numpy")
"""Backends for linear models on the CPU."""

MAX_RATE = 1e6
MAX_ROWS = 10**8


def identity(values: Mapping[str, Any], schema_version: int, numerics_version: int) -> str:
    """The id of a configuration under given versions; what is None or declared `outside_id` is left out of it."""
    outside = names(RunConfig, "outside_id")
    given = {key: value for key, value in values.items() if value is not None and key not in outside}
    # -0.0 is 0.0
    content = {key: value + 0.0 if isinstance(value, float) else value for key, value in given.items()}
    content |= {"schema_version": schema_version, "numerics_version": numerics_version}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


Rate = Annotated[float, Field(ge=0, le=MAX_RATE)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Period = Annotated[int, Field(ge=1, lt=2**63)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
BatchSize = Annotated[int, Field(ge=1, le=10**9)]


def _null_at(default: Any) -> Callable[[Any], Any]:
    """None in place of a default that was given: of one configuration there is one form."""
    return lambda value: None if value == default else value


InitScale = Annotated[
    Annotated[float, Field(ge=0, le=1e6)] | None,
    AfterValidator(_null_at(1.0)),
]
SPECTRAL = ("directpred", "directcopy", "spectral")
"""Rules that set P from the spectrum of the features."""

LrEncMode = Literal["same", "ratio", "logspace", "from_tau", "auto"]


def momentum(of: str, default: float) -> Any:
    """The momentum fields differ between one run and a grid in their default alone."""
    text = f"heavy-ball momentum of the {of}'s optimiser; not the EMA"
    P = of == "predictor"
    symbol = "μ_P" if P else "μ_B"
    return hyper(default, text, per_run=True, symbol=symbol, title=f"{of} momentum", told="always", of_learning=P)


def spectra(default: bool) -> Any:
    """Whether spectra are logged differs between one run and a grid in its default alone."""
    text = "log spectra too, lists with a number a mode or dimension; no part of a run's id"
    return hyper(default, text, outside_id=True, unstored=True, switch=True)


class Frozen(BaseModel):
    """Strict and immutable: a value is of its declared type or refused."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class Shared(Frozen):
    """The hyperparameters that one run and a whole grid have in common (docs/derivation.md, sections 1 to 6)."""

    d_latent: Annotated[int, Field(ge=1, le=10_000)] = hyper(
        10, "latent dimension r", symbol="r", told="always", of_world=True
    )
    d_obs: Annotated[int, Field(ge=1, le=10**7)] = hyper(
        100, "observed dimension d >= r", symbol="d", told="always", of_world=True
    )
    epochs: Annotated[int, Field(ge=1, le=10**12)] = hyper(
        2000, "training steps T; each uses one fresh minibatch", symbol="T", told="never"
    )
    log_every: Period = hyper(10, "epochs between logged rows; never changes the trajectory", told="never")
    log_spectra: bool = spectra(True)
    mom_pred: Momentum = momentum("predictor", 0.95)
    mom_enc: Momentum = momentum("encoder", 0.95)
    pred_update_every: Period = hyper(1, "the predictor steps only at multiples of this")
    enc_update_every: Period = hyper(1, "the encoder steps only at multiples of this")
    sigma_n: Annotated[float, Field(ge=0, le=1e6)] = hyper(
        0.5,
        "standard deviation of the observation noise",
        symbol="σ",
        title="observation noise",
        told="always",
        of_world=True,
    )
    weight_decay: Rate = hyper(
        0.0, "L2 coefficient eta added to both gradients", per_run=True, symbol="η", title="weight decay", log=True
    )
    weight_decay_pred: Rate | None = hyper(
        None,
        "decay of the predictor (weight_decay)",
        per_run=True,
        symbol="η_P",
        title="predictor decay",
        log=True,
        ability=True,
        of_rules=("learned",),
    )
    weight_decay_enc: Rate | None = hyper(
        None,
        "decay of the encoder (weight_decay)",
        per_run=True,
        symbol="η_B",
        title="encoder decay",
        log=True,
        ability=True,
    )
    lr_schedule: Annotated[Literal["constant", "cosine"] | None, AfterValidator(_null_at("constant"))] = hyper(
        None,
        "factor on both rates after w steps of warm-up: none, or (1 + cos(pi (t - w) / (T - w))) / 2",
        per_run=True,
        ability=True,
    )
    warmup: Annotated[int, Field(ge=0, lt=2**63), AfterValidator(_null_at(0))] | None = hyper(
        None, "steps in which both rates grow to their value, as t / warmup (0)", per_run=True, ability=True
    )
    ema_schedule: Annotated[Literal["constant", "cosine"] | None, AfterValidator(_null_at("constant"))] = hyper(
        None, "EMA rate: constant, or tau (1 + cos(pi t / T)) / 2 as in BYOL", per_run=True, ability=True
    )
    auto_alpha_c: Rate = hyper(
        0.4,
        "constant c of alpha_t = c tau / H_t for the predictor; 0 turns the schedule off",
        per_run=True,
        point=True,
        symbol="c_α",
        told="never",
        of_learning=True,
        used_by="auto",
    )
    auto_beta_c: Rate = hyper(
        0.4,
        "constant c of beta_t = c tau / H_t for the encoder; 0 turns the schedule off",
        per_run=True,
        point=True,
        symbol="c_β",
        told="never",
        used_by="auto",
    )
    power_iters: Annotated[int, Field(ge=1, le=1000)] = hyper(
        1, "power iterations at each update of the curvature estimate H_t"
    )
    auto_every: Period = hyper(10, "steps between updates of H_t, a clock of its own")
    latent_spectrum: Annotated[str | None, BeforeValidator(parse_spectrum)] = hyper(
        "geometric:0.1:10",
        "latent variances: geometric:LO:HI, linear:LO:HI, flat:V or a list",
        listed=True,
        allowed="geometric:LO:HI, linear:LO:HI, flat:V or d_latent numbers > 0",
        of_world=True,
    )
    mixing: Literal["orthonormal", "gaussian"] | None = hyper(
        "orthonormal", "mixing matrix A: orthonormal columns, or entries N(0, 1/d)", of_world=True
    )
    correlation: Annotated[str | None, BeforeValidator(parse_correlation)] = hyper(
        None,
        "correlation rho of each latent between the views (1): flat:V, linear:FIRST:LAST or a list",
        listed=True,
        symbol="ρ",
        allowed="flat:V, linear:FIRST:LAST or d_latent numbers, all >= -1 and <= 1",
        of_world=True,
    )
    sigma_n_target: Annotated[float, Field(ge=0, le=1e6)] | None = hyper(
        None,
        "noise of the target's view (sigma_n); 0 is a clean target",
        symbol="σ₊",
        title="target's noise",
        of_world=True,
    )
    d_nuisance: Annotated[int, Field(ge=1, le=10_000)] | None = hyper(
        None, "directions of nuisance (none), each view with its own", symbol="p", of_world=True
    )
    nuisance_spectrum: Annotated[str | None, BeforeValidator(parse_spectrum)] = hyper(
        None,
        "variances along them (flat:1), as latent_spectrum; with d_nuisance only",
        listed=True,
        allowed="geometric:LO:HI, linear:LO:HI, flat:V or d_nuisance numbers > 0",
        of_world=True,
    )
    world: Annotated[str, Field(min_length=1, max_length=4096)] | None = hyper(
        None,
        "FILE.npz with second moments of the views, in place of the options that make a world",
        outside_id=True,
        world_too=True,
    )
    world_id: Annotated[str, Field(pattern="^[0-9a-f]{16}$")] | None = hyper(
        None, "digest of the arrays of `world`", option=None
    )
    d_embed: Annotated[int, Field(ge=1, le=10_000)] | None = hyper(
        None,
        "rows k of the encoder, and size of the predictor (d_latent)",
        symbol="k",
        title="embedding dimension",
        world_too=True,
    )
    init: Literal["zero_pred", "random", "pinv", "modes"] = hyper(
        "zero_pred",
        "start: P = 0 and B_o Gaussian; P Gaussian too; B_o = A^+ and P = I; or the first k canonical directions and "
        "P = I",
        per_run=True,
        of_start=True,
    )
    init_scale: InitScale = hyper(None, "factor on the initial encoder (1)", per_run=True, of_start=True, log=True)
    init_pred_scale: InitScale = hyper(
        None, "factor on the initial predictor (1)", per_run=True, of_start=True, log=True, of_rules=("learned",)
    )
    target_init: Annotated[Literal["copy", "zero", "independent"] | None, AfterValidator(_null_at("copy"))] = hyper(
        None, "start of the target (copy): the online encoder, 0, or a draw of its own", per_run=True, of_start=True
    )
    enc: Literal["linear", "mlp"] = hyper("linear", "encoder")
    pred: Literal["linear", "mlp"] = hyper("linear", "predictor")
    hidden: Annotated[int, Field(ge=1, le=10**6)] | None = hyper(None, "hidden units of an MLP (64); for mlp only")
    activation: Literal["relu", "tanh", "gelu"] | None = hyper(None, "activation of an MLP (relu); for mlp only")
    enc_depth: Annotated[int, Field(ge=1, le=64), AfterValidator(_null_at(1))] | None = hyper(
        None, "layers L of a linear encoder W_L ... W_1 (1)", symbol="L", title="depth", ability=True
    )
    pred_rule: Literal["learned", "identity", "optimal", "directpred", "directcopy", "spectral"] = hyper(
        "learned",
        "how the predictor is set: by its gradient, P = I, the population's optimum, or from the features' spectrum",
        compiled=True,
    )
    pred_power: Annotated[float, Field(gt=0, le=100)] | None = hyper(
        None, "power a of the spectral rules (0.5; directcopy 1)", of_rules=SPECTRAL
    )
    pred_eps: Annotated[float, Field(ge=0, le=1e6)] | None = hyper(
        None, "eps of the spectral rules (0; directpred 0.1)", of_rules=SPECTRAL
    )
    pred_norm: Annotated[Literal["none", "max"] | None, AfterValidator(_null_at("none"))] = hyper(
        None,
        "spectral rules: p_j = s_j^a + eps max s (none), or (s_j / max s)^a + eps (max)",
        of_rules=SPECTRAL,
    )
    pred_corr: Annotated[Literal["C_oo", "BBT"] | None, AfterValidator(_null_at("C_oo"))] = hyper(
        None,
        "spectral rules: spectrum of an average of minibatch feature covariances (C_oo), or of B_o B_o^T (BBT)",
        of_rules=SPECTRAL,
    )
    pred_corr_rate: Annotated[float, Field(gt=0, le=1)] | None = hyper(
        None, "weight of the newest in that average (0.3); DirectPred's rho is 1 - it", of_rules=SPECTRAL
    )
    pred_every: Annotated[Period, AfterValidator(_null_at(1))] | None = hyper(
        None,
        "spectral rules and optimal: steps between two settings of the predictor (1)",
        of_rules=("optimal", *SPECTRAL),
    )
    pred_symmetric: Annotated[bool | None, AfterValidator(_null_at(False))] = hyper(
        None,
        "a learned P is replaced by its symmetric part after each of its steps (no)",
        of_rules=("learned",),
        compiled=True,
        ability=True,
        switch=True,
    )
    pred_jacobian: Annotated[Literal["full", "straight"] | None, AfterValidator(_null_at("full"))] = hyper(
        None,
        "straight: the encoder's gradient is G in place of P^T G, as if the predictor were the identity (full)",
        compiled=True,
        ability=True,
    )
    stop_grad: bool = hyper(
        True, "no gradient flows through the target branch; off: one encoder, B_t = B_o", compiled=True, switch=True
    )
    symmetric_loss: Annotated[bool | None, AfterValidator(_null_at(False))] = hyper(
        None,
        "the mean of the loss and of that with the views exchanged (no)",
        compiled=True,
        ability=True,
        switch=True,
    )
    sampler: Literal["minibatch", "moments", "population"] = hyper(
        "minibatch",
        "what a step draws: every sample, second moments only, or nothing (n = infinity)",
        compiled=True,
        told="always",
        key=7,
    )
    moments_form: Literal["auto", "direct", "reduced"] | None = hyper(
        None, "form of the moments sampler (auto); for sampler moments only", compiled=True
    )
    backend: Literal["auto", "numba", "torch", "numpy"] = hyper(
        "auto",
        "auto: numba for linear models, torch for an MLP or a CUDA device; numpy: the slow reference",
        compiled=True,
        told="never",
    )
    device: Literal["auto", "cpu", "cuda"] = hyper(
        "auto", "cuda belongs to the torch backend", compiled=True, told="never"
    )
    dtype: Literal["float64", "float32"] = hyper("float64", "arithmetic of the training steps", compiled=True)

    @model_validator(mode="before")
    @classmethod
    def _resolve_shared(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        values = {name: value for name, value in given.items() if value is not None or name not in _unless_null()}
        if "world" in values or "world_id" in values:
            values = _of_world_file(values)
        mlp = "mlp" in (values.get("enc"), values.get("pred"))
        for name, default, applies, where in (
            ("hidden", 64, mlp, "applies to enc or pred = mlp only"),
            ("activation", "relu", mlp, "applies to enc or pred = mlp only"),
            ("moments_form", "auto", values.get("sampler") == "moments", "applies to sampler = moments only"),
            ("nuisance_spectrum", "flat:1", "d_nuisance" in values, "applies with d_nuisance only"),
        ):
            if applies:
                values.setdefault(name, default)
            elif name in values:
                raise ValueError(f"{name} = {values[name]!r} {where}")
        if values.get("backend", "auto") == "auto":
            values["backend"] = "torch" if mlp or values.get("device") == "cuda" else "numba"
        if values["backend"] in CPU_BACKENDS and values.get("device", "auto") == "auto":
            values["device"] = "cpu"
        return values

    @field_validator("d_embed", "sigma_n_target", "weight_decay_pred", "weight_decay_enc")
    @classmethod
    def _null_at_default(cls, value: Any, info: ValidationInfo) -> Any:
        """None in place of the default, another field: of one configuration there is one form."""
        other = {"d_embed": "d_latent", "sigma_n_target": "sigma_n"}.get(str(info.field_name), "weight_decay")
        return None if value == info.data.get(other) else value

    @model_validator(mode="after")
    def _check_shared(self) -> Shared:
        self._check_world()
        rows = self.epochs // self.log_every
        if rows > MAX_ROWS:
            raise ValueError(
                f"epochs = {self.epochs} and log_every = {self.log_every} make {rows} rows: must be at most {MAX_ROWS}"
            )
        mlp = "mlp" in (self.enc, self.pred)
        if self.sampler == "moments" and mlp:
            raise ValueError("sampler = 'moments' needs linear models: with an MLP use sampler = 'minibatch'")
        if self.moments_form == "reduced" and not self.has_reduced_form:
            raise ValueError(
                f"moments_form = 'reduced' needs d_obs >= {self._least_reduced}: with d_obs = {self.d_obs} use "
                "moments_form = 'direct'"
            )
        if self.sampler == "population" and mlp:
            raise ValueError("sampler = 'population' needs linear models: with an MLP use sampler = 'minibatch'")
        self._check_rule()
        return self

    def _check_rule(self) -> None:
        """Predictor rule, loss and depth that go together."""
        for name in names(type(self), "of_rules"):
            rules = known(type(self).model_fields[name])["of_rules"]
            if getattr(self, name) is not None and self.pred_rule not in rules:
                raise ValueError(
                    f"{name} = {getattr(self, name)!r} belongs to pred_rule = {' or '.join(map(repr, rules))}, "
                    f"not to {self.pred_rule!r}"
                )
        if self.pred_update_every != 1 and self.pred_rule != "learned":
            own = "is I at every step" if self.pred_rule == "identity" else "is set every pred_every steps"
            raise ValueError(
                f"pred_update_every = {self.pred_update_every} belongs to pred_rule = 'learned': with "
                f"{self.pred_rule!r} the predictor {own}"
            )
        if self.pred_corr == "BBT" and self.pred_corr_rate is not None:
            raise ValueError(
                f"pred_corr_rate = {self.pred_corr_rate} is that of the average of C_oo, and pred_corr = 'BBT' has none"
            )
        for name, value in (("stop_grad", not self.stop_grad), ("symmetric_loss", self.symmetric_loss)):
            if value and self.sampler == "moments":
                raise ValueError(
                    f"{name} = {getattr(self, name)} needs the samples of both views, and sampler = 'moments' draws "
                    "what the online view alone needs: use sampler = 'minibatch' or 'population'"
                )
        for name in ("target_init", "ema_schedule"):
            if not self.stop_grad and getattr(self, name) is not None:
                raise ValueError(
                    f"{name} = {getattr(self, name)!r} has no meaning with stop_grad = False: there is one encoder"
                )
        if self.warmup is not None and self.warmup > self.epochs:
            raise ValueError(f"warmup = {self.warmup} is more than epochs = {self.epochs}: must be at most as many")
        if "mlp" in (self.enc, self.pred):
            self._check_mlp()

    def _check_mlp(self) -> None:
        """What is not there for an MLP, and what to use instead."""
        linear = "enc = 'linear' and pred = 'linear'"
        for name, asked, use in (
            ("init", self.init in ("pinv", "modes"), "init = 'zero_pred' or 'random'"),
            ("enc_depth", self.depth > 1, linear),
            ("pred_rule", self.pred_rule == "optimal", linear),
            ("pred_rule", self.pred == "mlp" and self.pred_rule != "learned", "pred = 'linear'"),
            ("pred_symmetric", self.pred == "mlp" and self.pred_symmetric, "pred = 'linear'"),
            ("pred_corr", self.pred_corr == "BBT", "pred_corr = 'C_oo'"),
            ("pred_jacobian", self.pred_jacobian == "straight", "pred_jacobian = 'full'"),
        ):
            if asked:
                raise ValueError(f"{name} = {getattr(self, name)!r} needs linear models: with an MLP use {use}")

    @property
    def depth(self) -> int:
        """Layers of the encoder."""
        return self.enc_depth or 1

    @property
    def eta_P(self) -> float:
        """Decay of the predictor."""
        return self.weight_decay if self.weight_decay_pred is None else self.weight_decay_pred

    @property
    def eta_B(self) -> float:
        """Decay of the encoder."""
        return self.weight_decay if self.weight_decay_enc is None else self.weight_decay_enc

    def _check_world(self) -> None:
        """Shapes that fit together."""
        r, p = self.d_latent, self.d_nuisance
        for name in ("latent_spectrum", "mixing"):
            if getattr(self, name) is None and self.world_id is None:
                raise ValueError(f"{name} = None belongs to a world file: without one it must have a value")
        if self.d_obs < r:
            raise ValueError(f"d_obs = {self.d_obs} is less than d_latent = {r}: must be d_obs >= d_latent")
        if self.d_obs < self.structured:
            raise ValueError(f"d_obs = {self.d_obs} is less than d_latent + d_nuisance = {r} + {p}: must be as large")
        if self.d_obs < self.k:
            raise ValueError(f"d_embed = {self.k} is more than d_obs = {self.d_obs}: must be d_embed <= d_obs")
        lists = (("latent_spectrum", "d_latent"), ("correlation", "d_latent"), ("nuisance_spectrum", "d_nuisance"))
        for name, number in lists:
            text, size = getattr(self, name), getattr(self, number)
            if text is not None and ":" not in text and text.count(",") + 1 != size:
                raise ValueError(f"{name} = {text!r} lists {text.count(',') + 1} numbers: must be {number} = {size}")
        if self.init == "pinv" and (self.world_id is not None or self.k != r):
            raise ValueError("init = 'pinv' needs a mixing matrix and d_embed = d_latent: use init = 'modes'")

    @property
    def k(self) -> int:
        """Rows of the encoder and size of the predictor."""
        return self.d_latent if self.d_embed is None else self.d_embed

    @property
    def structured(self) -> int:
        """Dimension q of the structured subspace: latents and nuisance, or the moments of a world file."""
        return self.d_latent + (self.d_nuisance or 0)

    @property
    def has_reduced_form(self) -> bool:
        """Whether there is room outside the structured subspace for the 4k directions of a step."""
        return self.d_obs - self.structured >= 4 * self.k

    @property
    def _least_reduced(self) -> str:
        if self.k == self.structured:
            return f"5 d_latent = {5 * self.k}"
        return f"{self.structured} + 4 d_embed = {self.structured + 4 * self.k}"


@cache
def _unless_null() -> frozenset[str]:
    """What may be given as None, which says nothing: what is null by default."""
    return frozenset(name for name, field in Shared.model_fields.items() if field.default is None)


def _of_world_file(values: dict[str, Any]) -> dict[str, Any]:
    """The values with what a world file replaces.

    A configuration whose `world_id` is given has been here before: its file, which may be gone, is not read again.
    """
    if "world_id" in values:
        return values | {name: None for name in ("latent_spectrum", "mixing") if values.get(name) is None}
    given = next((name for name in names(Shared, "of_world") if values.get(name) is not None), None)
    if given is not None:
        raise ValueError(
            f"{given} = {values[given]!r} has no meaning with world, a file that says it: give one of them"
        )
    path = values["world"]
    if not isinstance(path, str):
        return values  # for the field's own check to refuse
    try:
        moments = read_moments(path)
    except ValueError as error:
        raise ValueError(f"world = {path!r} is not a world file: {error}") from error
    return values | {
        "world_id": moments.digest,
        "d_latent": moments.q,
        "d_obs": moments.d,
        "sigma_n": moments.sigma,
        "sigma_n_target": moments.sigma_plus,
        "latent_spectrum": None,
        "mixing": None,
    }


def _unless_scheduled(rate: float | None, info: ValidationInfo) -> float | None:
    """None in place of a rate that the auto schedule replaces: it has passed its own check, and is not used."""
    return None if info.data.get(schedules()[str(info.field_name)], 0) > 0 else rate


ScheduledRate = Annotated[Rate | None, AfterValidator(_unless_scheduled)]


class RunConfig(Shared):
    """The configuration of one run: all that determines its numbers, and the sweep that it belongs to.

    The EMA is one number, kept as its rate `tau` and given as `ema_m` = 1 - tau (or as `tau`, from Python).
    `lr_pred` is None where alpha follows the auto schedule (`auto_alpha_c` > 0), and `lr_enc` likewise.

    Raises
    ------
    pydantic.ValidationError
        If a value has the wrong type or is out of range; `first_error` gives its one-line form.
    """

    seed: Seed = hyper(
        42, "fixes the world, the initial weights and the data stream", point=True, key=5, world_too=True
    )
    batch_size: BatchSize = hyper(64, "minibatch size n", point=True, symbol="n", title="batch size", log=True, key=1)
    lr_pred: ScheduledRate = hyper(
        1e-3,
        "predictor learning rate alpha; unused while auto_alpha_c > 0",
        per_run=True,
        point=True,
        symbol="α",
        title="predictor learning rate",
        log=True,
        key=2,
        auto="auto",
        schedule="auto_alpha_c",
    )
    lr_enc: ScheduledRate = hyper(
        1e-3,
        "encoder learning rate beta; unused while auto_beta_c > 0",
        per_run=True,
        point=True,
        symbol="β",
        title="encoder rate",
        log=True,
        key=3,
        auto="auto",
        schedule="auto_beta_c",
    )
    tau: Annotated[float, Field(ge=0, le=1)] = hyper(
        1e-3,
        "EMA momentum m of the target encoder, 0 <= m <= 1; tau = 1 - m",
        option="ema_m",
        also="tau",
        also_help="EMA rate tau = 1 - ema_m, in place of ema_m",
        complement=True,
        per_run=True,
        point=True,
        symbol="τ",
        title="EMA rate",
        formula="τ = 1 − m",
        log=True,
        key=4,
    )
    auto_noise_limit: Annotated[bool | None, Field(validate_default=True)] = hyper(
        None,
        "whether the schedule keeps alpha below the mean-square limit too: where c tau could reach it",
        option=None,
        per_run=True,
        point=True,
        told="never",
        ability=True,
    )
    initial: Annotated[str, Field(pattern="^[0-9a-f]{16}$")] | None = hyper(
        None, "digest of the state that the run starts from, if that is not its own", option=None
    )
    lr_enc_mode: LrEncMode | None = hyper(
        None,
        "the kind of sweep that this run belongs to",
        option=None,
        per_run=True,
        point=True,
        told="never",
        key=6,
    )

    @model_validator(mode="before")
    @classmethod
    def _resolve_run(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        values = {key: value for key, value in given.items() if value is not None or key not in _may_be_null()}
        if "ema_m" in values:
            if "tau" in values:
                raise ValueError("ema_m and tau are one number: give one of them")
            values["tau"] = tau_from_ema_m(values.pop("ema_m"))
        if values.get("stop_grad") is False:  # one encoder is a target that follows at once
            if values.get("tau", 1.0) != 1.0:
                raise ValueError("stop_grad = False has one encoder and no EMA: ema_m and tau must not be given")
            values["tau"] = 1.0
        if values.get("pred_rule", "learned") != "learned":  # P takes no step of its own
            for name in ("lr_pred", "auto_alpha_c"):
                if values.get(name):
                    raise ValueError(
                        f"{name} = {values[name]} belongs to pred_rule = 'learned', not to {values['pred_rule']!r}"
                    )
                values[name] = 0.0
        for rate, constant in schedules().items():
            values.setdefault(constant, 0.0 if rate in values else cls.model_fields[constant].default)
            values.setdefault(rate, cls.model_fields[rate].default)
        return values

    @field_validator("moments_form")
    @classmethod
    def _choose_moments_form(cls, value: str | None, info: ValidationInfo) -> str | None:
        """`auto` by shape alone: the reduced form, whose cost does not grow with d, wherever it exists.

        `info.data` holds the fields that are declared before, but for those that were refused.
        """
        known_so_far = info.data
        if value != "auto" or not {"d_obs", "d_latent", "d_nuisance", "d_embed"} <= known_so_far.keys():
            return value
        shape = cls.model_construct(**known_so_far)
        return "reduced" if shape.has_reduced_form else "direct"

    @field_validator("auto_noise_limit")
    @classmethod
    def _where_noise_matters(cls, value: bool | None, info: ValidationInfo) -> bool | None:
        """True where the limit could bind, else null, so that what it cannot change keeps its id.

        With H the largest eigenvalue, c tau / H is below half of the limit if c tau <= x / 2, all eigenvalues being H
        in (x / n) k = 2 (1 - mu) - x g: x = 2 (1 - mu) / (g + k / n), g = (1 - mu) / (1 + mu) + 1 / n.
        """
        known_so_far = info.data
        if not {"batch_size", "mom_pred", "tau", "lr_pred", "auto_alpha_c", "d_embed"} <= known_so_far.keys():
            return value
        self = cls.model_construct(**known_so_far)
        if self.lr_pred is not None or self.sampler == "population":
            return None
        n, mu = self.batch_size, self.mom_pred
        x = 2 * (1 - mu) / ((1 - mu) / (1 + mu) + (1 + self.k) / n)
        return True if self.auto_alpha_c * self.tau > x / 2 else None

    @property
    def ema_m(self) -> float:
        """EMA momentum m = 1 - tau, subtracted as decimals."""
        return float(1 - Decimal(repr(self.tau)))

    @property
    def run_id(self) -> str:
        """Twelve hexadecimal digits of a hash of all that determines the numbers or where they belong.

        Fields that are None are left out, so that a hyperparameter added later does not change the ids of runs that
        do not use it.
        """
        return identity(self.model_dump(), SCHEMA_VERSION, NUMERICS_VERSION)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The values of all hyperparameters: what columns and files hold, and the id is a hash of."""
        return {name: getattr(self, name) for name in hyperparameters(type(self))}

    def to_json(self) -> str:
        """The resolved configuration as JSON text; `RunConfig(**json.loads(text))` gives it back."""
        return json.dumps(self.model_dump(), sort_keys=True)


@cache
def schedules() -> Mapping[str, str]:
    """Learning rate -> the constant of the auto schedule that takes its place where it is > 0."""
    return {name: str(known(RunConfig.model_fields[name])["schedule"]) for name in names(RunConfig, "schedule")}


@cache
def _may_be_null() -> frozenset[str]:
    """What may be given as None, which says nothing."""
    return frozenset({*schedules(), *schedules().values(), "ema_m"})


def rule_notes(given: Mapping[str, Any], config: Shared) -> list[str]:
    """One line for each option that says how the predictor learns, where a rule sets it."""
    if config.pred_rule == "learned":
        return []
    rule = f"pred_rule = {config.pred_rule!r} sets the predictor, which takes no step of its own"
    return [f"{name} is not used: {rule}" for name in names(type(config), "of_learning") if given.get(name)]


def schedule_notes(given: Mapping[str, Any]) -> list[str]:
    """One line for each learning rate that was given but that the auto schedule, given too, replaces."""
    notes = []
    for rate, constant in schedules().items():
        if given.get(rate) is not None and given.get(constant):
            notes.append(
                f"{rate} = {given[rate]:g} is not used: {constant} = {given[constant]:g} makes the rate follow the "
                f"auto schedule ({constant} = 0 turns it off)"
            )
    return notes
