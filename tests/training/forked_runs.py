"""Trainings in processes of their own, which a server forks that has imported everything: they start at once."""

import json
import multiprocessing
import os
import runpy
import socket
import sys
import time

import torch
from safetensors.torch import load_file

_CONTEXT = multiprocessing.get_context("forkserver")


def _begin(folder, output):
    """Change to a folder, with all output in a file there and no plots: to draw them takes longer than to train."""
    from detection.evaluation import report

    report.to_png = lambda figure: b""
    os.chdir(folder)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


def _train(folder, arguments):
    """Train in a process group of its own."""
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # of loading processes
    _begin(folder, "out.txt")
    from detection.cli import train

    sys.exit(train.main(arguments))


def _run_rank(folder, script, arguments, variables):
    """Run a script as one process of several, as torchrun starts it."""
    os.environ.update(variables)
    _begin(folder, f"rank{variables['RANK']}.txt")
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


def _started(target, *arguments):
    _CONTEXT.set_forkserver_preload(["detection.cli.train", "detection.training.run", "torch.utils.tensorboard"])
    process = _CONTEXT.Process(target=target, args=arguments)
    process.start()
    return process


def start(folder, *arguments):
    """Start `detection train` in a folder; returns the process."""
    return _started(_train, folder, [*arguments, "--device=cpu"])


def run_two(folder, script, *arguments):
    """Run a script in a folder by two processes that train together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **address}
    ranks = [{"RANK": rank, "LOCAL_RANK": rank, **common} for rank in "01"]
    processes = [_started(_run_rank, folder, str(script), arguments, variables) for variables in ranks]
    for process in processes:
        process.join(300)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0, 0], "\n".join(path.read_text() for path in sorted(folder.glob("rank?.txt")))


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
