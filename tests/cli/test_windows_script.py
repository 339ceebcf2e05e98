"""Checks of scripts/run_conda_windows.bat, run by wine's cmd.exe with stand-ins for byolsim, python and conda.

What wine 8 cannot show:
- Percent signs in arguments: its cmd.exe expands what %* put in once more, and so drops them.
- A lone /? after the mode: its "set" takes that as text, where Windows prints the help of "set".
- The exit code of a .bat run with "call": its "call" makes 1 of every failure, so conda's is just "not 0" here.
- An .exe that writes down its arguments: wine brings none, so a copy of its cmd.exe plays byolsim.exe.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "run_conda_windows.bat"
COMMANDS = {"single": "run", "sweep": "sweep", "analyze": "figs", "all": "all"}
USAGE = "usage: run_conda_windows.bat {single,sweep,analyze,all} [arguments for byolsim]"
TIMEOUT_S = 120

needs_wine = pytest.mark.skipif(shutil.which("wine") is None, reason="no wine")


class Call(NamedTuple):
    """One call of a stand-in."""

    program: str
    cwd: str
    arguments: str


def windows_path(path: Path) -> str:
    """Name a file of this machine as wine sees it."""
    return "Z:" + str(path).replace("/", "\\")


def write_batch(path: Path, *lines: str) -> None:
    """Write a batch file with the line ends that cmd.exe expects."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}\r\n" for line in ("@echo off", *lines)).encode("ascii"))


@dataclass
class Prompt:
    """A command prompt in its own folder, with its own log of stand-in calls."""

    folder: Path
    wine_env: dict[str, str]
    path: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Lay out the folders; the awkward names are there to catch missing quotes."""
        self.repo = self.folder / "repo (a copy) & more!"
        self.cwd = self.folder / "work folder (1)"
        self.log = self.folder / "calls.log"
        self.cwd.mkdir()
        (self.repo / "scripts").mkdir(parents=True)
        shutil.copy(SCRIPT, self.repo / "scripts")

    def add(self, file_name: str, *, exit_code: int = 0, then: tuple[str, ...] = (), on_path: bool = True) -> Path:
        """Put a recording stand-in into a folder of its own, and that folder on the PATH."""
        name = Path(file_name).stem
        folder = self.folder / f"{name} (bin) & co"
        record = f'>>"{windows_path(self.log)}" echo {name}^|"%CD%"^|%*'
        write_batch(folder / file_name, record, *then, f"exit /b {exit_code}")
        if on_path:
            self.path.append(folder)
        return folder

    def run(self, arguments: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        """Call the script as typed at a prompt; a batch file keeps the quoting out of Python's and wine's hands."""
        typed = self.folder / "typed.bat"
        # No "call": it would double the carets in the arguments before the script sees them.
        write_batch(typed, f'"{windows_path(self.repo / "scripts" / SCRIPT.name)}" {arguments}')
        return subprocess.run(
            ["wine", "cmd", "/c", windows_path(typed)],
            cwd=self.cwd,
            env={**self.wine_env, "WINEPATH": ";".join(map(windows_path, self.path)), **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    def calls(self) -> list[Call]:
        """Read what the stand-ins were called with, in order."""
        if not self.log.exists():
            return []
        lines = self.log.read_text(encoding="ascii").splitlines()
        split = (line.split("|", 2) for line in lines)
        return [Call(program, cwd.strip('"'), arguments) for program, cwd, arguments in split]


@pytest.fixture(scope="session")
def wine_env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A fresh wine prefix, and an environment with nothing else in it: wine hands all of it to the script."""
    home = tmp_path_factory.mktemp("wine")
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "WINEPREFIX": str(home / "prefix"),
        "WINEDEBUG": "-all",
        "WINEDLLOVERRIDES": "mscoree,mshtml=;winemenubuilder.exe=",
    }

    # No pipes here: wine's services, started on the way, would hold on to them, and reading them would wait.
    null = subprocess.DEVNULL

    def wineboot(option: str) -> None:
        subprocess.run(["wine", "wineboot", option], env=env, stdout=null, stderr=null, timeout=TIMEOUT_S, check=True)

    wineboot("--init")
    # An idle prompt keeps the services up, which would otherwise be started anew for each test, at 2 s a time.
    with subprocess.Popen(["wine", "cmd"], env=env, stdin=subprocess.PIPE, stdout=null, stderr=null) as idle:
        yield env
        wineboot("--kill")
        idle.communicate(timeout=TIMEOUT_S)


@pytest.fixture
def prompt(tmp_path: Path, wine_env: dict[str, str]) -> Prompt:
    """A prompt with no stand-in on its PATH yet."""
    return Prompt(tmp_path, wine_env)


def test_lines_end_in_crlf() -> None:
    """cmd.exe can miss labels in files with bare line feeds."""
    content = SCRIPT.read_bytes()
    assert content.endswith(b"\r\n")
    assert content.count(b"\n") == content.count(b"\r\n") == content.count(b"\r")


def test_script_is_ascii() -> None:
    """cmd.exe reads batch files in the console's code page, whichever that is."""
    assert SCRIPT.read_bytes().isascii()


def test_nothing_in_plain_text_is_acted_upon() -> None:
    """Windows expands percent signs even in comments, and a /? in one makes it print the help of "rem"."""
    lines = SCRIPT.read_text(encoding="ascii").splitlines()
    comments = [line for line in lines if line.startswith("rem")]
    messages = [line for line in lines if "echo " in line]
    assert comments
    assert messages
    assert not [line for line in comments if "%" in line]
    assert not [line for line in comments + messages if "/?" in line]


def test_mentions_only_real_commands() -> None:
    """The modes map to the commands there are, in the code and in both texts that describe them."""
    text = SCRIPT.read_text(encoding="ascii")
    mapped = re.findall(r'"%~1"=="(\w+)" set "_BYOL_COMMAND=(\w+)"', text)
    assert mapped == list(COMMANDS.items())
    described = re.findall(r"(\w+)\s*[=:] byolsim (\w+)(?=\s{2}|,|\n)", text)
    assert described == 2 * list(COMMANDS.items())
    assert text.count(USAGE) == 2


def test_each_command_drops_its_own_mode() -> None:
    """The block that a command jumps to takes off the word that picked it."""
    blocks = re.findall(r":rest_(\w+)\nset _BYOL_REST=%_BYOL_ARGS:\*(\w+)=%", SCRIPT.read_text(encoding="ascii"))
    assert {mode: command for command, mode in blocks} == COMMANDS


@needs_wine
@pytest.mark.parametrize(("mode", "command"), COMMANDS.items())
def test_mode_picks_the_command(prompt: Prompt, mode: str, command: str) -> None:
    """Each mode runs its command, in the caller's folder, and prints nothing of its own."""
    prompt.add("byolsim.bat")
    result = prompt.run(mode)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert prompt.calls() == [Call("byolsim", windows_path(prompt.cwd), command)]


@needs_wine
def test_mode_in_capitals(prompt: Prompt) -> None:
    """Windows users do not expect capitals to matter."""
    prompt.add("byolsim.bat")
    assert prompt.run("Analyze --dpi 300").returncode == 0
    assert [call.arguments for call in prompt.calls()] == ["figs --dpi 300"]


@needs_wine
@pytest.mark.parametrize(
    "arguments",
    [
        '--out "a folder (2)" --name "two words"',
        " ".join(f"--option{number} {number}" for number in range(1, 13)),
        "--seeds=1,2;3 --set key=value",
        '--name single "single" all',
        '"a & b" "c | d" "e < f > g" "h^i" "(j)"',
        '"very nice!" wow! !PATH!',
        '"" --empty ""',
        r'--out "C:\data\my runs\\" --last',
        "--help",
    ],
    ids=["spaces", "24", "separators", "mode-again", "special", "exclamation", "empty", "backslash", "help"],
)
def test_arguments_arrive_verbatim(prompt: Prompt, arguments: str) -> None:
    """All that follows the mode reaches byolsim as typed."""
    prompt.add("byolsim.bat")
    result = prompt.run(f"single {arguments}")
    assert (result.returncode, result.stderr) == (0, "")
    assert [call.arguments for call in prompt.calls()] == [f"run {arguments}"]


@needs_wine
@pytest.mark.parametrize("file_name", ["byolsim.bat", "byolsim.cmd"])
def test_exit_code_is_byolsims(prompt: Prompt, file_name: str) -> None:
    """A failing byolsim fails the script in the same way, and runs once."""
    prompt.add(file_name, exit_code=7)
    assert prompt.run("sweep --jobs 2").returncode == 7
    assert [call.arguments for call in prompt.calls()] == ["sweep --jobs 2"]


@needs_wine
@pytest.mark.parametrize("exit_code", [0, 5])
def test_exit_code_of_an_exe(prompt: Prompt, wine_env: dict[str, str], exit_code: int) -> None:
    """An .exe, which is what pip makes, returns to the script, unlike a .bat; it gets the arguments too."""
    folder = prompt.folder / "an exe (bin)"
    folder.mkdir()
    shutil.copy(Path(wine_env["WINEPREFIX"]) / "drive_c/windows/system32/cmd.exe", folder / "byolsim.exe")
    prompt.path.append(folder)
    # wine's cmd.exe skips the "run" and takes what comes after /c.
    result = prompt.run(f'single /c "echo a  b=c& cd& exit {exit_code}"')
    assert result.returncode == exit_code
    assert [line.strip() for line in result.stdout.splitlines()] == ["a  b=c", windows_path(prompt.cwd)]


@needs_wine
@pytest.mark.parametrize("arguments", ["", "figs", '"single" --x 1', '"a & b"', "singles"])
def test_no_such_mode(prompt: Prompt, arguments: str) -> None:
    """Without a mode, or with one that is unknown or in quotes, there is one line of usage and nothing is run."""
    prompt.add("byolsim.bat")
    prompt.add("python.bat")
    result = prompt.run(arguments, INSTALL_REQS="1")
    assert (result.returncode, result.stdout, result.stderr.splitlines()) == (2, "", [USAGE])
    assert prompt.calls() == []


@needs_wine
@pytest.mark.parametrize("option", ["-h", "--help", "/?"])
def test_help(prompt: Prompt, option: str) -> None:
    """Help goes to stdout, needs no byolsim, and is no failure."""
    result = prompt.run(option)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == USAGE
    assert "INSTALL_REQS=1" in result.stdout
    assert "CONDA_ENV=" in result.stdout


@needs_wine
@pytest.mark.parametrize("env", [{}, {"INSTALL_REQS": "0"}], ids=["unset", "zero"])
def test_missing_byolsim(prompt: Prompt, env: dict[str, str]) -> None:
    """One line says what to do, and nothing is installed unasked."""
    prompt.add("python.bat")
    result = prompt.run("single --seed 1", **env)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.endswith("byolsim not found; set INSTALL_REQS=1 to install it, or activate its environment")
    assert prompt.calls() == []


@needs_wine
@pytest.mark.parametrize("value", ["1", "1 ", "True", "YES"])
def test_install_comes_first(prompt: Prompt, value: str) -> None:
    """pip runs in the repository, byolsim after it in the caller's folder; python may be a .bat shim."""
    prompt.add("python.bat")
    prompt.add("byolsim.bat", exit_code=3)
    result = prompt.run('all --name "two words"', INSTALL_REQS=value)
    assert (result.returncode, result.stderr) == (3, "")
    assert prompt.calls() == [
        Call("python", windows_path(prompt.repo), "-m pip install ."),
        Call("byolsim", windows_path(prompt.cwd), 'all --name "two words"'),
    ]


@needs_wine
def test_install_brings_byolsim(prompt: Prompt) -> None:
    """byolsim is looked for only after the installation."""
    folder = prompt.add("byolsim.bat", on_path=False)
    target = prompt.folder / "scripts folder"
    target.mkdir()
    copy = f'copy "{windows_path(folder / "byolsim.bat")}" "{windows_path(target)}" >nul'
    prompt.add("python.bat", then=(copy,))
    prompt.path.append(target)
    assert prompt.run("single", INSTALL_REQS="1").returncode == 0
    assert [call.program for call in prompt.calls()] == ["python", "byolsim"]


@needs_wine
def test_install_fails(prompt: Prompt) -> None:
    """A failing pip stops the script with pip's exit code."""
    prompt.add("python.bat", exit_code=4)
    prompt.add("byolsim.bat")
    result = prompt.run("single", INSTALL_REQS="1")
    assert (result.returncode, result.stdout) == (4, "")
    (line,) = result.stderr.splitlines()
    assert line.endswith('"python -m pip install ." failed with exit code 4')
    assert [call.program for call in prompt.calls()] == ["python"]


@needs_wine
def test_no_python_to_install_with(prompt: Prompt) -> None:
    """Without python nothing goes on; the exit code is cmd.exe's, and not the same in wine and in Windows."""
    prompt.add("byolsim.bat")
    result = prompt.run("single", INSTALL_REQS="1")
    assert result.returncode != 0
    assert '"python -m pip install ." failed' in result.stderr
    assert prompt.calls() == []


@needs_wine
def test_installed_but_not_on_path(prompt: Prompt) -> None:
    """The advice to install would be no help after an installation."""
    prompt.add("python.bat")
    result = prompt.run("single", INSTALL_REQS="1")
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.endswith("byolsim is installed but not on the PATH; activate the environment of this python")


@needs_wine
@pytest.mark.parametrize("name", ["my env", "byol "], ids=["space", "trailing-space"])
def test_conda_environment_is_activated(prompt: Prompt, name: str) -> None:
    """What the activation puts on the PATH is there for the rest of the script."""
    folder = prompt.add("byolsim.bat", on_path=False)
    prompt.add("conda.bat", then=(f'set "PATH={windows_path(folder)};%PATH%"',))
    result = prompt.run("sweep", CONDA_ENV=name)
    assert (result.returncode, result.stderr) == (0, "")
    assert [(call.program, call.arguments) for call in prompt.calls()] == [
        ("conda", f'activate "{name.strip()}"'),
        ("byolsim", "sweep"),
    ]


@needs_wine
def test_conda_environment_is_not_there(prompt: Prompt) -> None:
    """Neither pip nor byolsim may run in another environment than the one asked for."""
    for name in ("python.bat", "byolsim.bat"):
        prompt.add(name)
    prompt.add("conda.bat", exit_code=1)
    result = prompt.run("single", CONDA_ENV="gone", INSTALL_REQS="1")
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert 'could not activate the conda environment "gone"' in line
    assert [call.program for call in prompt.calls()] == ["conda"]
