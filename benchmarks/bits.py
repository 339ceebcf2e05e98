"""Which bits this version computes: a digest of every data column of a catalogue of runs, one line a run.

    python benchmarks/bits.py > before.txt          # in the old checkout
    python benchmarks/bits.py --against before.txt  # in the new one: names each run that differs, exit code 1

A change that moves code and no number must leave every line as it is, with an empty kernel cache and with a full one.
One that adds columns names them, `--without tau_t gain_err`: the others must keep their bits.
Bits hold on one kind of processor and one set of library versions, so both runs belong on one machine.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import sys
from collections.abc import Collection, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from byolsim import RunConfig, simulate_runs

SMALL: dict[str, Any] = {"d_latent": 4, "d_obs": 23, "epochs": 60, "log_every": 7, "latent_spectrum": "geometric:0.5:4"}
SAMPLERS: dict[str, dict[str, Any]] = {
    "samples": {"batch_size": 9},
    "second-moments": {"batch_size": 40},
    "population": {"sampler": "population"},
    "direct": {"sampler": "moments", "moments_form": "direct", "batch_size": 6},
    "reduced": {"sampler": "moments", "moments_form": "reduced", "batch_size": 15},
}
MODES: dict[str, dict[str, Any]] = {
    "auto": {"mom_pred": 0.5, "mom_enc": 0.4, "init": "random"},
    "fixed": {"lr_pred": 0.02, "lr_enc": 0.01, "weight_decay": 0.01, "ema_m": 0.9, "mixing": "gaussian"},
    "periods": {"lr_pred": 0.02, "pred_update_every": 2, "enc_update_every": 3, "auto_every": 4, "power_iters": 3},
    "diverges": {"lr_pred": 50.0, "lr_enc": 0.1, "init": "pinv"},
}
MLPS: dict[str, dict[str, Any]] = {
    "mlp-both": {"enc": "mlp", "pred": "mlp", "hidden": 7, "activation": "tanh"},
    "mlp-encoder": {"enc": "mlp", "hidden": 6},
    "mlp-predictor": {"pred": "mlp", "hidden": 5, "activation": "gelu"},
}


def catalogue() -> Iterator[tuple[str, RunConfig]]:
    """Name and configuration of each run: all samplers, dtypes, modes and backends that are installed."""
    backends = ["numba"] + ["torch"] * (find_spec("torch") is not None)
    for backend, (sampler, what), (mode, how) in itertools.product(backends, SAMPLERS.items(), MODES.items()):
        for dtype in ("float64", "float32"):
            options = SMALL | what | how | {"backend": backend, "dtype": dtype, "device": "cpu"}
            yield f"{backend} {sampler} {mode} {dtype}", RunConfig(**options)
    yield "numba default shape", RunConfig(epochs=60)
    yield "numba default shape, sweep", RunConfig(epochs=60, lr_pred=1e-3, lr_enc_mode="auto", mom_pred=0.9)
    if "torch" in backends:
        for name, model in MLPS.items():
            yield f"torch {name}", RunConfig(**(SMALL | {"batch_size": 9, "device": "cpu"} | model))


def digest(config: RunConfig, without: Collection[str] = ()) -> str:
    """SHA-256 of the logged epochs, the columns by name, the end and the clip counts of one run."""
    (record,) = simulate_runs([config])
    content = hashlib.sha256(np.ascontiguousarray(record.epochs).tobytes())
    for name in sorted(record.columns.keys() - set(without)):
        content.update(name.encode() + np.ascontiguousarray(record.columns[name]).tobytes())
    content.update(repr((record.status, record.diverged_epoch, record.clips)).encode())
    return content.hexdigest()[:24]


def main() -> None:
    """Print the digests, or compare them with those of another checkout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="the output of an earlier run of this program")
    parser.add_argument("--without", nargs="+", default=(), metavar="COLUMN", help="columns that are left out")
    options = parser.parse_args()
    lines = []
    for name, config in catalogue():
        lines.append(f"{name}: {config.run_id} {digest(config, options.without)}")
        if options.against is None:
            print(lines[-1], flush=True)
    if options.against is None:
        return
    before = options.against.read_text(encoding="utf-8").splitlines()
    different = [line for line in lines if line not in before]
    missing = len([line for line in before if line.partition(":")[0] not in {new.partition(":")[0] for new in lines}])
    for line in different:
        print(f"differs: {line}")
    print(
        f"{len(lines) - len(different)} of {len(lines)} runs have the same id and bits; {missing} are not computed here"
    )
    sys.exit(1 if different or missing else 0)


if __name__ == "__main__":
    main()
