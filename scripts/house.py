"""The import graph of the package: rooms, floors, and arrows that point upward.

    python scripts/house.py [--root byolsim] [--rooms]

A room is a module or a package that lies directly in the root. An arrow is a room that imports another one, anywhere
in its code: at the top, inside a function, or for type checking. A room's floor is one above the highest of the rooms
that it imports when it is loaded. An arrow points upward if it leads to the same floor or a higher one (an import
inside a function, which loads nothing yet), or against `FLOORS`, the order that docs/architecture.md states. Exit code
1 if one does, or if rooms import each other in a circle.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FLOORS = (
    ("errors", "version"),
    ("machine",),
    ("config",),
    ("draws",),
    ("model",),
    ("record",),
    ("backends", "store"),
    ("simulate",),
    ("sweeps", "analysis"),
    ("cli", "__init__"),
    ("__main__",),
)
"""Rooms from the lowest floor to the highest: a room imports rooms of lower floors only."""

Arrows = dict[str, set[str]]


def main() -> None:
    """Print the figures, and name what is against the law of the house."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1] / "byolsim")
    parser.add_argument("--rooms", action="store_true", help="list each room with its floor and what it imports")
    options = parser.parse_args()
    loading, all_arrows = arrows(options.root)
    floor = floors(loading)
    wrong = upward(all_arrows, floor)
    circles = [circle for circle in components(all_arrows) if len(circle) > 1]
    if options.rooms:
        for room in sorted(floor, key=lambda name: (-floor[name], name)):
            print(f"floor {floor[room]:2d}  {room}: {', '.join(sorted(all_arrows[room])) or '-'}")
    count = sum(map(len, all_arrows.values()))
    modules = len([room for room in floor if (options.root / f"{room}.py").is_file()])
    print(
        f"{len(floor)} rooms ({modules} of them modules), {max(floor.values())} floors, {count} arrows, "
        f"{len(wrong)} upward, {len(circles)} circles"
    )
    for source, target in wrong:
        print(f"upward: {source} (floor {floor[source]}) imports {target} (floor {floor[target]})")
    for circle in circles:
        print(f"circle: {' '.join(sorted(circle))}")
    sys.exit(1 if wrong or circles else 0)


def arrows(root: Path) -> tuple[Arrows, Arrows]:
    """Room -> the other rooms that it imports: when it is loaded, and at any time."""
    rooms = [p.stem for p in root.glob("*.py")] + [p.parent.name for p in root.glob("*/__init__.py")]
    loading: Arrows = {room: set() for room in rooms}
    ever: Arrows = {room: set() for room in rooms}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        for name, at_load in imported(ast.parse(path.read_text(encoding="utf-8")), root.name):
            target = name if name in ever else "__init__"
            if target != parts[0]:
                ever[parts[0]].add(target)
                if at_load:
                    loading[parts[0]].add(target)
    for face in ("__init__", "__main__"):  # they load each name when it is first asked for
        loading[face] = set(ever[face])
    return loading, ever


def imported(tree: ast.Module, package: str) -> Iterator[tuple[str, bool]]:
    """Names directly in the package that a module imports, and whether loading it does so."""

    def visit(node: ast.AST, at_load: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or _is_type_checking(child)
            if isinstance(child, ast.ImportFrom) and child.module:
                head, _, rest = child.module.partition(".")
                if head == package:
                    names = [rest.split(".")[0]] if rest else [alias.name for alias in child.names]
                    yield from ((name, at_load) for name in names)
            elif isinstance(child, ast.Import):
                for alias in child.names:
                    head, _, rest = alias.name.partition(".")
                    if head == package and rest:
                        yield rest.split(".")[0], at_load
            yield from visit(child, at_load and not inside)

    return visit(tree, True)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def components(graph: Arrows) -> list[set[str]]:
    """Rooms that reach one another, as sets."""
    reach: Arrows = {}
    for room in graph:
        seen: set[str] = set()
        todo = [room]
        while todo:
            for target in graph[todo.pop()] - seen:
                seen.add(target)
                todo.append(target)
        reach[room] = seen
    found = []
    for room in graph:
        circle = {room} | {other for other in reach[room] if room in reach[other]}
        if circle not in found:
            found.append(circle)
    return found


def floors(loading: Arrows) -> dict[str, int]:
    """Floor of each room; rooms in a circle share theirs."""
    circle_of = {room: frozenset(circle) for circle in components(loading) for room in circle}
    known: dict[frozenset[str], int] = {}

    def floor(circle: frozenset[str]) -> int:
        if circle not in known:
            below = {circle_of[t] for room in circle for t in loading[room]} - {circle}
            known[circle] = 1 + max(map(floor, below), default=0)
        return known[circle]

    return {room: floor(circle) for room, circle in circle_of.items()}


def upward(all_arrows: Arrows, floor: dict[str, int]) -> list[tuple[str, str]]:
    """Arrows that do not lead down, by the measured floors or by the stated ones."""
    stated = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
    return sorted(
        (source, target)
        for source, targets in all_arrows.items()
        for target in targets
        if floor[target] >= floor[source] or stated.get(target, -1) >= stated.get(source, len(FLOORS))
    )


if __name__ == "__main__":
    main()
