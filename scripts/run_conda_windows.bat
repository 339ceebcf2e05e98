@echo off
rem Runs byolsim from a Windows conda prompt: the first word picks the command, the rest of the line goes to it.
rem
rem   single  = byolsim run       sweep = byolsim sweep
rem   analyze = byolsim figs      all   = byolsim all
rem
rem INSTALL_REQS=1 (or true, yes)  first runs "python -m pip install ." in the repository root
rem CONDA_ENV=name                 first activates that conda environment
rem
rem An argument with an ampersand, a caret, a bar or an angle bracket in it has to be in double quotes.
rem cmd.exe finds labels reliably only in files with CRLF line ends, so .gitattributes needs the line
rem   *.bat text eol=crlf

rem Delayed expansion stays off throughout, so that exclamation marks in arguments and paths survive.
setlocal EnableExtensions DisableDelayedExpansion
set "_BYOL_COMMAND="
set "_BYOL_ARGS="
set "_BYOL_REST="
set "_BYOL_INSTALL="
set "_BYOL_EXE="

if "%~1"=="-h" goto help
if "%~1"=="--help" goto help
if "%~1"=="/?" goto help
if /i "%~1"=="single" set "_BYOL_COMMAND=run"
if /i "%~1"=="sweep" set "_BYOL_COMMAND=sweep"
if /i "%~1"=="analyze" set "_BYOL_COMMAND=figs"
if /i "%~1"=="all" set "_BYOL_COMMAND=all"
if not defined _BYOL_COMMAND goto usage
rem A mode in quotes would leave its closing quote at the start of the rest.
if not %1==%~1 goto usage

rem The arguments are kept as one string: taken one by one, they would be split at "=", "," and ";".
rem The assignment has no quotes, because the arguments bring their own. The Windows switch for help among
rem them makes "set" print its help and set nothing, which is answered with this script's help.
>nul set _BYOL_ARGS=%*
if not defined _BYOL_ARGS goto help

rem Drop all up to the mode. The word to drop has to be spelled out, hence one block for each.
goto rest_%_BYOL_COMMAND%
:rest_run
set _BYOL_REST=%_BYOL_ARGS:*single=%
goto activate
:rest_sweep
set _BYOL_REST=%_BYOL_ARGS:*sweep=%
goto activate
:rest_figs
set _BYOL_REST=%_BYOL_ARGS:*analyze=%
goto activate
:rest_all
set _BYOL_REST=%_BYOL_ARGS:*all=%

:activate
if not defined CONDA_ENV goto install
rem "set CONDA_ENV=name && ..." leaves a blank at the end of the name.
if "%CONDA_ENV:~-1%"==" " set "CONDA_ENV=%CONDA_ENV:~0,-1%"
call conda activate "%CONDA_ENV%"
if not "%errorlevel%"=="0" goto no_env

:install
if not defined INSTALL_REQS goto find
set "_BYOL_INSTALL=%INSTALL_REQS: =%"
if /i "%_BYOL_INSTALL%"=="true" set "_BYOL_INSTALL=1"
if /i "%_BYOL_INSTALL%"=="yes" set "_BYOL_INSTALL=1"
if not "%_BYOL_INSTALL%"=="1" goto find
pushd "%~dp0.."
rem In a cmd of its own, because python can be a .bat shim, which would otherwise end this script.
cmd /d /c python -m pip install .
set "_BYOL_CODE=%errorlevel%"
rem Back to the caller's folder: runs_parquet and figs belong there.
popd
if not "%_BYOL_CODE%"=="0" goto no_install

:find
rem The last one found counts, and pip makes an .exe.
for %%X in (byolsim.bat byolsim.cmd byolsim.exe) do if not "%%~$PATH:X"=="" set "_BYOL_EXE=%%~$PATH:X"
if not defined _BYOL_EXE goto missing
rem No "call": it would double carets and expand percent signs once more. Without it a byolsim.bat ends this
rem script too, with its own exit code, so nothing but the exit code may follow.
"%_BYOL_EXE%" %_BYOL_COMMAND%%_BYOL_REST%
exit /b %errorlevel%

:missing
if "%_BYOL_INSTALL%"=="1" goto not_on_path
>&2 echo run_conda_windows.bat: byolsim not found; set INSTALL_REQS=1 to install it, or activate its environment
exit /b 2

:not_on_path
>&2 echo run_conda_windows.bat: byolsim is installed but not on the PATH; activate the environment of this python
exit /b 2

:no_install
>&2 echo run_conda_windows.bat: "python -m pip install ." failed with exit code %_BYOL_CODE%
exit /b %_BYOL_CODE%

:no_env
>&2 echo run_conda_windows.bat: could not activate the conda environment "%CONDA_ENV%" named in CONDA_ENV
exit /b 2

:usage
>&2 echo usage: run_conda_windows.bat {single,sweep,analyze,all} [arguments for byolsim]
exit /b 2

:help
echo usage: run_conda_windows.bat {single,sweep,analyze,all} [arguments for byolsim]
echo   single: byolsim run, sweep: byolsim sweep, analyze: byolsim figs, all: byolsim all
echo   INSTALL_REQS=1 runs "python -m pip install ." in the repository root first
echo   CONDA_ENV=name activates that conda environment first
exit /b 0
