"""What the files of runs are called."""

from __future__ import annotations

from pathlib import Path

from byolsim.config.run import RunConfig
from byolsim.errors import UserError

SUFFIX = ".parquet"


def file_name(config: RunConfig) -> str:
    """Readable name that ends in the run's id."""

    def rate(value: float | None) -> str:
        return "auto" if value is None else f"{value:g}"

    kind = f"sweep_{config.lr_enc_mode}" if config.lr_enc_mode else "run"
    return (
        f"{kind}_seed{config.seed}_bs{config.batch_size}_tau{config.tau:g}_lrpred{rate(config.lr_pred)}"
        f"_lrenc{rate(config.lr_enc)}-{config.run_id}{SUFFIX}"
    )


def run_path(out_dir: str | Path, config: RunConfig, run_name: str | None = None) -> Path:
    """The file of a run in its folder.

    Raises
    ------
    UserError
        If `run_name` is not a plain file name: it must not leave the folder.
    """
    if run_name is None:
        return Path(out_dir) / file_name(config)
    if not _is_plain(run_name.removesuffix(SUFFIX)):
        raise UserError(
            f"run_name {run_name!r} is not allowed: must be a plain file name, with no folder, leading dot, dash or "
            "underscore, and none that Windows keeps for devices"
        )
    if len(run_name.encode()) > 200:
        raise UserError(f"run_name {run_name[:20]!r}... is not allowed: must be at most 200 bytes long")
    return Path(out_dir) / (run_name.removesuffix(SUFFIX) + SUFFIX)


def _is_plain(name: str) -> bool:
    """Whether a name is that of a visible file on every system; `con.txt` is a device on Windows."""
    if not name or not name.isprintable() or name != name.strip() or name.startswith((".", "-", "_")):
        return False
    return not set('/\\:*?"<>|') & set(name) and name.split(".")[0].strip().upper() not in _DEVICES


_DEVICES = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"}
_DEVICES |= {f"{port}{digit}" for port in ("COM", "LPT") for digit in "0123456789¹²³"}
