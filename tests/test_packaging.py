"""The wheel, installed in a clean environment: every command works in an empty folder."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).parents[1]
TINY = ["data.scenes.train=8", "data.scenes.val=4", "schedule.epochs=1", "batch_size=4", "samples=1"]


@pytest.fixture(scope="module")
def detection(tmp_path_factory):
    """A function that runs the installed `detection` in one empty folder; it has the folder as `folder`."""
    source = tmp_path_factory.mktemp("source")
    for name in ("detection", "configs"):
        shutil.copytree(CHECKOUT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, source)
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    # What it depends on is seen through a .pth file; .pth files there, such as an editable install's, are not followed.
    (packages,) = environment.glob("lib/python*/site-packages")
    folders = dict.fromkeys(sysconfig.get_path(key) for key in ("purelib", "platlib"))
    (packages / "dependencies.pth").write_text("\n".join(folders))
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", source],
        check=True,
        timeout=300,
    )
    folder = tmp_path_factory.mktemp("empty")
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*arguments, program="detection"):
        command = [environment / "bin" / program, *arguments]
        done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    run.folder = folder
    return run


@pytest.fixture(scope="module")
def trained(detection):
    """The name of a trained run; it drew its images itself."""
    printed = detection("train", "quickstart", "--output", "r", *TINY)
    assert "datasets/beacon" in printed
    return "r"


def test_the_installed_package_is_complete(detection):
    code = "import detection; print(detection.__file__, detection.__version__)"
    file, version = detection("-c", code, program="python").split()
    package = Path(file).parent
    assert package.parent.name == "site-packages" and not package.is_relative_to(CHECKOUT)
    assert (package / "py.typed").exists() and version == detection("--version").strip()
    for folder, target in (("detection", package.parent), ("configs", package)):
        for path in (CHECKOUT / folder).rglob("*.py"):
            assert (target / path.relative_to(CHECKOUT)).is_file()
    assert "Requires-Dist: torch>=2.11" in next(package.parent.glob("context_detection-*/METADATA")).read_text()


def test_help_and_configs(detection):
    commands = detection("--help")
    assert all(f"  {name} " in commands for name in ("ablate", "doctor", "evaluate", "predict", "train"))
    listed = detection("configs")
    assert "finetune" in listed and "ablations/smoke" in listed and "__init__" not in listed
    detection("configs", "copy", "finetune", "mine")
    assert (detection.folder / "mine" / "finetune.py").read_bytes() == (CHECKOUT / "configs/finetune.py").read_bytes()


def test_a_run_is_evaluated_and_predicts(detection, trained):
    detection("evaluate", trained)
    detection("predict", trained, "datasets/beacon/val")
    images = json.loads((detection.folder / "predictions" / "images.json").read_text())["images"]
    assert len(images) == 4


def test_the_doctor_finds_the_drawn_images_sound(detection, trained):
    detection("doctor", "datasets/beacon/val.json", "datasets/beacon/val", "--masks")


def test_a_shipped_ablation_runs(detection):
    assert detection("ablate", "smoke", "--dry-run").count("seed=") == 4
    printed = detection("ablate", "smoke", "--seeds", "0", "--cost-rounds", "0")
    assert "missing" not in printed
    assert (detection.folder / "runs/ablations/smoke/report.html").exists()
