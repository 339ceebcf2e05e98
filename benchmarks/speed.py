"""The benchmark: everything that the project claims about its speed, measured in one run of this program.

    python -m pip install -e ".[bench]" -c constraints.txt
    python benchmarks/speed.py [--only steps memory process scaling] [--repeats 5]

docs/benchmarks.md says what each part measures and how to read it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import scaling
from timing import REPEATS

PARTS = ("steps", "memory", "process", "scaling")
FIGURE = Path(__file__).resolve().parents[1] / "docs" / "scaling.png"


def main() -> None:
    """Run the parts that were asked for and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--repeats", type=int, default=REPEATS, help="rounds, of which the best counts")
    parser.add_argument("--figure", type=Path, default=FIGURE, help="where the scaling plot goes")
    options = parser.parse_args()
    missing = [name for name in ("jax", "torch") if find_spec(name) is None]
    if missing:
        parser.error(f"{' and '.join(missing)} not installed: python -m pip install -e '.[bench]' -c constraints.txt")

    # Loaded here: they need what was just looked for.
    import memory
    import steps
    import whole
    from contestants import machine

    print(machine(), flush=True)
    actions: dict[str, Callable[[], str]] = {
        "steps": lambda: steps.report(options.repeats),
        "memory": memory.report,
        "process": lambda: whole.report(options.repeats),
        "scaling": lambda: scaling.report(options.figure),
    }
    for part in options.only:
        print(f"\n{actions[part]()}", flush=True)


if __name__ == "__main__":
    main()
