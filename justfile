# Recipes run in the current environment: python -m pip install -e ".[dev]" -c constraints.txt

# list the recipes
default:
    @just --list

# style, and types of the package, the test helpers and the benchmarks
lint:
    ruff check .
    ruff format --check .

type:
    mypy

# under 45 s on two cores
fast:
    python -m pytest -m fast -n 2 -q

# what CI runs of the tests
test *args:
    python -m pytest {{args}}

# the tests that are too long for CI
slow:
    python -m pytest -m slow

# one program a question; each prints a table
bench *args:
    python benchmarks/speed.py {{args}}

# the site into site/; fails on a broken link
docs:
    NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet

# rooms, floors, arrows of the package
house:
    python scripts/house.py --rooms
