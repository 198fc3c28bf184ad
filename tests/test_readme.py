"""The examples of README and docs: their commands, options and config keys exist, and README's Python runs."""

import importlib
import re
import runpy
import shlex
import shutil
from pathlib import Path

import pytest

from detection.cli.main import commands
from detection.config import load_config
from detection.config.files import find_config

ROOT = Path(__file__).parents[1]
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "datasets/README.md", *sorted(ROOT.glob("docs/**/*.md"))]
README = TEXTS[0].read_text()
HEADINGS = (
    "Installation · Quick start · Architecture · Context modules · Training on your own data · Ablations · Results · "
    "Command line · Python API · Contributing"
)
USAGE = set("[]|…")  # in a line that shows the form of a command


def examples():
    """Each command in an indented block or in backquotes, without variables before it and comments after it."""
    found = []
    for path in TEXTS:
        text = path.read_text().replace("\\\n", " ")
        lines = re.findall(r"^    (?:[A-Z_]+=\S+ )*(detection .+)$", text, re.MULTILINE)
        for line in dict.fromkeys(lines + re.findall(r"`(detection [^`]+)`", text)):
            words = " ".join(line.split("  #")[0].split())
            found.append(pytest.param(words, line in lines, id=f"{path.relative_to(ROOT)}: {words[:60]}"))
    return found


def help_text(name, arguments, capsys):
    with pytest.raises(SystemExit) as end:
        importlib.import_module(f"detection.cli.{name}").main([*arguments, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(("line", "complete"), examples())
def test_a_command_has_this_form(line, complete, capsys):
    words = shlex.split(line.replace("'", "")) if USAGE & set(line) else shlex.split(line)
    name, arguments = words[1].replace("-", "_"), words[2:]
    if name in ("COMMAND", "__help", "NAME", "…"):
        return
    assert name in commands()
    described = help_text(name, arguments[:2] if name == "convert" else [], capsys)
    for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", line):
        assert re.search(rf"{option}(?![\w-])", described), option
    if name in ("train", "evaluate", "predict", "ablate") and complete and not USAGE & set(line):
        module = importlib.import_module(f"detection.cli.{name}")
        if name == "train":
            module.parse_training(module.training_parser(name, ""), arguments)
        else:
            module.parse(arguments)
    plain = [word for word in arguments if not word.startswith("-")]
    if name in ("train", "ablate", "train_classifier", "reach", "browse") and plain and re.match("[a-z]", plain[0]):
        named = not re.search(r"[=/]|\.py$", plain[0])
        config = find_config(plain[0]) if named else find_config("quickstart")
        if name == "train":
            keys = [word for word in plain if re.fullmatch(r"(?!data=)[a-z0-9_.]+=[^A-Z$<…]+", word)]
            load_config(config, keys)


@pytest.mark.parametrize("door", [*ROOT.glob("tools/*.py"), *ROOT.glob("datasets/*.py")], ids=lambda path: path.stem)
def test_a_door_opens_its_command(door, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [str(door), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(door), run_name="__main__")
    command = re.search("`(detection .+)`", door.read_text())[1]
    assert end.value.code == 0 and capsys.readouterr().out.startswith(f"usage: {command} ")


def test_the_readme_has_its_headings_and_its_two_commands():
    assert re.findall("^## (.+)$", README, re.MULTILINE) == HEADINGS.split(" · ")
    start = README.splitlines()[:60]
    assert "    pip install -e . && python tools/train.py" in start
    assert "    pip install -e '.[test]' && pytest" in start


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_files_named_in_a_text_exist(path):
    text = path.read_text()
    named = re.findall(r"(?<![\w/.])(?:detection|tests|tools|configs|docs)/[\w/-]+\.(?:py|md|png|json)\b", text)
    missing = {name for name in named if not (re.search("TASK|NAME", name) or (ROOT / name).exists())}
    links = re.findall(r"\]\(([^)#:]+)", text)
    missing |= {link for link in links if not (path.parent / link).exists()}
    assert not missing


def test_the_python_of_the_readme_runs(finished_run, shapes, tmp_path, monkeypatch):
    for name in ("quickstart", "plain"):
        shutil.copytree(finished_run, tmp_path / "runs" / name)
    shutil.copy(next(shapes.glob("val/*.png")), tmp_path / "image.jpg")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall("```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    names = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert (tmp_path / "drawn.png").exists()
    assert names["detector"].context is not None
