"""`detection ablate --match flops` with an operator from outside, whose FLOPs are not known."""

import sys

import pytest

from detection.cli import ablate
from tests.tiny_runs import write_config

MODULE = """
import torch
from detection.context import NoContext


@torch.library.custom_op("outside::doubled", mutates_args=())
def doubled(x: torch.Tensor) -> torch.Tensor:
    return x * 2


class Doubled(NoContext):
    def forward(self, x, valid):
        return doubled(x) * valid
"""
FILE = """
from detection.ablation import Ablation

ablation = Ablation(
    base="base.py",
    variants={
        "none": [],
        "doubled": [
            "detector.context=outside_flops.Doubled", "detector.context_source=c3", "detector.pool.stages=context"
        ],
    },
)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch, shapes):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outside_flops.py").write_text(MODULE)
    (tmp_path / "flops.py").write_text(FILE)
    write_config(tmp_path / "base.py", shapes)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("outside_flops", None)


def test_an_operator_without_a_formula_is_refused_by_name(folder, capsys):
    arguments = ["flops.py", "--trust=outside_flops", "--dry-run"]
    assert ablate.main(arguments) == 0
    capsys.readouterr()
    assert ablate.main([*arguments, "--match=flops"]) == 2
    printed = capsys.readouterr()
    assert "error: FLOPs cannot be counted: outside.doubled has no formula" in printed.err
    assert printed.err.count("\n") == 1 and not (folder / "runs").exists()
