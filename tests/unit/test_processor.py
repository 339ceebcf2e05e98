"""A file says on what kind of processor its bits were computed."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
from cases import one_run, small

from byolsim.machine.processor import _processor, processor
from byolsim.store.files import save
from byolsim.store.names import run_path


def test_the_metadata_name_the_processor_and_the_family_of_each_blas(tmp_path, monkeypatch):
    record = one_run(small(epochs=3))
    path = save(record, run_path(tmp_path, record.config))
    found = json.loads(pq.read_metadata(path).metadata[b"byolsim"])["processor"]
    assert found == processor()
    assert found.pop("cpu")
    assert found, "the kernels use a BLAS library"
    assert all(name.split()[1:] and kind for name, kind in found.items())


def test_a_processor_that_numba_is_told_of_counts(monkeypatch):
    import numba

    monkeypatch.setattr(numba.config, "CPU_NAME", "generic")
    assert _processor.__wrapped__(True, False)["cpu"] == "generic"
