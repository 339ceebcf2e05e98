"""World files that anyone may have made: what is whole is read, all else gets one line, before it takes memory."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from worlds import basis, random_moments, world_file

from byolsim.config.describe import first_error
from byolsim.config.grid import SweepConfig, expand
from byolsim.config.run import RunConfig
from byolsim.config.second_moments import MAX_BYTES, MAX_Q, SecondMoments
from byolsim.config.world_file import MAX_DIRECTORY, read_moments
from byolsim.errors import UserError
from byolsim.model.world import World

S_XX, S_PX, S_PP = random_moments(3, 1)
GOOD = {"S_xx": S_XX, "S_px": S_PX, "S_pp": S_PP}


def npz(**arrays):
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def npy(array, **header):
    """The bytes of an array, with a header that says something else."""
    content = io.BytesIO()
    np.lib.format.write_array(content, array, allow_pickle=True)
    data = content.getvalue()
    if not header:
        return data
    said = {"descr": "<f8", "fortran_order": False, "shape": array.shape} | header
    text = header.get("text", repr({name: said[name] for name in ("descr", "fortran_order", "shape")}) + "\n").encode()
    body = data[10 + struct.unpack("<H", data[8:10])[0] :]
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


def archive(members, compression=zipfile.ZIP_STORED):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as file:
        for name, data in members:
            file.writestr(name, data)
    return content.getvalue()


def with_S_xx(data, **options):
    """A file whose S_xx.npy has these bytes."""
    return archive([("S_xx.npy", data), ("S_px.npy", npy(S_PX)), ("S_pp.npy", npy(S_PP))], **options)


def lying_directory(size):
    """A file whose directory tells another unpacked size of its first member than it has."""
    data = bytearray(with_S_xx(npy(S_XX), compression=zipfile.ZIP_DEFLATED))
    start = data.index(b"PK\x01\x02")
    data[start + 24 : start + 28] = struct.pack("<I", size)
    return bytes(data)


def encrypted():
    data = bytearray(with_S_xx(npy(S_XX)))
    for sign, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(sign) + place] |= 1
    return bytes(data)


def overlong():
    """A member with more numbers than header and directory say: a bomb whose directory lies."""
    claimed = npy(S_XX)
    data = bytearray(with_S_xx(claimed + bytes(4096), compression=zipfile.ZIP_DEFLATED))
    start = data.index(b"PK\x01\x02")
    data[start + 24 : start + 28] = struct.pack("<I", len(claimed))
    return bytes(data)


NOT_WHOLE = "not a whole .npz file"
FILES = {
    "empty": (b"", NOT_WHOLE),
    "text": (b"S_xx = 1\n" * 40, NOT_WHOLE),
    "an .npy": (npy(S_XX), NOT_WHOLE),
    "truncated": (npz(**GOOD)[:-30], NOT_WHOLE),
    "cut in the middle": (npz(**GOOD)[:400], NOT_WHOLE),
    "damaged numbers": (npz(**GOOD).replace(S_XX.tobytes(), S_PP.tobytes()), NOT_WHOLE),
    "no member": (archive([]), "S_xx is missing"),
    "a member is missing": (npz(S_xx=S_XX, S_px=S_PX), "S_pp is missing"),
    "unknown": (npz(**GOOD, S_yy=S_XX), "'S_yy' is no array of a world: must be one of S_xx, S_px, S_pp, Q, sigma"),
    "twice": (archive([("S_xx", npy(S_XX)), ("S_xx.npy", npy(S_XX))]), "S_xx is there twice"),
    "objects": (npz(**(GOOD | {"S_xx": S_XX.astype(object)})), "S_xx holds objects, not real numbers"),
    "complex": (npz(**(GOOD | {"S_xx": 1j * S_XX})), "S_xx holds '<c16', not real numbers"),
    "text numbers": (npz(**(GOOD | {"S_xx": S_XX.astype(str)})), "S_xx holds '<U32', not real numbers"),
    "fields": (npz(**(GOOD | {"S_xx": np.zeros((3, 3), "f8,f8")})), "S_xx holds [('f0'"),
    "nan": (npz(**(GOOD | {"S_px": np.full((3, 3), np.nan)})), "S_px holds a number that is not finite"),
    "not symmetric": (npz(**(GOOD | {"S_xx": S_XX + np.triu(np.ones((3, 3)))})), "S_xx is not symmetric"),
    "not psd": (npz(**(GOOD | {"S_px": 100 * S_PX})), "is not positive semi-definite"),
    "sigma alone": (npz(**GOOD, sigma=0.5), "sigma = 0.5 has no meaning: there is nothing outside the moments, q = d"),
    "sigma nan": (npz(**GOOD, Q=basis(5, 3), sigma=np.nan), "sigma holds a number that is not finite"),
    "no array": (with_S_xx(b"hello"), "S_xx is no array of numbers"),
    "another version": (with_S_xx(b"\x93NUMPY\x03\x00" + npy(S_XX)[8:]), "S_xx is no array of numbers"),
    "header shorter": (with_S_xx(npy(S_XX, shape=(2, 2))), "S_xx is not as long as its header says"),
    "header longer": (with_S_xx(npy(S_XX, shape=(9, 9))), "S_xx is not as long as its header says"),
    "header huge": (with_S_xx(npy(S_XX, shape=(10**9, 10**9))), "S_xx has a header that is none"),
    "header negative": (with_S_xx(npy(S_XX, shape=(-3, -3))), "S_xx has a header that is none"),
    "header of truth": (with_S_xx(npy(S_XX, shape=(True, 9))), "S_xx has a header that is none"),
    "header is none": (with_S_xx(npy(S_XX, text="{'descr': open}")), "S_xx has a header that is none"),
    "header nested": (with_S_xx(npy(S_XX, text="(" * 3000)), "S_xx has a header that is none"),
    "header of signs": (with_S_xx(npy(S_XX, text="-" * 3000 + "1")), "S_xx has a header that is none"),
    "header long": (with_S_xx(npy(S_XX, text=" " * 9000)), "S_xx has a header of 9000 bytes: must be at most 4096"),
    "header cut": (with_S_xx(npy(S_XX)[:9]), "S_xx has a header that is none"),
    "directory says less": (lying_directory(64), NOT_WHOLE),
    "directory says more": (lying_directory(4 * 10**9), "S_xx is not as long as its header says"),
    "bomb": (overlong(), NOT_WHOLE),
    "lzma": (with_S_xx(npy(S_XX), compression=zipfile.ZIP_LZMA), NOT_WHOLE),
    "encrypted": (encrypted(), NOT_WHOLE),
    "many dimensions": (with_S_xx(npy(np.zeros((MAX_Q + 1, 1)), shape=(MAX_Q + 1, 1))), "S_xx has shape (2049, 1)"),
    "a directory of thousands": (archive([(f"{k:060}", b"") for k in range(3000)]), NOT_WHOLE),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_no_world_gets_one_line_and_no_memory(case, tmp_path):
    """Peak memory of a refusal: the file of these cases has at most 400 kB, whatever it says it holds."""
    content, line = FILES[case]
    path = tmp_path / "w.npz"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(ValueError, match=re.escape(line)) as error:
        read_moments(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "\n" not in str(error.value)
    assert peak < 8e6


def test_a_bomb_is_refused_by_what_its_header_says(tmp_path):
    """Thirty megabytes of zeros in thirty kilobytes; shapes and sizes agree with one another."""
    path = tmp_path / "w.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("S_xx.npy", "w") as member:
        member.write(npy(np.zeros((0, 1)), shape=(2100, 2100)))
        member.write(bytes(8 * 2100**2))
    with zipfile.ZipFile(path, "a") as file:
        for name in ("S_px.npy", "S_pp.npy"):
            file.writestr(name, npy(np.zeros((1, 1))))
    with pytest.raises(ValueError, match=f"S_xx has shape \\(2100, 2100\\): q must be at most {MAX_Q}"):
        read_moments(path)


def test_small_numbers_are_counted_in_double_precision(tmp_path):
    """Int8 of 40 MB would take 320: the shape is refused before they are read, as it is for a long Q."""
    q, d = 4, 2**23 + 1
    path = tmp_path / "w.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in ("S_xx.npy", "S_px.npy", "S_pp.npy"):
            file.writestr(name, npy(np.eye(q)))
        with file.open("Q.npy", "w") as member:
            member.write(npy(np.zeros((0, 1)), descr="|i1", shape=(d, q)))
            for _ in range(32):
                member.write(bytes(2**20))
            member.write(bytes(q))
    with pytest.raises(ValueError, match="the arrays take more than 256 MiB in double precision"):
        read_moments(path)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    with (tmp_path / "large").open("wb") as file:
        file.truncate(MAX_BYTES + MAX_DIRECTORY + 1)
    for path, line in (
        (tmp_path / "none.npz", "No such file or directory"),
        (tmp_path, "a folder"),
        (tmp_path / "pipe", "not a file"),
        ("/dev/zero", "not a file"),
        (tmp_path / "large", "larger than 256 MiB"),
        ("a\0b", "null"),
        ("x" * 5000, "File name too long"),
    ):
        with pytest.raises(ValueError, match=line):
            read_moments(path)


@pytest.mark.parametrize(
    "arrays",
    [
        {name: np.asfortranarray(S) for name, S in GOOD.items()},
        {name: S.astype(">f8") for name, S in GOOD.items()},
        {name: S.astype(np.longdouble) for name, S in GOOD.items()},
    ],
    ids=["fortran", "big-endian", "long-double"],
)
def test_the_same_numbers_in_another_form(arrays, tmp_path):
    (tmp_path / "a.npz").write_bytes(npz(**GOOD))
    (tmp_path / "b.npz").write_bytes(npz(**arrays))
    assert read_moments(tmp_path / "a.npz").digest == read_moments(tmp_path / "b.npz").digest


def test_order_compression_and_dtype_do_not_matter(tmp_path):
    """float32 and integers are read as the numbers that they are; a compressed file is one."""
    S = {"S_xx": np.diag([3, 2]), "S_px": np.array([[1, 0], [-1, 1]]), "S_pp": np.diag([4, 4])}
    digests = set()
    for k, dtype in enumerate(("float64", "float32", "int16", "uint8")):
        given = {name: M.astype(dtype) for name, M in (S if dtype != "uint8" else S | {"S_px": S["S_px"]}).items()}
        if dtype == "uint8":
            given["S_px"] = S["S_px"].astype("int8")
        (np.savez_compressed if k % 2 else np.savez)(tmp_path / f"{k}.npz", **dict(reversed(given.items())))
        moments = read_moments(tmp_path / f"{k}.npz")
        np.testing.assert_array_equal(moments.S_px, S["S_px"])
        digests.add(moments.digest)
    assert len(digests) == 1


WHOLE = npz(**GOOD, Q=basis(5, 3), sigma=0.5, sigma_plus=0.0)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=6), st.integers(0))
@example([(0, 0)], 0)
def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path_factory, changes, cut):
    """Any bytes changed, in one of three files also its end: nothing but a `ValueError` ever comes of it."""
    data = bytearray(WHOLE)
    for place, value in changes:
        data[place] = value
    path = tmp_path_factory.mktemp("damaged") / "w.npz"
    path.write_bytes(bytes(data if cut % 3 else data[: cut % len(data)]))
    try:
        outcome: object = read_moments(path)
    except ValueError as error:
        outcome = str(error)
    assert isinstance(outcome, SecondMoments) or ("\n" not in str(outcome) and len(str(outcome)) < 400)


# --- configurations of a world file ---


def test_the_content_is_in_the_id_and_the_path_is_not(tmp_path):
    first, again = (RunConfig(world=world_file(tmp_path, name)) for name in ("a.npz", "b.npz"))
    other = RunConfig(world=world_file(tmp_path, "c.npz", seed=2))
    assert first.world != again.world
    assert (first.world_id, first.run_id) == (again.world_id, again.run_id)
    assert other.world_id != first.world_id and other.run_id != first.run_id
    world_file(tmp_path, "a.npz", seed=2)
    assert RunConfig(world=first.world).run_id == other.run_id
    assert RunConfig().run_id not in {first.run_id, other.run_id}


def test_what_the_file_says_stands_in_the_configuration(tmp_path):
    config = RunConfig(world=world_file(tmp_path, d=9))
    assert (config.d_latent, config.structured, config.k, config.d_obs) == (3, 3, 3, 9)
    assert (config.sigma_n, config.sigma_n_target) == (0.5, 0.25)
    assert config.latent_spectrum is config.mixing is config.d_embed is config.correlation is None
    assert RunConfig(world=config.world, d_embed=3).run_id == config.run_id
    assert RunConfig(world=config.world, d_embed=2).run_id != config.run_id


def test_a_stored_configuration_needs_its_file_only_to_run(tmp_path):
    config = RunConfig(world=world_file(tmp_path, d=9), d_embed=2, sampler="moments")
    (tmp_path / "w.npz").unlink()
    again = RunConfig(**json.loads(config.to_json()))
    assert again == config
    assert again.run_id == config.run_id
    with pytest.raises(UserError, match=r"w\.npz' is not a world file: No such file or directory"):
        World.from_config(again)
    nowhere = RunConfig(**(json.loads(config.to_json()) | {"world": None}))
    assert nowhere.run_id == config.run_id
    with pytest.raises(UserError, match="names a world without its file: give world"):
        World.from_config(nowhere)


def test_a_file_that_changed_after_the_configuration_is_refused(tmp_path):
    config = RunConfig(world=world_file(tmp_path))
    world_file(tmp_path, seed=2)
    with pytest.raises(UserError, match=f"has changed: its digest is [0-9a-f]{{16}}, not {config.world_id}"):
        World.from_config(config)


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"d_latent": 3}, "d_latent = 3 has no meaning with world, a file that says it: give one of them"),
        ({"sigma_n": 0.5}, "sigma_n = 0.5 has no meaning with world, a file that says it: give one of them"),
        ({"correlation": "flat:0.5"}, "correlation = 'flat:0.5' has no meaning with world, a file that says it"),
        ({"d_embed": 4}, "d_embed = 4 is more than d_obs = 3: must be d_embed <= d_obs"),
        ({"init": "pinv"}, "init = 'pinv' needs a mixing matrix and d_embed = d_latent: use init = 'modes'"),
        ({"sampler": "moments", "moments_form": "reduced"}, "moments_form = 'reduced' needs d_obs >= 5 d_latent = 15"),
    ],
)
def test_options_that_a_world_file_does_not_go_with(more, line, tmp_path):
    with pytest.raises(ValidationError) as error:
        RunConfig(world=world_file(tmp_path), **more)
    assert line in first_error(error.value, (RunConfig,))


def test_a_grid_of_a_world_file(tmp_path):
    grid = SweepConfig(world=world_file(tmp_path, d=9), d_embed=2, seeds=(1, 2), batch_sizes=(8,))
    runs = expand(grid)
    assert len({run.run_id for run in runs}) == len(runs) == 40
    assert {(run.world_id, run.k, run.d_obs) for run in runs} == {(RunConfig(world=grid.world).world_id, 2, 9)}
