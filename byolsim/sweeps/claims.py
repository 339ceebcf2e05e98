"""Which runs the sweeps that fill one folder have in hand, so that each run is computed about once.

A claim is `_claims/<run id>`: a hard link to the file of the sweep that made it, which says machine and process. To
link is to ask and to take in one step. Claims are advice, no locks: where they cannot be made, and where whoever made
them has ended or shows no sign of life any more, the run is computed all the same, and two that compute one run write
the same rows. A link shares its file's time stamp, so a sweep shows life for all its claims by touching one file.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from types import TracebackType

from byolsim.config.run import RunConfig
from byolsim.machine.temporary import STALE_S, clear_leftovers, temporary_path, writer_has_ended

FOLDER = "_claims"
"""The leading underscore hides it from readers of the whole runs folder."""

BEAT_S = 10.0
SILENT_S = 60.0
"""Seconds between two signs of life, and without one until a sweep that cannot be asked counts as ended."""


class Claims:
    """The claims of one sweep, given back at the end of the block; those of dead sweeps are removed on the way."""

    def __init__(self, out_dir: Path) -> None:
        self.folder = out_dir / FOLDER
        self.owner = temporary_path(self.folder)
        self.held: set[str] = set()
        self._seen: dict[str, tuple[int, float]] = {}
        self._ended = threading.Event()
        self._beats = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Claims:
        with contextlib.suppress(OSError):
            self.folder.mkdir(exist_ok=True)
            self._clear()
            self.owner.write_text(self.owner.name, encoding="ascii")
        self._beats.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ended.set()
        for run_id in list(self.held):
            self._release(run_id)
        with contextlib.suppress(OSError):
            self.owner.unlink(missing_ok=True)
            self._clear()
            self.folder.rmdir()  # only where it is empty

    def take(self, config: RunConfig) -> bool:
        """Claim a run: False while another live sweep has it in hand."""
        run_id = config.run_id
        if run_id in self.held:
            return True
        for _ in range(2):
            try:
                os.link(self.owner, self.folder / run_id)
            except FileExistsError:
                if self._is_live(self.folder / run_id):
                    return False
                with contextlib.suppress(OSError):
                    (self.folder / run_id).unlink()
            except OSError:  # no links on this file system, or the folder is gone
                return True
            else:
                self.held.add(run_id)
                return True
        return False

    def release(self, config: RunConfig) -> None:
        """Give a run back: it is stored, or others may try."""
        if config.run_id in self.held:
            self._release(config.run_id)

    def _release(self, run_id: str) -> None:
        self.held.discard(run_id)
        with contextlib.suppress(OSError):
            (self.folder / run_id).unlink()

    def _is_live(self, claim: Path) -> bool:
        """Whether the sweep that made a claim goes on, as far as can be told from here."""
        try:
            maker, beat = claim.read_text(encoding="ascii", errors="replace"), claim.stat().st_mtime_ns
        except OSError:
            return False
        if writer_has_ended(maker):
            return False
        # The clocks of two machines may differ: what counts is how long this one has seen no beat.
        last = self._seen.get(maker)
        if last is None or last[0] != beat:
            self._seen[maker] = (beat, time.monotonic())
            return True
        return time.monotonic() - last[1] < SILENT_S

    def _clear(self) -> None:
        """Remove what sweeps that have ended left."""
        clear_leftovers(self.folder)
        for claim in self.folder.iterdir():
            with contextlib.suppress(OSError):
                maker = claim.read_text(encoding="ascii", errors="replace")
                if writer_has_ended(maker) or time.time() - claim.stat().st_mtime > STALE_S:
                    claim.unlink()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            with contextlib.suppress(OSError):
                os.utime(self.owner)
