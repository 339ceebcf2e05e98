"""Every hyperparameter, declared once: type, bounds, default and help.

`RunConfig` is the configuration of one run and `SweepConfig` that of a grid. Both are immutable and strict: text is
no number, `True` is no integer, an unknown key is an error, and nothing is infinite. Command-line options, TOML keys,
Parquet columns and `docs/options.md` are derived from these fields.

A configuration is resolved when it is built (SPEC 4 and 8): learning rates that the auto schedule sets are None,
`backend` is concrete, and what has no meaning for the chosen model or sampler is None. (A torch `device` of auto
becomes concrete when the backend first sees the configuration.)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from byolsim.config.fields import hyper
from byolsim.version import NUMERICS_VERSION, SCHEMA_VERSION

CPU_BACKENDS = ("numba", "numpy")
"""Backends for linear models on the CPU."""


MAX_RATE = 1e6
MAX_ROWS = 10**8
MAX_POINTS = 10**6


def round12(x: float) -> float:
    """Round to 12 significant digits, so that grid points are the decimals that a person would type."""
    return float(f"{x:.12g}")


def tau_from_ema_m(ema_m: Any) -> Any:
    """EMA rate tau = 1 - m, subtracted as decimals: 0.9999 gives 1e-4, not 9.999999999998899e-05.

    Anything that is no number is handed back unchanged, for the field's own check to refuse; `ValueError` for a number
    outside 0 <= m <= 1.
    """
    if isinstance(ema_m, bool) or not isinstance(ema_m, (int, float, Decimal)):
        return ema_m
    m = Decimal(repr(ema_m)) if isinstance(ema_m, float) else Decimal(ema_m)
    if not (m.is_finite() and 0 <= m <= 1):
        raise ValueError(f"ema_m = {ema_m} is not allowed: must be a number >= 0 and <= 1")
    return float(1 - m)


def identity(values: Mapping[str, Any], schema_version: int, numerics_version: int) -> str:
    """The id of a configuration under given versions; what is None is left out of it."""
    given = {key: value for key, value in values.items() if value is not None}
    # -0.0 is 0.0
    content = {key: value + 0.0 if isinstance(value, float) else value for key, value in given.items()}
    content |= {"schema_version": schema_version, "numerics_version": numerics_version}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _parse_spectrum(value: Any) -> Any:
    """Canonical text of a spectrum, so that `geometric:0.10:10` and `geometric:0.1:10.0` are one configuration."""
    if isinstance(value, (list, tuple)):
        if any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in value):
            raise ValueError("a list must hold numbers only")
        value = ",".join(repr(v) for v in value)
    if not isinstance(value, str):
        return value
    kind, colon, rest = (part.strip() for part in value.partition(":"))
    arity = {"geometric": 2, "linear": 2, "flat": 1}.get(kind) if colon else None
    if colon and arity is None:
        raise ValueError("unknown kind of spectrum")
    try:
        # a list has commas, blanks or both between its numbers; an empty place in it is a mistake
        parts = rest.split(":") if colon else [w for part in value.split(",") for w in part.split() or [""]]
        numbers = [float(part) for part in parts]
    except ValueError:
        raise ValueError("not a list of numbers") from None
    if arity is not None and len(numbers) != arity:
        raise ValueError(f"{kind} takes {arity} number{'s' * (arity > 1)}")
    if not all(1e-12 <= v <= 1e12 for v in numbers):
        raise ValueError("each number must lie between 1e-12 and 1e12")
    if arity == 2:
        numbers.sort()  # LO and HI in either order
    text = [format(v, "g") if float(format(v, "g")) == v else repr(v) for v in numbers]
    if arity is not None:
        return ":".join([kind, *text])
    return ",".join(t for _, t in sorted(zip(numbers, text, strict=True), reverse=True))


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _one_or_more(value: Any) -> Any:
    """One whole number is a list of one."""
    return (value,) if type(value) is int else _as_tuple(value)


Rate = Annotated[float, Field(ge=0, le=MAX_RATE)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Period = Annotated[int, Field(ge=1, lt=2**63)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
BatchSize = Annotated[int, Field(ge=1, le=10**9)]
Logspace = Annotated[
    tuple[
        Annotated[float, Field(gt=0, le=MAX_RATE)],
        Annotated[float, Field(gt=0, le=MAX_RATE)],
        Annotated[int, Field(ge=1, le=10_000)],
    ],
    BeforeValidator(_as_tuple),
]
TauLogspace = Annotated[
    tuple[
        Annotated[float, Field(gt=0, le=1)],
        Annotated[float, Field(gt=0, le=1)],
        Annotated[int, Field(ge=1, le=10_000)],
    ],
    BeforeValidator(_as_tuple),
]
LrEncMode = Literal["same", "ratio", "logspace", "from_tau", "auto"]


def _momentum(of: str, default: float) -> Any:
    """The momentum fields differ between one run and a grid in their default alone."""
    text = f"heavy-ball momentum of the {of}'s optimiser; not the EMA"
    symbol = "μ_P" if of == "predictor" else "μ_B"
    return hyper(default, text, per_run=True, symbol=symbol, title=f"{of} momentum", told="always")


class Frozen(BaseModel):
    """Strict and immutable: a value is of its declared type or refused."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class _Shared(Frozen):
    """The hyperparameters that one run and a whole grid have in common (SPEC 1 to 5)."""

    d_latent: Annotated[int, Field(ge=1, le=10_000)] = hyper(10, "latent dimension r", symbol="r", told="always")
    d_obs: Annotated[int, Field(ge=1, le=10**7)] = hyper(100, "observed dimension d >= r", symbol="d", told="always")
    epochs: Annotated[int, Field(ge=1, le=10**12)] = hyper(
        2000, "training steps T; each uses one fresh minibatch", symbol="T", told="never"
    )
    log_every: Period = hyper(10, "epochs between logged rows; never changes the trajectory", told="never")
    mom_pred: Momentum = _momentum("predictor", 0.95)
    mom_enc: Momentum = _momentum("encoder", 0.95)
    pred_update_every: Period = hyper(1, "the predictor steps only at multiples of this")
    enc_update_every: Period = hyper(1, "the encoder steps only at multiples of this")
    sigma_n: Annotated[float, Field(ge=0, le=1e6)] = hyper(
        0.5, "standard deviation of the observation noise", symbol="σ", title="observation noise", told="always"
    )
    weight_decay: Rate = hyper(
        0.0, "L2 coefficient eta added to both gradients", per_run=True, symbol="η", title="weight decay", log=True
    )
    auto_alpha_c: Rate = hyper(
        0.4,
        "constant c of alpha_t = c tau / H_t for the predictor; 0 turns the schedule off",
        per_run=True,
        point=True,
        symbol="c_α",
        told="never",
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
    latent_spectrum: Annotated[
        str,
        BeforeValidator(_parse_spectrum),
    ] = hyper(
        "geometric:0.1:10",
        "latent variances: geometric:LO:HI, linear:LO:HI, flat:V or a list",
        listed=True,
        allowed="geometric:LO:HI, linear:LO:HI, flat:V or d_latent numbers > 0",
    )
    mixing: Literal["orthonormal", "gaussian"] = hyper(
        "orthonormal", "mixing matrix A: orthonormal columns, or entries N(0, 1/d)"
    )
    init: Literal["zero_pred", "random", "pinv"] = hyper(
        "zero_pred", "start: P = 0 and B_o Gaussian; P Gaussian too; or B_o = A^+ and P = I", per_run=True
    )
    enc: Literal["linear", "mlp"] = hyper("linear", "encoder")
    pred: Literal["linear", "mlp"] = hyper("linear", "predictor")
    hidden: Annotated[int, Field(ge=1, le=10**6)] | None = hyper(None, "hidden units of an MLP (64); for mlp only")
    activation: Literal["relu", "tanh", "gelu"] | None = hyper(None, "activation of an MLP (relu); for mlp only")
    # These two have one value that can be run so far: they are columns and part of every id, and no option yet.
    pred_rule: Literal["learned", "optimal", "directpred", "identity"] = hyper(
        "learned", "how the predictor is set", compiled=True, option=None
    )
    stop_grad: bool = hyper(True, "no gradient flows through the target branch", option=None)
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
        values = dict(given)
        for name in ("hidden", "activation", "moments_form"):
            if values.get(name) is None:
                values.pop(name, None)
        mlp = "mlp" in (values.get("enc"), values.get("pred"))
        for name, default, applies, where in (
            ("hidden", 64, mlp, "applies to enc or pred = mlp only"),
            ("activation", "relu", mlp, "applies to enc or pred = mlp only"),
            ("moments_form", "auto", values.get("sampler") == "moments", "applies to sampler = moments only"),
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

    @model_validator(mode="after")
    def _check_shared(self) -> _Shared:
        if self.d_obs < self.d_latent:
            raise ValueError(f"d_obs = {self.d_obs} is less than d_latent = {self.d_latent}: must be d_obs >= d_latent")
        rows = self.epochs // self.log_every
        if rows > MAX_ROWS:
            raise ValueError(
                f"epochs = {self.epochs} and log_every = {self.log_every} make {rows} rows: must be at most {MAX_ROWS}"
            )
        listed = self.latent_spectrum.count(",") + 1
        if ":" not in self.latent_spectrum and listed != self.d_latent:
            raise ValueError(
                f"latent_spectrum = {self.latent_spectrum!r} lists {listed} numbers: must be d_latent = {self.d_latent}"
            )
        mlp = "mlp" in (self.enc, self.pred)
        if self.sampler == "moments" and mlp:
            raise ValueError("sampler = 'moments' needs linear models: with an MLP use sampler = 'minibatch'")
        if self.moments_form == "reduced" and self.d_obs < 5 * self.d_latent:
            raise ValueError(
                f"moments_form = 'reduced' needs d_obs >= 5 d_latent: with d_obs = {self.d_obs} and "
                f"d_latent = {self.d_latent} use moments_form = 'direct'"
            )
        if self.sampler == "population" and mlp:
            raise ValueError("sampler = 'population' needs linear models: with an MLP use sampler = 'minibatch'")
        if self.init == "pinv" and mlp:
            raise ValueError("init = 'pinv' needs linear models: with an MLP use init = 'zero_pred' or 'random'")
        if not self.stop_grad and self.sampler == "moments":
            raise ValueError("stop_grad = False needs sampler = 'minibatch' or 'population', not 'moments'")
        return self


class RunConfig(_Shared):
    """The configuration of one run: all that determines its numbers, and the sweep that it belongs to.

    The EMA is one number, kept as its rate `tau` and given as `ema_m` = 1 - tau (or as `tau`, from Python).
    `lr_pred` is None where alpha follows the auto schedule (`auto_alpha_c` > 0), and `lr_enc` likewise.

    Raises
    ------
    pydantic.ValidationError
        If a value has the wrong type or is out of range; `first_error` gives its one-line form.
    """

    seed: Seed = hyper(42, "fixes the world, the initial weights and the data stream", point=True, key=5)
    batch_size: BatchSize = hyper(64, "minibatch size n", point=True, symbol="n", title="batch size", log=True, key=1)
    lr_pred: Rate | None = hyper(
        1e-3,
        "predictor learning rate alpha; unused while auto_alpha_c > 0",
        per_run=True,
        point=True,
        symbol="α",
        title="predictor learning rate",
        log=True,
        key=2,
        auto="auto",
    )
    lr_enc: Rate | None = hyper(
        1e-3,
        "encoder learning rate beta; unused while auto_beta_c > 0",
        per_run=True,
        point=True,
        symbol="β",
        title="encoder rate",
        log=True,
        key=3,
        auto="auto",
    )
    tau: Annotated[float, Field(ge=0, le=1)] = hyper(
        1e-3,
        "EMA momentum m of the target encoder, 0 <= m <= 1; tau = 1 - m",
        option="ema_m",
        also="tau",
        also_help="EMA rate tau = 1 - ema_m, in place of ema_m",
        per_run=True,
        point=True,
        symbol="τ",
        title="EMA rate",
        formula="τ = 1 − m",
        log=True,
        key=4,
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
        optional = ("lr_pred", "lr_enc", "auto_alpha_c", "auto_beta_c", "ema_m")
        values = {key: value for key, value in given.items() if not (key in optional and value is None)}
        if "ema_m" in values:
            if "tau" in values:
                raise ValueError("ema_m and tau are one number: give one of them")
            values["tau"] = tau_from_ema_m(values.pop("ema_m"))
        for rate, constant in (("lr_pred", "auto_alpha_c"), ("lr_enc", "auto_beta_c")):
            default = 0.0 if rate in values else cls.model_fields[constant].default
            values.setdefault(constant, default)
        return values

    @model_validator(mode="after")
    def _drop_unused_rates(self) -> RunConfig:
        """A rate that the schedule replaces has passed its own check; it is no part of the configuration."""
        for rate, constant in (("lr_pred", "auto_alpha_c"), ("lr_enc", "auto_beta_c")):
            if getattr(self, constant) > 0:
                self.__dict__[rate] = None
        return self

    @model_validator(mode="after")
    def _choose_moments_form(self) -> RunConfig:
        """`auto` by shape alone: the reduced form, whose cost does not grow with d, wherever it exists."""
        if self.moments_form == "auto":
            self.__dict__["moments_form"] = "reduced" if self.d_obs >= 5 * self.d_latent else "direct"
        return self

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

    def to_json(self) -> str:
        """The resolved configuration as JSON text; `RunConfig(**json.loads(text))` gives it back."""
        return json.dumps(self.model_dump(), sort_keys=True)


class SweepConfig(_Shared):
    """A grid of runs: seeds x batch sizes x taus x predictor rates (x encoder rates), SPEC 8."""

    mom_pred: Momentum = _momentum("predictor", 0.9)
    mom_enc: Momentum = _momentum("encoder", 0.9)
    seeds: Annotated[tuple[Seed, ...], BeforeValidator(_one_or_more), Field(min_length=1)] = hyper(
        (42, 43), "seeds of the grid", axis_of="seed"
    )
    batch_sizes: Annotated[tuple[BatchSize, ...], BeforeValidator(_one_or_more), Field(min_length=1)] = hyper(
        (32, 64), "minibatch sizes of the grid", axis_of="batch_size"
    )
    lr_pred_logspace: Logspace = hyper(
        (1e-5, 1e-2, 4), "START STOP STEPS: predictor rates alpha, evenly spaced in log", axis_of="lr_pred"
    )
    tau_logspace: TauLogspace = hyper((1e-4, 1e-1, 4), "START STOP STEPS: EMA rates tau = 1 - ema_m", axis_of="tau")
    lr_enc_mode: LrEncMode = hyper(
        "auto",
        "encoder rate beta: alpha itself, enc_over_pred alpha, a grid of its own, beta_from_tau_c tau, or "
        "the auto schedule (with one more column where alpha follows it too)",
    )
    enc_over_pred: Rate = hyper(0.4, "beta / alpha; for lr_enc_mode ratio", used_by="ratio")
    lr_enc_logspace: Logspace = hyper(
        (1e-5, 1e-2, 6),
        "START STOP STEPS: encoder rates beta; for lr_enc_mode logspace",
        axis_of="lr_enc",
        used_by="logspace",
    )
    beta_from_tau_c: Rate = hyper(0.4, "beta / tau; for lr_enc_mode from_tau", used_by="from_tau")

    @model_validator(mode="after")
    def _check_grid(self) -> SweepConfig:
        for name in ("seeds", "batch_sizes"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name} = {' '.join(map(str, values))} names a value twice")
        points = len(self.seeds) * len(self.batch_sizes) * self.tau_logspace[2] * self.lr_pred_logspace[2]
        points *= self.lr_enc_logspace[2] if self.lr_enc_mode == "logspace" else 1
        if points > MAX_POINTS:
            raise ValueError(f"the grid has {points} points: must be at most {MAX_POINTS}")
        largest = self.enc_over_pred * max(self.lr_pred_logspace[:2])
        if self.lr_enc_mode == "ratio" and largest > MAX_RATE:
            raise ValueError(
                f"enc_over_pred = {self.enc_over_pred} makes beta up to {largest}: must be <= {MAX_RATE:.0f}"
            )
        if self.lr_enc_mode == "auto" and self.auto_beta_c == 0:
            raise ValueError("auto_beta_c = 0 with lr_enc_mode = 'auto': must be > 0, the encoder follows the schedule")
        return self


def schedule_notes(given: Mapping[str, Any]) -> list[str]:
    """One line for each learning rate that was given but that the auto schedule, given too, replaces (SPEC 4)."""
    notes = []
    for rate, constant in (("lr_pred", "auto_alpha_c"), ("lr_enc", "auto_beta_c")):
        if given.get(rate) is not None and given.get(constant):
            notes.append(
                f"{rate} = {given[rate]:g} is not used: {constant} = {given[constant]:g} makes the rate follow the "
                f"auto schedule ({constant} = 0 turns it off)"
            )
    return notes


def sweep_notes(given: Mapping[str, Any], config: SweepConfig) -> list[str]:
    """One line for each option, or end of a range, that was given but is not used."""
    used_by = {
        "enc_over_pred": "ratio",
        "lr_enc_logspace": "logspace",
        "beta_from_tau_c": "from_tau",
        "auto_alpha_c": "auto",
        "auto_beta_c": "auto",
    }
    notes = [
        f"{name} is not used: it belongs to lr_enc_mode = {mode!r}, not {config.lr_enc_mode!r}"
        for name, mode in used_by.items()
        if given.get(name) is not None and config.lr_enc_mode != mode
    ]
    for name in ("tau_logspace", "lr_pred_logspace", "lr_enc_logspace"):
        start, stop, steps = getattr(config, name)
        if given.get(name) is not None and steps == 1 and start != stop:
            notes.append(f"{name} = {start:g} {stop:g} 1 is START alone: STOP = {stop:g} is not used with STEPS = 1")
    return notes
