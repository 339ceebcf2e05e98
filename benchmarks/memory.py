"""Peak memory of a fresh process that trains one group of 20 runs.

    python benchmarks/memory.py '{"sampler": "minibatch"}' 64 100

prints the process's peak after its imports and at its end, in MiB; `speed.py` makes a table of several.
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tables import figure, table

STEPS = 50
REDUCED = {"sampler": "moments", "moments_form": "reduced"}
CASES: tuple[tuple[str, dict[str, Any], int, int], ...] = (
    ("moments, reduced", REDUCED, 64, 100),
    ("moments, reduced", REDUCED, 10**6, 10**4),
    ("minibatch", {"sampler": "minibatch"}, 64, 100),
    ("minibatch", {"sampler": "minibatch"}, 1024, 1000),
)


def report() -> str:
    """Measure, and return the table as text."""
    from contestants import RUNS, is_offered

    offered = [case for case in CASES if is_offered(*case[1:])]
    rows = []
    first = None
    for name, options, n, d in offered:
        imports, peak = peaks(options, n, d)
        first = first or peak
        rows.append([f"{name}, n = {n:,}, d = {d:,}", *map(figure, (imports, peak, peak - imports, peak / first))])
    caption = f"Peak memory of a process, MiB: {RUNS} runs, {STEPS} steps, with metrics; the largest of 3"
    return f"{caption}\n\n" + table(["", "after imports", "at the end", "training", "ratio to the first"], rows)


def peaks(options: Mapping[str, Any], n: int, d: int) -> tuple[float, float]:
    """Peak after the imports and at the end, the largest of three processes; a first one fills the compiled cache."""
    command = [sys.executable, __file__, json.dumps(options), str(n), str(d)]
    seen = [subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() for _ in range(4)]
    return max(float(imports) for imports, _ in seen[1:]), max(float(peak) for _, peak in seen[1:])


def peak_mib() -> float:
    """Largest resident size of this process so far.

    On Linux `ru_maxrss` counts what the parent held when it started this process, so its own mark is read instead.
    """
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
        if found:
            return int(found[1]) / 2**10
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def main() -> None:
    """Train in this process, and print the two marks."""
    options, n, d = json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    from contestants import sweep_groups

    from byolsim.backends import get_backend
    from byolsim.simulate import simulate_runs

    group = sweep_groups(options, n, d, STEPS)[0]
    get_backend(group[0].backend)
    imports = peak_mib()
    simulate_runs(group)
    print(imports, peak_mib())


if __name__ == "__main__":
    main()
