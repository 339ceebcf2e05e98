"""The documentation says what the program does, and whatever is cited is there."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))]
SOURCES = sorted(
    str(path.relative_to(ROOT))
    for room in ("byolsim", "tests", "benchmarks", "scripts", "examples")
    for path in (ROOT / room).rglob("*.py")
)
TEXTS = [*PAGES, *SOURCES, "CHANGELOG.md", "justfile", "pyproject.toml", "mkdocs.yml", "tests/README.md"]


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("page", "script"),
    [("options.md", "write_options.py"), ("architecture.md", "write_modules.py")],
)
def test_written_pages_are_current(page, script):
    assert read(f"docs/{page}") == runpy.run_path(str(ROOT / "scripts" / script))["text"](), f"python scripts/{script}"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)\)", read(page)):
        assert (ROOT / page).parent.joinpath(target).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_left_to_fill_in(page):
    words = read(page).split()
    assert not [word for word in words if re.fullmatch(r"[A-Z]*TABLE|TODO|TBD", word.strip("*_.,:"))]


@pytest.mark.parametrize("page", PAGES)
def test_named_functions_exist(page):
    """`module.function` of the package, wherever a page names one."""
    for module, name in re.findall(r"`(\w+)\.(\w+)`", read(page)):
        for room in ("model", "draws") if name != "py" else ():
            path = ROOT / "byolsim" / room / f"{module}.py"
            if path.is_file():
                source = path.read_text(encoding="utf-8")
                assert re.search(rf"^(def|class) {name}\b|^{name} =", source, re.MULTILINE), f"{module}.{name}"


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page):
    """Paths of the repository between backquotes: `byolsim/model/step.py`, `model/step.py`, `tests/contract`."""
    for name in re.findall(r"`([\w./*-]+/[\w.*-]+)`", read(page)):
        rooms = [room.name for room in (ROOT / "byolsim").iterdir() if room.is_dir()]
        if name.split("/")[0] in ("byolsim", "tests", "benchmarks", "scripts", "docs", "examples", *rooms):
            found = [*ROOT.glob(name), *ROOT.glob(f"byolsim/{name}"), *ROOT.glob(f"byolsim/{name}.py")]
            assert found, f"{page} names {name}"


OUTSIDE = re.compile(r"\b(?:SPEC|PHYSICS|MOMENTS|FAMILY|HOUSE)\b(?!\[| =)")
"""Pages that the project was made from and that are not part of it."""

SECTION = re.compile(r"(?:docs/)?(\w+\.md)`?\)?,? sections? (\d+)(?:(?:,| and| to) (\d+))?")


def cited_sections(text):
    """(page, number) of each section that a text cites, across line breaks."""
    for page, first, last in SECTION.findall(re.sub(r"\s+(?:# )?", " ", text)):
        yield from ((page, int(number)) for number in (first, last) if number)


def test_citations_are_found_in_a_text():
    assert list(cited_sections("see docs/a.md, section 3; (`docs/b.md`), sections 4\n    and 5")) == [
        ("a.md", 3),
        ("b.md", 4),
        ("b.md", 5),
    ]
    assert OUTSIDE.search("symbols as in SPEC") and OUTSIDE.search("(PHYSICS 4)") and not OUTSIDE.search('HOUSE["x"]')


@pytest.mark.parametrize("path", [path for path in TEXTS if path != "tests/unit/test_docs.py"])
def test_what_is_cited_stands_in_the_repository(path):
    text = read(path)
    assert not OUTSIDE.findall(text)
    for page in re.findall(r"\bdocs/[\w/]+\.md", text):
        assert (ROOT / page).is_file(), page
    for page, number in cited_sections(text):
        assert re.search(rf"^## {number}\. ", read(f"docs/{page}"), re.MULTILINE), f"docs/{page}, section {number}"


def misread_formulas(source):
    """First lines of docstrings whose formula begins with the wrong letter: `B = B Q_A`, `X . y` of x and y."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            continue
        line = (ast.get_docstring(node) or "").split("\n")[0]
        formula = re.match(r"([A-Z]\w*) (=|<-|\.) (.*)", line)
        if formula is None:
            continue
        symbol, _, rest = formula.groups()
        given = {arg.arg for arg in node.args.args} if isinstance(node, ast.FunctionDef) else set()
        small = symbol[0].lower() + symbol[1:]
        of_itself = formula[2] == "=" and re.match(rf"{symbol}\b", rest)
        if of_itself or (small in given and symbol not in given):
            yield line


def test_a_misread_formula_is_noticed():
    source = (
        'def f(x, y):\n    """X . y of two."""\ndef g(B, b):\n    """B = B Q."""\ndef h(M, N):\n    """M <- M - N."""\n'
    )
    assert list(misread_formulas(source)) == ["X . y of two.", "B = B Q."]


@pytest.mark.parametrize("path", SOURCES)
def test_formulas_keep_their_letters(path):
    """A linter that begins every docstring with a capital would write them."""
    assert list(misread_formulas(read(path))) == []
