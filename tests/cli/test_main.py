"""The command `detection`: its list, its mistakes, and that no help waits for torch."""

import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from detection import __version__
from detection.cli import compare, configs, crowd, explain, predict, scenes
from detection.cli import main as detection_main
from detection.cli.convert import FORMATS
from detection.cli.main import commands, main

CHECKOUT = Path(__file__).parents[2]
DOORS = sorted(path for folder in ("tools", "datasets") for path in (CHECKOUT / folder).glob("*.py"))


def test_every_command_is_listed_with_its_first_line(capsys):
    assert main([]) == main(["--help"]) == 0
    once, again = capsys.readouterr().out.split("usage: ")[1:]
    assert once == again
    for file in Path(detection_main.__file__).parent.glob("*.py"):
        if file.stem not in ("__init__", "main"):
            assert f"  {file.stem} " in once and ast.get_docstring(ast.parse(file.read_text())).splitlines()[0] in once


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("evaluat", "did you mean evaluate?"), ("train-clasifier", "did you mean train_classifier?"), ("xyz", "--help")],
)
def test_an_unknown_command_gets_the_nearest(name, hint, capsys):
    assert main([name]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {name}: no such command") and hint in error and error.count("\n") == 1


def test_exit_codes_of_commands_come_through(capsys, tmp_path):
    assert main(["train", str(tmp_path / "nothing.py")]) == 2
    assert main(["train-classifier", "--resume"]) == 2
    assert capsys.readouterr().err.count("error: ") == 2
    assert main(["configs"]) == 0


def helps(calls):
    """Run calls with --help in one fresh interpreter, and return it with the CPU seconds that it took."""
    code = (
        "import io, runpy, sys\nfrom contextlib import redirect_stdout, suppress\nfrom detection.cli.main import main\n"
        f"for call in {calls!r}:\n"
        "    sys.argv = [call, '--help']\n"
        "    with redirect_stdout(io.StringIO()) as text, suppress(SystemExit):\n"
        "        main([*call.split(), '--help']) if call[-3:] != '.py' else runpy.run_path(call, run_name='__main__')\n"
        "    assert 'usage: detection ' in text.getvalue(), call\n"
        "    assert 'torch' not in sys.modules, call\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=CHECKOUT)
    return done, resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def test_help_is_quick_and_imports_no_torch():
    done, _ = helps([*commands(), *(f"convert --from {name}" for name in FORMATS), *map(str, DOORS)])
    assert done.returncode == 0, done.stderr
    done, seconds = helps(["train"])
    assert done.returncode == 0 and seconds < 0.5


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (predict, ["run", "a.png", "--score=0.5", "b.png"]),
        (explain, ["run", "--score", "0.5", "a.png"]),
        (compare, ["a", "--split", "val", "b"]),
        (crowd, ["--count-threshold", "0.5", "a", "b"]),
        (scenes, ["--train", "3", "out"]),
    ],
)
def test_options_may_stand_between_files(command, arguments):
    options = [argument for argument in arguments if argument.startswith("-")]
    parsed = vars(command.parse(arguments)).values()
    files = [str(item) for value in parsed for item in (value if isinstance(value, list) else [value])]
    assert options and arguments[-1] in files


def test_parsers_of_subcommands_keep_their_order(tmp_path):
    assert configs.main(["copy", "smoke", str(tmp_path)]) == 0 and any(tmp_path.iterdir())
