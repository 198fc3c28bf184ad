"""Ablations on a real Slurm, started for these tests on this machine (`one_node.sh`)."""

import contextlib
import csv
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from detection.ablation.launch.slurm import SlurmJob, SlurmLauncher, SlurmQueue
from detection.cli import ablate
from tests.cli.test_ablate import write
from tests.tiny_runs import write_config

SCRIPT = Path(__file__).with_name("one_node.sh")
PLACES = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
ABSENT = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name, path=PLACES)]
pytestmark = pytest.mark.skipif(bool(ABSENT), reason=f"needs Slurm: {', '.join(ABSENT)} not installed")
SLURM = ("--launcher=slurm", "--gpus=0", "--cpus=1", "--hours=0.2", "--memory=2")


def free_ports(count):
    """Different ones, as all are held until the last is found."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [str(each.getsockname()[1]) for each in sockets]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    pytest.importorskip("submitit")
    folder = tmp_path_factory.mktemp("slurm") / "one"
    ports = dict(zip(("CTLD_PORT", "SLURMD_PORT"), free_ports(2), strict=True))
    said = subprocess.run(["sh", SCRIPT, "start", folder], env={**os.environ, **ports}, capture_output=True, text=True)
    try:
        assert said.returncode == 0, said.stderr
        yield said.stdout.strip()
    finally:
        subprocess.run(["sh", SCRIPT, "stop", folder], check=True)


@pytest.fixture(autouse=True)
def place(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", cluster)
    for owner, name in ((SlurmLauncher, "pause"), (SlurmQueue, "seconds"), (SlurmJob, "patience")):
        monkeypatch.setattr(owner, name, 0.5)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    subprocess.run(["scancel", "--me"], check=True)
    wait(lambda: not queued())


def queued():
    return subprocess.run(["squeue", "-h", "-o", "%A"], capture_output=True, text=True, check=True).stdout.split()


def wait(condition, seconds=180):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.5)


def run(file, output, *arguments):
    return ablate.main([file, f"--output={output}", "--cost-rounds=0", *arguments])


def metrics(output):
    with Path(output, "report.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_same_report_as_without_slurm(capsys):
    write()
    assert run("coins.py", "slurm", *SLURM) == 0
    assert run("coins.py", "local") == 0
    assert len(metrics("slurm")) == 3 and metrics("slurm") == metrics("local")
    wait(lambda: not queued())  # a job has written its result a moment before Slurm lets it go


def test_detectors_and_costs(shapes, place):
    write_config(place / "base.py", shapes)
    Path("real.py").write_text(
        "from detection.ablation import Ablation\n\n"
        "variants = {'plain': [], 'narrow': {'detector.head.hidden_channels': 8}}\n"
        "ablation = Ablation(base='base.py', variants=variants, seeds=(0,), metric='AP50')\n"
    )
    arguments = ["real.py", "--output=slurm", "--cost-rounds=1", "schedule.epochs=1"]
    assert ablate.main([*arguments, *SLURM]) == 0
    assert run("real.py", "local", "--workers=1", "schedule.epochs=1") == 0
    assert metrics("slurm") == metrics("local")
    assert "## Costs" in Path("slurm/report.md").read_text()


def start(file):
    """Run an ablation whose jobs need the complete node each, so that they run one after another."""
    settings = [*SLURM[:2], f"--cpus={os.cpu_count()}", *SLURM[3:]]
    command = [sys.executable, "-m", "detection.cli.ablate", file, "--output=out", "--cost-rounds=0", *settings]
    with Path("out.txt").open("w") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)


def wait_until_stuck():
    """Wait until the second of four jobs hangs; returns the jobs that are left, by age: it and two that wait.

    All four must have been taken over by the launcher, which prints the last one's name then.
    """
    log = Path("out/runs/data/stuck/seed-0.log")
    wait(lambda: log.exists() and "hanging" in log.read_text())
    wait(lambda: any("stuck/seed-1" in line and "running" in line for line in Path("out.txt").read_text().splitlines()))
    wait(lambda: len(queued()) == 3)
    return sorted(queued(), key=int)


def test_jobs_that_others_cancel_are_missing():
    write({"fair": [], "stuck": ["behavior=hang"]})
    working = start("coins.py")
    at_work, _, waiting = wait_until_stuck()
    subprocess.run(["scancel", at_work, waiting], check=True)
    code, text = working.wait(180), Path("out.txt").read_text()
    # One was at work and ended by a signal, the other had not begun.
    assert code == 1 and "seed-0 " in text and "seed-1 " in text, text
    assert "failed with exit code -15" in text and "Slurm job" in text and "ended without a result" in text, text
    missing = {row["variant"]: row["missing"] for row in metrics("out")}
    assert missing == {"fair": "", "stuck": "seed-0 seed-1"}


def test_jobs_are_cancelled_when_we_are_ended():
    write({"fair": [], "stuck": ["behavior=hang"]})
    working = start("coins.py")
    wait_until_stuck()
    working.send_signal(signal.SIGINT)
    code, text = working.wait(180), Path("out.txt").read_text()
    assert code == 130 and "are left" in text, text
    wait(lambda: not queued())


def test_what_slurm_refuses_is_reported(capsys):
    write()
    assert run("coins.py", "out", *SLURM, "--partition=nowhere") == 2
    assert "invalid partition" in capsys.readouterr().err.lower()
    assert run("coins.py", "out", *SLURM[:3], "--memory=900000") == 2
    assert "sbatch refused a job" in capsys.readouterr().err
    assert not list(Path("out/runs").glob("*/*/*/metrics.json")) and queued() == []
