"""Write docs/options.md from the configuration's fields: `python scripts/write_options.py`."""

from __future__ import annotations

from pathlib import Path

from byolsim.backends.base import ABILITIES, OPTIONS
from byolsim.cli.options import COMMANDS, default_text, options_of
from byolsim.config.describe import allowed
from byolsim.model.metrics import METRICS
from byolsim.model.modes import SPECTRA

INTRODUCTION = """# Options and columns

Written by `scripts/write_options.py` from the fields of `byolsim/config`; a test keeps it current.

Each option is also a key of a `--config FILE.toml`, which every command takes: one file serves them all, each reads
its own keys, and a key of none is an error. The hyperparameters are fields of `RunConfig` or `SweepConfig` in Python
(`ema_m` is kept as `tau`), and those of a run are columns of its Parquet file. `byolsim all` takes the options of
`sweep` but `shard`, and `metric`, `enc_metric` and `out` of `figs`; from a file also those of `run`, for its single
run.

A whole number may be written `1e3`, and `--log_wandb` alone means true. What is true or false by two forms, like
`--stop_grad` and `--no_stop_grad`, takes no value; in a file it is `stop_grad = false`. The torch backend, and with it
MLPs and CUDA devices, needs the extra `torch`. [Methods](methods.md) says which options make which published method.
"""
BACKENDS = """What each backend runs, in every combination with a meaning: `direct` and `reduced` are the two forms of
`sampler = moments`, and an MLP takes minibatches only. What a backend does not run is refused before anything is
written.
"""
ALIGNED = """`W_Fro_aligned` cannot see a rotation of P: P = -P* scores the floor, some -15. `W_Fro_raw` is the error of
the predictor.
"""
LISTS = """Lists, one number a mode or dimension, in the files of runs with `log_spectra`; f_j = B_o Sigma_x^(1/2) v_j
with the canonical directions v_j of [The model](model.md#spectra), of which the first min(q, 64) are logged.
"""


def text() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for command in COMMANDS:
        parts.append(f"\n## byolsim {command}\n")
        parts += [_row("option", "default", "allowed", "meaning"), "|---|---|---|---|"]
        for name, field in options_of(command):
            default = default_text(field)
            cells = (f"`{name}`", f"`{default}`" if default else "", allowed(field), str(field.description))
            parts.append(_row(*cells))
    parts += ["\n## Backends\n", BACKENDS, _row("hyperparameter", *ABILITIES), "|" + "---|" * (len(ABILITIES) + 1)]
    parts += [_row(f"`{option}`", *(_values(name, option) for name in ABILITIES)) for option in OPTIONS]
    parts += ["\n## Metric columns\n", ALIGNED, "| column | meaning |", "|---|---|"]
    parts += [_row(f"`{name}`", title) for name, title in METRICS.items()]
    parts += ["\n## Spectra\n", LISTS, "| column | meaning |", "|---|---|"]
    parts += [_row(f"`{name}`", title) for name, title in SPECTRA.items()]
    return "\n".join(parts) + "\n"


def _values(backend: str, option: str) -> str:
    return ", ".join(str(value).lower() for value in getattr(ABILITIES[backend], option))


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    Path(__file__).resolve().parents[1].joinpath("docs", "options.md").write_text(text(), encoding="utf-8")
