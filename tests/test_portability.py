"""What Windows and macOS lack is taken away: training, prediction and the launcher of an ablation do without it."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_runs import write_config

ROOT = Path(__file__).parents[1]

WITHOUT = """
import multiprocessing, os, signal, sys

if __name__ == "__main__":
    sys.modules["fcntl"] = None
    for name in ("sched_getaffinity", "killpg", "pread", "pwrite", "getuid"):
        delattr(os, name)
    for name in ("SIGUSR1", "SIGUSR2", "SIGPIPE", "sigwaitinfo", "pthread_sigmask"):
        delattr(signal, name)
    multiprocessing.set_start_method(START)
"""

TRAIN = """
    from detection.cli import predict, train

    settings = ["--output", "run", "schedule.epochs=1", "data.workers=1", "data.cache_megabytes=0", "samples=1"]
    assert train.main(["config.py", *settings]) == 0
    assert not os.path.exists("run/.lock")
    assert predict.main(["run", VAL, "--output", "out", "--score", "0"]) == 0
"""

LAUNCH = """
    import time
    from pathlib import Path
    from detection.ablation.launch.launchers import LocalLauncher
    from detection.ablation.launch.lock import locked

    with locked(Path("ablation")) as held:
        launcher = LocalLauncher(1, 2, held=(held,))
        sleeping = "import time; print(1, flush=True); time.sleep(60)"
        process = launcher.start([sys.executable, "-c", sleeping], Path("log"))
        while not Path("log").read_bytes():
            time.sleep(0.05)
        assert process.poll() is None
        signal.CTRL_BREAK_EVENT = signal.SIGTERM
        process.stop()
        assert process.poll() != 0
"""


def run(code, folder, start):
    script = folder / "script.py"
    script.write_text(WITHOUT.replace("START", repr(start)) + code, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.slow
@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_a_run_is_trained_and_predicts_where_there_is_no_posix(shapes, tmp_path, start):
    write_config(tmp_path / "config.py", shapes)
    done = run(TRAIN.replace("VAL", repr(str(shapes / "val"))), tmp_path, start)
    assert "cannot be locked here" in done.stderr and (tmp_path / "run/metrics.json").is_file()


def test_an_ablation_starts_and_ends_processes_where_there_is_no_posix(tmp_path):
    assert "one ablation runs in it" in run(LAUNCH, tmp_path, "spawn").stderr


def _without_encoding(path):
    """Lines that open a text file in the encoding of the system, which is cp1252 on Windows."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or any(k.arg in ("encoding", None) for k in node.keywords):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        values = [*node.args, *(k.value for k in node.keywords if k.arg == "mode")]
        constants = [c for v in values for c in ast.walk(v) if isinstance(c, ast.Constant)]
        modes = [c.value for c in constants if isinstance(c.value, str)]
        binary = any(set(mode) <= set("rwxab+t") and "b" in mode for mode in modes)
        owner = node.func.value if isinstance(node.func, ast.Attribute) else None
        opens = name == "open" and getattr(owner, "id", "") not in ("Image", "os", "tarfile", "zipfile", "webbrowser")
        if name in ("read_text", "write_text", "fdopen", "TextIOWrapper") or opens:
            if not binary and not (name == "write_text" and len(node.args) > 1):
                yield f"{path.relative_to(ROOT)}:{node.lineno}"


def test_text_files_are_opened_as_utf_8():
    assert [line for path in sorted((ROOT / "detection").rglob("*.py")) for line in _without_encoding(path)] == []
