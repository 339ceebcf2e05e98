"""What `byolsim run` says of a run: the scale of its features beside the loss, and that they have vanished."""

from __future__ import annotations

from pathlib import Path

import pytest
from cases import byolsim

SMALL = "--d_latent 2 --d_obs 6 --latent_spectrum 2,1 --sampler population --epochs 4000 --log_every 1000"


@pytest.mark.parametrize(("decay", "collapsed"), [("3", True), ("0", False)])
def test_the_summary_tells_a_dead_run_from_a_healthy_one(tmp_path: Path, decay: str, collapsed: bool) -> None:
    """Decay far above the threshold (docs/derivation.md, section 10) kills every mode; the loss alone looks perfect."""
    code, out, _ = byolsim(f"run {SMALL} --lr_pred 0.02 --lr_enc 0.02 --weight_decay {decay} --out_dir {tmp_path}")
    assert code == 0
    (last,) = (line for line in out.splitlines() if line.startswith("last row: "))
    names = [part.split()[0] for part in last.removeprefix("last row: ").split(", ")]
    assert names[:5] == ["loss_pop", "loss_rel", "Hmax_exact", "W_excess", "W_Fro_raw"] and "of the start)" in last
    found = [line for line in out.splitlines() if line.startswith("collapsed: the features have vanished (Hmax_exact ")]
    assert len(found) == collapsed
    assert ("loss_rel 1," in last) == collapsed
