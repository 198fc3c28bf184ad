"""Classes of parts: which fit a slot, what they are called, and which packages they may come from."""

import importlib
import json
import subprocess
import sys
from functools import partial

import pytest
from PIL import Image

from detection.config import load_config, override, to_plain
from detection.config.parts import class_name, trusting
from detection.errors import UserError
from detection.runs.folder import open_config, open_run
from tests.tiny_runs import DETECTOR, draw_shapes, tiny_config, write_config

SWAPS = [
    "detector.context=detection.heads.FastRCNN",
    "detector.context=detection.backbones.Tiny",
    "detector.head=detection.context.NoContext",
    "detector.regions=detection.pooling.RoIAlign",
    "detector.backbone=detection.errors.UserError",
    "detector.pool=detection.detector.Detector",
]


@pytest.mark.parametrize("swap", SWAPS)
def test_a_part_in_the_wrong_slot_gets_one_sentence_with_three_that_fit(tmp_path, swap):
    with pytest.raises(UserError) as error:
        override(tiny_config(tmp_path), [swap])
    key, _, given = swap.partition("=")
    sentence = str(error.value)
    assert sentence.startswith(f"{key}={given}: must be a ") and "\n" not in sentence
    offered = sentence.rpartition("such are ")[2].rstrip(".").split(", ")
    assert len(offered) == (2 if key == "detector.regions" else 3)  # there are two
    for name in offered:
        override(tiny_config(tmp_path), [f"{key}={name}"] if key != "detector.pool" else [])


def test_a_cell_that_is_none_gets_one_sentence(tmp_path):
    overrides = ["detector.context=detection.context.SpatialRNN", "detector.context.cell=detection.context.NoContext"]
    with pytest.raises(UserError, match=r"context.cell=detection.context.NoContext: must be a Cell; such are .*, .*, "):
        override(tiny_config(tmp_path), overrides)


def test_public_names_are_written():
    plain = to_plain(DETECTOR)
    assert plain["backbone"]["class"] == "detection.backbones.Tiny"
    assert plain["regions"]["class"] == "detection.regions.RPN"


CONTEXT = """
from torch import nn

from detection.contracts import Context


class Doubled(Context):
    def __init__(self, in_channels: int, *, factor: float = 2.0) -> None:
        super().__init__()
        self.out_channels, self.factor = in_channels, factor
        self.conv = nn.Conv2d(in_channels, in_channels, 1)

    def forward(self, x, valid):
        return self.factor * self.conv(x) * valid
"""


@pytest.fixture(scope="module")
def outside(tmp_path_factory, shapes):
    """A run whose context lies beside its config, trained by the command; and the folder that it lies in."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "mylab_context.py").write_text(CONTEXT)
    write_config(folder / "base.py", shapes)
    (folder / "config.py").write_text(
        "import dataclasses\nfrom functools import partial\n\nfrom base import config as base\n"
        "from mylab_context import Doubled\n\n"
        "detector = dataclasses.replace(base.detector, context=partial(Doubled, factor=3.0), context_source='c3')\n"
        "config = dataclasses.replace(base, detector=detector)\n"
    )
    command = [sys.executable, "-m", "detection.cli.train", "config.py", "--output=run", "schedule.epochs=1"]
    done = subprocess.run([*command, "--device=cpu"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def place(outside, monkeypatch):
    """That folder as the current one, with none of its modules imported."""
    monkeypatch.chdir(outside)
    for name in ("mylab_context", "base"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield outside
    sys.modules.pop("mylab_context", None)


def test_a_run_with_a_part_from_outside_names_it(outside):
    context = json.loads((outside / "run" / "config.json").read_text())["detector"]["context"]
    assert context == {"class": "mylab_context.Doubled", "factor": 3.0}


def test_it_opens_only_where_the_package_is_trusted(place):
    with pytest.raises(
        UserError, match=r"'mylab_context.Doubled' is not a class .*; if you trust it, add --trust mylab_c"
    ):
        open_run("run")
    assert "mylab_context" not in sys.modules
    detector, _, config = open_run("run", trust=["mylab_context"])
    assert type(detector.context).__name__ == "Doubled" and config.detector.context.keywords == {"factor": 3.0}
    with pytest.raises(UserError, match="--trust"):
        open_config("run")


@pytest.mark.parametrize("command", ["evaluate", "browse", "predict"])
def test_commands_take_the_flag(place, command, capsys, blank_plots):
    arguments = {
        "evaluate": ["run", "--device=cpu"],
        "browse": ["run"],
        "predict": ["run", "image.png", "--device=cpu"],
    }
    Image.new("RGB", (64, 64)).save(place / "image.png")
    main = importlib.import_module(f"detection.cli.{command}").main
    assert main(arguments[command]) == 2 and "mylab_context" not in sys.modules
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--trust mylab_context" in error
    assert main([*arguments[command], "--trust", "mylab_context"]) == 0, capsys.readouterr().err


def test_an_override_that_names_a_package_needs_trust_too(outside, monkeypatch):
    monkeypatch.syspath_prepend(outside)
    config = load_config(outside / "config.py")
    changes = ["detector.context=mylab_context.Doubled"]
    with pytest.raises(UserError, match="--trust mylab_context"):
        override(config, changes)
    with trusting(["mylab_context"]):
        assert override(config, changes).detector.context.keywords == {}


def test_a_class_in_the_config_file_itself_is_refused(tmp_path):
    folder = draw_shapes(tmp_path / "shapes", 2, 1)
    base = write_config(tmp_path / "config.py", folder).read_text()
    lines = "import dataclasses\nfrom functools import partial\n"
    change = (
        "config = dataclasses.replace(config, detector=dataclasses.replace(config.detector, context=partial(Doubled)))"
    )
    (tmp_path / "config.py").write_text(f"{lines}{base}{CONTEXT}\n{change}\n")
    with pytest.raises(UserError, match="Doubled is defined in the config file itself"):
        to_plain(load_config(tmp_path / "config.py"))


def test_a_local_class_has_no_name():
    class Local:
        pass

    with pytest.raises(UserError, match="detector.context: .*Local is defined"):
        class_name(Local, "detector.context")


def test_a_package_name_is_checked():
    with pytest.raises(UserError, match="--trust ../x: must be the name of a package"):
        trusting(["../x"]).__enter__()


def test_settings_of_an_unresolvable_annotation_are_taken_as_they_are():
    class Odd:
        def __init__(self, x, *, width: "Nowhere" = 3) -> None:  # noqa: F821
            pass

    from detection.config.serialization import from_plain

    assert from_plain(partial(Odd, width="a"), partial).keywords == {"width": "a"}
