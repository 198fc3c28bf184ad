"""docs/extending.md as it stands: a context in a package of one's own is checked, trained, refused and opened."""

import runpy
import sys
from pathlib import Path

import pytest

from detection.cli.main import main
from detection.config import parts
from detection.runs.folder import open_run
from tests.markdown import python_blocks

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "extending.md"
SMALL = ["schedule.epochs=1", "data.workers=0", "batch_size=4", "samples=0", "--device=cpu"]
SMALL += ["data.scenes.train=8", "data.scenes.val=2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files of the page."""
    folder = tmp_path_factory.mktemp("mine")
    context, checks, config = (text for _, text in python_blocks(PAGE))
    (folder / "mylab").mkdir()
    (folder / "mylab" / "__init__.py").touch()
    (folder / "mylab" / "contexts.py").write_text(context)
    (folder / "checks.py").write_text(checks)
    (folder / "squeeze.py").write_text(config)
    return folder


def forget():
    """Leave nothing of the package imported or trusted, as in a new process."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "mylab"]:
        del sys.modules[name]
    parts._trusted.clear()


@pytest.fixture
def detection(folder, monkeypatch, capsys, blank_plots):
    """The command `detection` in that folder: its exit code and what it printed, to each stream."""
    monkeypatch.chdir(folder)

    def call(*arguments):
        forget()
        code = main(list(arguments))
        return code, *capsys.readouterr()

    yield call
    forget()


def refused(detection, *arguments):
    """Check that a command asks for trust in one sentence, and imports nothing of the package."""
    code, _, error = detection(*arguments)
    assert code == 2 and error.count("\n") == 1 and "--trust mylab" in error, error
    assert "mylab" not in sys.modules


def test_a_context_is_at_most_forty_lines():
    (_, context), *_ = python_blocks(PAGE)
    assert len(context.splitlines()) <= 40


def test_the_contract_is_checked(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    checked = runpy.run_path(str(folder / "checks.py"))
    assert checked["SqueezeExcitation"].__module__ == "mylab.contexts"
    forget()


def test_it_trains_is_refused_and_opens_with_trust(folder, detection):
    own = ("--output", "runs/squeeze", "detector.context.hidden_channels=8")
    code, _, error = detection("train", "squeeze.py", *own, *SMALL)
    assert code == 0, error
    refused(detection, "evaluate", "runs/squeeze", "--device=cpu")
    code, _, error = detection("evaluate", "runs/squeeze", "--device=cpu", "--trust", "mylab")
    assert code == 0, error
    forget()
    detector, *_ = open_run("runs/squeeze", trust=["mylab"])
    assert detector.context.squeeze.out_features == 8


def test_by_name_on_the_command_line(folder, detection):
    change = "detector.context=mylab.contexts.SqueezeExcitation"
    refused(detection, "train", "quickstart", "--output=runs/named", change, *SMALL)
    assert not (folder / "runs" / "named").exists()
    code, _, error = detection("train", "quickstart", "--output=runs/named", "--trust", "mylab", change, *SMALL)
    assert code == 0, error


ABLATION = """
from functools import partial

from detection.ablation import Ablation
from mylab.contexts import SqueezeExcitation

ablation = Ablation(
    base="squeeze.py",
    variants={
        "none": ["detector.context=none", "detector.segmentation=none", "detector.head.global_pool=none"],
        "own": {"detector.context": OWN},
    },
    seeds=(0,),
)
"""


@pytest.mark.parametrize("extra", [["--dry-run"], pytest.param(["--workers=2"], marks=pytest.mark.slow)])
def test_an_ablation_gives_the_flag_to_its_runs(folder, detection, monkeypatch, extra):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of its runs, which are processes
    text = ABLATION.replace("OWN", "partial(SqueezeExcitation, hidden_channels=4)")
    (folder / "contexts.py").write_text(text)
    arguments = ["ablate", "contexts.py", "--output=out", "--cost-rounds=1", *extra, *SMALL[:-3], *SMALL[-2:]]
    code, _, error = detection(*arguments)
    assert code == 2 and "--trust mylab" in error, error
    code, out, error = detection(*arguments, "--trust", "mylab")
    assert code == 0, out + error
    if extra == ["--dry-run"]:
        assert out.count("--trust mylab") == 2
    else:
        assert (folder / "out" / "report.html").exists()
