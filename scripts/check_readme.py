"""Type what README.md and docs/tutorial.md say: `python scripts/check_readme.py [FOLDER]`.

It executes the commands and the Python blocks of each page, in one folder (a temporary one by default), in the order in
which a reader meets them, each once. A command that takes long or needs more than one machine is made to say what it
would do instead (`--dry_run`), one with a placeholder is read as its options only, and what needs a package that is not
installed is left out and named. The blocks that end in
a table must agree. Where a block is followed by one of `text`, that is what it prints: words as they stand, numbers to
two parts in a hundred, `...` for anything. Exit code 1, and one line for each thing that is not as the page says.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/tutorial.md")
COMMANDS = ("run", "sweep", "figs", "world", "ls", "export", "all")

LONG = ("all --metric", "--epochs 200000", "--lr_enc_mode logspace")
"""Words of commands that take long, or do what another one does: they are given `--dry_run`."""

ELSEWHERE = ("digits.npz",)
"""Files that a program of `examples` makes of a package that may not be here: options of commands that read one are."""

SHOW = """
import ast, json, sys
tree = ast.parse(open(sys.argv[1], encoding="utf-8").read())
last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
names = {"__name__": "__main__"}
exec(compile(tree, sys.argv[1], "exec"), names)
value = eval(compile(ast.Expression(last.value), sys.argv[1], "eval"), names) if last else None
kind = type(value).__module__.split(".")[0]
rows = None
if kind == "pandas":
    rows = value.reset_index().itertuples(index=False, name=None)
elif kind == "polars":
    rows = value.rows()
elif kind in ("duckdb", "_duckdb"):
    rows = value.fetchall()
elif kind == "pyarrow":
    rows = (tuple(row.values()) for row in value.to_pylist())
if rows is not None:
    print(json.dumps([[None if v is None or v != v else v for v in row] for row in rows]))
"""
"""Executes a file and prints its last value, where that is a table, as rows in JSON."""


@dataclass(frozen=True)
class Command:
    """One command as README writes it, and the words that are executed."""

    text: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """What came of a command or a block: an empty `problem` if all is well."""

    what: str
    problem: str = ""
    left_out: str = ""
    seconds: float = 0.0
    printed: str = ""


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[Command]:
    """Every `byolsim ...` between backquotes or in a shell block, each once, in the order of the page."""
    shell = r"^```sh\n(?P<block>.*?)^```$"
    found = re.finditer(rf"{shell}|^```.*?^```$|`(?P<span>[^`\n]+)`", text, re.MULTILINE | re.DOTALL)
    lines = [line for match in found for line in (match["block"] or match["span"] or "").splitlines()]
    parts = [part.strip() for line in lines for part in line.split("&&")]
    return [Command(part, _words(part)) for part in dict.fromkeys(parts) if part.startswith("byolsim ")]


def _words(text: str) -> tuple[str, ...]:
    _, *words = shlex.split(text)
    if words[0] == "COMMAND":
        return ("--help",)
    if any(word.isupper() or word.startswith("tcp://") or word in ELSEWHERE for word in words):
        return (words[0], "--help")
    return (*words, "--dry_run") if any(part in text for part in LONG) else tuple(words)


def unknown_options(text: str) -> list[str]:
    """Options that README names and no command has, in commands of byolsim and on their own."""
    known = set()
    for name in COMMANDS:
        shown = _byolsim((name, "--help"), Path.cwd()).stdout
        known |= set(re.findall(r"--[\w-]+", shown)) | {"--version", "--help"}
    named: list[str] = []
    for span in re.findall(r"`([^`\n]+)`", text):
        if span.startswith(("byolsim ", "--")):
            named += re.findall(r"--[a-z_]+", span)
    return sorted({option for option in named if option not in known})


def _byolsim(words: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "byolsim", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def type_command(command: Command, folder: Path) -> Result:
    """Execute one command in a folder."""
    if "mlp" in command.words and find_spec("torch") is None:
        return Result(command.text, left_out="needs torch")
    start = time.perf_counter()
    done = _byolsim(command.words, folder)
    problem = "" if done.returncode == 0 else f"exit code {done.returncode}: {done.stderr.strip()[-500:]}"
    return Result(command.text, problem, seconds=time.perf_counter() - start, printed=done.stdout)


def type_block(code: str, folder: Path) -> tuple[Result, list[list[object]] | None]:
    """Execute a Python block in a folder; and the rows of the table that it ends in, sorted, if it does."""
    what = code.strip().splitlines()[0]
    needed = re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE)
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        return Result(what, left_out=f"needs {missing[0]}"), None
    path = folder / "block.py"
    path.write_text(code, encoding="utf-8")
    start = time.perf_counter()
    # the folder of a package that is not installed but stands where this was called must be found from there too
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)]))}
    runner = [sys.executable, "-c", SHOW, str(path)]
    if "__main__" in code:  # a script that starts processes is imported by them: it must be the program itself
        runner = [sys.executable, str(path)]
    done = subprocess.run(runner, cwd=folder, env=env, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        return Result(what, f"exit code {done.returncode}: {done.stderr.strip()[-500:]}", seconds=seconds), None
    rows = json.loads(done.stdout) if done.stdout.startswith("[[") else None
    return Result(what, seconds=seconds, printed=done.stdout), rows and sorted(
        rows, key=lambda row: json.dumps(row[:-1])
    )


def agree(tables: Sequence[list[list[object]]]) -> bool:
    """Whether tables have the same keys and, but for the order of a sum, the same last column."""
    first, *others = tables
    for other in others:
        if [row[:-1] for row in first] != [row[:-1] for row in other]:
            return False
        for a, b in zip(first, other, strict=True):
            if isinstance(a[-1], float) != isinstance(b[-1], float):
                return False
            if isinstance(a[-1], float) and isinstance(b[-1], float) and abs(a[-1] - b[-1]) > 1e-12 * abs(a[-1]):
                return False
    return True


def shown(text: str) -> dict[str, str]:
    """Block of commands or of Python -> the block of `text` that follows it."""
    pairs = re.findall(r"^```(?:sh|python)\n([^`]*?)^```\n```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return dict(pairs)


def prints(text: str, printed: str) -> bool:
    """Whether a program printed the lines of a text, in their order, up to blanks, rounding and `...`."""
    lines = iter(printed.splitlines())
    return all(any(_alike(wanted.split(), line.split()) for line in lines) for wanted in text.splitlines())


def _alike(wanted: Sequence[str], words: Sequence[str]) -> bool:
    if not wanted:
        return not words
    if wanted[0] == "...":
        return any(_alike(wanted[1:], words[skip:]) for skip in range(len(words) + 1))
    return bool(words) and _close(wanted[0], words[0]) and _alike(wanted[1:], words[1:])


def _close(wanted: str, word: str) -> bool:
    try:
        number, other = (float(text.strip("(),;:")) for text in (wanted, word))
    except ValueError:
        return wanted == word
    return abs(number - other) <= 0.02 * abs(number) + 0.005


def check(text: str, folder: Path) -> list[Result]:
    """Type all of it, in order; what is printed and the tables are compared last."""
    results = [Result(option, "no command has this option") for option in unknown_options(text)]
    printed: dict[str, str] = {}
    for command in commands(text):
        results.append(type_command(command, folder))
        printed[command.text] = results[-1].printed
    tables = []
    for code in blocks(text, "python"):
        result, rows = type_block(code, folder)
        results.append(result)
        printed[code] = result.printed
        if rows is not None:
            tables.append(rows)
    for block, wanted in shown(text).items():
        told = printed.get(block) or "".join(printed[command.text] for command in commands(f"```sh\n{block}```\n"))
        if not prints(wanted, told):
            results.append(Result(block.strip().splitlines()[0], f"prints {told[:1000]!r}"))
    if tables and not agree(tables):
        results.append(Result("tables", "the blocks do not give the same numbers"))
    return results


def main(args: Sequence[str]) -> int:
    """The program."""
    results = []
    for page in PAGES:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(args[0], Path(page).stem) if args else Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            results += check((ROOT / page).read_text(encoding="utf-8"), folder)
    for result in results:
        say = result.problem or (f"left out, {result.left_out}" if result.left_out else f"{result.seconds:.1f} s")
        print(f"{'FAILED' if result.problem else 'ok':6}  {result.what}: {say}")
    return int(any(result.problem for result in results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
