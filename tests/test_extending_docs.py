"""docs/extending.md as it stands: a context in a package of one's own is checked, trained, refused and opened."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


def run(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def detection(folder, *arguments):
    return run(folder, "-m", "detection.cli.main", *arguments)


def test_a_context_is_at_most_forty_lines():
    (_, context), *_ = python_blocks(PAGE)
    assert len(context.splitlines()) <= 40


def test_the_contract_is_checked(folder):
    done = run(folder, "checks.py")
    assert done.returncode == 0, done.stderr


def test_it_trains_is_refused_and_opens_with_trust(folder, monkeypatch):
    done = detection(
        folder, "train", "squeeze.py", "--output", "runs/squeeze", "detector.context.hidden_channels=8", *SMALL
    )
    assert done.returncode == 0, done.stderr
    refused = detection(folder, "evaluate", "runs/squeeze", "--device=cpu")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "--trust mylab" in refused.stderr
    opened = detection(folder, "evaluate", "runs/squeeze", "--device=cpu", "--trust", "mylab")
    assert opened.returncode == 0, opened.stderr
    monkeypatch.chdir(folder)
    detector, *_ = open_run("runs/squeeze", trust=["mylab"])
    assert detector.context.squeeze.out_features == 8
    for name in [n for n in sys.modules if n.partition(".")[0] == "mylab"]:
        monkeypatch.delitem(sys.modules, name)


def test_by_name_on_the_command_line(folder):
    change = "detector.context=mylab.contexts.SqueezeExcitation"
    refused = detection(folder, "train", "quickstart", "--output=runs/named", change, *SMALL)
    assert refused.returncode == 2 and "--trust mylab" in refused.stderr and not (folder / "runs" / "named").exists()
    done = detection(folder, "train", "quickstart", "--output=runs/named", "--trust", "mylab", change, *SMALL)
    assert done.returncode == 0, done.stderr


ABLATION = """
from functools import partial

from detection.ablation import Ablation
from mylab.contexts import SqueezeExcitation

ablation = Ablation(
    base="squeeze.py",
    variants={"none": ["detector.context=none", "detector.segmentation=none", POOL], "own": {"detector.context": OWN}},
    seeds=(0,),
)
"""


@pytest.mark.parametrize("extra", [["--dry-run"], pytest.param(["--workers=2"], marks=pytest.mark.slow)])
def test_an_ablation_gives_the_flag_to_its_runs(folder, extra):
    pool = "'detector.pool=detection.pooling.RoIAlign', 'detector.pool.stages=c3'"
    text = ABLATION.replace("POOL", pool).replace("OWN", "partial(SqueezeExcitation, hidden_channels=4)")
    (folder / "contexts.py").write_text(text)
    arguments = ["ablate", "contexts.py", "--output=out", "--cost-rounds=1", *extra, *SMALL[:-3], *SMALL[-2:]]
    refused = detection(folder, *arguments)
    assert refused.returncode == 2 and "--trust mylab" in refused.stderr, refused.stderr
    done = detection(folder, *arguments, "--trust", "mylab")
    assert done.returncode == 0, done.stdout + done.stderr
    if extra == ["--dry-run"]:
        assert done.stdout.count("--trust mylab") == 2
    else:
        assert (folder / "out" / "report.html").exists()
