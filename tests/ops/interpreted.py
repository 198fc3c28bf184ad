"""Programs under Triton's interpreter, which is chosen by the environment of a process."""

import os
import subprocess
import sys
from pathlib import Path


def prints_equal(program, timeout=300, **variables):
    """Whether a program ends by printing `equal`, under further environment variables; what went wrong otherwise."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", **variables}
    root = str(Path(__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join([root, environment.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0 and done.stdout == "equal\n", done.stderr[-2000:]
    return True
