"""Trainings in processes of their own, which a server forks that has imported everything: they start at once."""

import json
import multiprocessing
import os
import sys
import time

import torch
from safetensors.torch import load_file

_CONTEXT = multiprocessing.get_context("forkserver")


def _train(folder, arguments):
    """Train in a process group of its own, with all output in a file."""
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # of loading processes
    os.chdir(folder)
    output = os.open("out.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    from detection.cli import train
    from detection.evaluation import report

    report.to_png = lambda figure: b""  # to draw plots takes longer than to train
    sys.exit(train.main(arguments))


def start(folder, *arguments):
    """Start `detection train` in a folder; returns the process."""
    _CONTEXT.set_forkserver_preload(["detection.cli.train", "detection.training.run", "torch.utils.tensorboard"])
    process = _CONTEXT.Process(target=_train, args=(folder, [*arguments, "--device=cpu"]))
    process.start()
    return process


def wait_for(condition, seconds=120.0):
    """Wait until a condition holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def log_lines(run):
    """The complete lines of a run's log, without its times."""
    path = run / "log.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    parsed = [json.loads(line) for line in lines if line.endswith("\n")]
    return [{k: v for k, v in line.items() if k != "images_per_s"} for line in parsed]


def require_equal(expected, found):
    """Equal weights, log lines and metrics of two run folders."""
    for path in (expected / "checkpoints").rglob("*.safetensors"):
        ours, theirs = load_file(path), load_file(found / path.relative_to(expected))
        assert ours.keys() == theirs.keys() and all(torch.equal(theirs[name], ours[name]) for name in ours), path
    assert log_lines(found) == log_lines(expected)
    assert (found / "metrics.json").read_text() == (expected / "metrics.json").read_text()
