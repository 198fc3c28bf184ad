"""Classes of parts: which fit a slot, what they are called, and which packages they may come from."""

import importlib
import json
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial

import pytest
from PIL import Image
from torch import nn

from detection.backbones import Tiny
from detection.config import from_plain, load_config, override, to_plain
from detection.config.parts import class_name, trusting
from detection.context import ConvStack, NoContext
from detection.detector import build_detector
from detection.errors import UserError
from detection.pooling import RoIAlign
from detection.regions import RPN
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
        "from mylab_context import Doubled\n\nfrom detection import with_context\n\n"
        "detector = with_context(base.detector, partial(Doubled, factor=3.0), 'c3')\n"
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
        UserError,
        match=r"'mylab_context.Doubled' is not a class .*; if you trust it, add --trust mylab_context .in Python",
    ):
        open_run("run")
    assert "mylab_context" not in sys.modules
    detector, _, config = open_run("run", trust=["mylab_context"])
    assert type(open_run("run", trust="mylab_context")[0].context) is type(detector.context)
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


ODD = """
from collections.abc import Sequence
from functools import partial

from detection.cells import LSTM, IRNN
from detection.contracts import Context


class Base(Context):
    def __init__(self, in_channels):
        super().__init__()
        self.out_channels = in_channels

    def forward(self, x, valid):
        return x * valid


class Implicit(Base):
    def __init__(self, in_channels: int, *, hidden: int = None) -> None:
        super().__init__(in_channels)


class Listed(Base):
    def __init__(self, in_channels: int, *, sizes: list[int] = [1, 2]) -> None:
        super().__init__(in_channels)


class Several(Base):
    def __init__(self, in_channels: int, *, sizes: Sequence[int] = (1, 2)) -> None:
        super().__init__(in_channels)


class Misnamed(Base):
    def __init__(self, in_channels: int, *, factor: int = 0.5) -> None:
        super().__init__(in_channels)


class Untyped(Base):
    def __init__(self, in_channels, *, cell=partial(LSTM)) -> None:
        super().__init__(in_channels)
        self.cell = cell(4)


class Parts(Base):
    def __init__(self, in_channels, *, cells: tuple = (partial(LSTM),)) -> None:
        super().__init__(in_channels)
        self.cells = [cell(4) for cell in cells]


class Outer:
    class Inner(Base):
        pass
"""


@pytest.fixture
def odd(tmp_path, monkeypatch):
    """A module of contexts whose settings have no, loose or wrong types."""
    (tmp_path / "oddlab.py").write_text(ODD)
    (tmp_path / "badlab.py").write_text("def broken(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with trusting(["oddlab"]):
        yield tmp_path
    sys.modules.pop("oddlab", None)


def reopened(config):
    return from_plain(json.loads(json.dumps(to_plain(config))), type(config))


@pytest.mark.parametrize(
    "text",
    [
        "Implicit", "{'class': 'oddlab.Implicit', 'hidden': 3}", "Listed", "{'class': 'oddlab.Listed', 'sizes': [3]}",
        "Several", "Misnamed", "{'class': 'oddlab.Misnamed', 'factor': 2}", "Untyped",
        "{'class': 'oddlab.Untyped', 'cell': {'class': 'detection.cells.IRNN'}}", "Parts",
    ],
)  # fmt: skip
def test_a_part_with_loose_types_is_the_same_when_its_run_is_opened(odd, text):
    config = override(tiny_config(odd), [f"detector.context={text}", "detector.context_source=c3"])
    again = reopened(config)
    assert to_plain(again) == to_plain(config)
    assert len(list(again.detector.context(4).children())) == len(list(config.detector.context(4).children()))


def test_what_could_not_be_opened_again_is_refused_before_training(odd):
    import oddlab

    base = tiny_config(odd)
    for context, sentence in (
        (partial(oddlab.Several, sizes="ab"), r"context.sizes\[0\]='ab': must be of type int"),
        (partial(oddlab.Parts, cells=(partial(oddlab.IRNN),)), "context.cells"),
    ):
        with pytest.raises(UserError, match=sentence):
            override(replace(base, detector=replace(base.detector, context=context, context_source="c3")), [])
    detector = replace(base.detector, context=partial(oddlab.Outer.Inner), context_source="c3")
    config = override(replace(base, detector=detector), [])  # as a class of a notebook, it may be built
    with pytest.raises(UserError, match="Outer.Inner is defined inside of a class"):
        to_plain(config)


def test_settings_by_position_are_refused(tmp_path):
    base = tiny_config(tmp_path)
    config = replace(base, detector=replace(base.detector, backbone=partial(Tiny, (8, 16))))
    sentence = "detector.backbone: has settings by position; give them by keyword: partial.Tiny, channels=…"
    with pytest.raises(UserError, match=sentence):
        override(config, [])
    with pytest.raises(UserError, match=sentence):
        override(config, ["detector.backbone.stem_channels=4"])
    with pytest.raises(UserError, match=sentence):
        to_plain(config)


def test_python_may_give_a_class_or_one_value_of_several(tmp_path):
    base = tiny_config(tmp_path)
    detector = replace(base.detector, context=NoContext, context_source="c3", regions=partial(RPN, stages="c3"))
    config = override(replace(base, detector=detector, schedule=replace(base.schedule, milestones=0.5)), [])
    assert config.detector.context.func is NoContext and config.schedule.milestones == (0.5,)
    assert config.detector.regions.keywords["stages"] == ("c3",)
    detector = replace(base.detector, context=ConvStack, context_source="c3")
    changed = override(replace(base, detector=detector), ["detector.context.hidden_channels=8"])
    assert changed.detector.context.keywords == {"hidden_channels": 8}
    pool = partial(RoIAlign, stages="context")
    assert build_detector(replace(detector, pool=pool), 2).context.out_channels == ConvStack(16).out_channels
    noted = replace(base, detector=detector, note="AP 0.5")
    assert override(noted, []).note == "AP 0.5" and override(noted, ["seed=1"]).note == ""


def test_an_object_that_cannot_be_a_key_is_no_class(tmp_path):
    @dataclass
    class Settings:
        width: int = 1

        def __call__(self, in_channels):
            return NoContext(in_channels)

    base = tiny_config(tmp_path)
    with pytest.raises(UserError, match="context: a Settings is no class or function"):
        to_plain(replace(base, detector=replace(base.detector, context=partial(Settings()), context_source="c3")))


def test_a_class_of_a_notebook_keeps_its_note_until_something_changes(tmp_path):
    class Local(NoContext):
        pass

    base = tiny_config(tmp_path, "note=AP 0.5")
    config = replace(base, detector=replace(base.detector, context=partial(Local), context_source="c3"))
    assert override(config, []).note == "AP 0.5"


class OfAModule(NoContext):
    """A context with a setting that is a class."""

    def __init__(self, in_channels: int, *, layer: type[nn.Module] = nn.ReLU, **others) -> None:
        super().__init__(in_channels, **others)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"layer": nn.GELU}, "detector.context.layer: the class GELU cannot be written to config.json; give plain"),
        ({"layer": 3}, "detector.context.layer=3: must be of type type, not int"),
        ({"width": 3}, r"detector.context.width: .*OfAModule has no such setting; known: layer \(what is behind \*\*"),
    ],
)
def test_settings_that_no_run_could_keep(tmp_path, settings, sentence):
    base = tiny_config(tmp_path)
    part = partial(OfAModule, **settings)
    with pytest.raises(UserError, match=sentence):
        to_plain(override(replace(base, detector=replace(base.detector, context=part, context_source="c3")), []))


@pytest.mark.parametrize(("value", "sentence"), [(None, "=None"), (NoContext(8), r"=NoContext\(\)")])
def test_what_is_no_part_is_asked_for_one_that_fits(tmp_path, value, sentence):
    base = tiny_config(tmp_path)
    with pytest.raises(UserError, match=f"detector.head{sentence}: must be the name of a Head, or in Python the class"):
        override(replace(base, detector=replace(base.detector, head=value)), [])


def test_only_parts_are_found_by_their_names(tmp_path):
    importlib.import_module("detection.analysis.context_use")  # whose context replaces another
    with pytest.raises(UserError, match="detector.context=ReplacedContext: is not the name of a public Context"):
        override(tiny_config(tmp_path), ["detector.context=ReplacedContext"])


@pytest.mark.parametrize(
    ("package", "sentence"),
    [
        ("nolab", "--trust nolab: it cannot be imported: ModuleNotFoundError: No module named 'nolab'"),
        ("badlab", "--trust badlab: it cannot be imported: SyntaxError: "),
    ],
)
def test_a_trusted_package_that_cannot_be_imported(odd, package, sentence):
    with trusting([package]):
        with pytest.raises(UserError, match=sentence):
            override(tiny_config(odd), ["detector.context=NoContext"])
        with pytest.raises(UserError, match=f"there is no class {package}.X; "):
            override(tiny_config(odd), [f"detector.context={package}.X"])


def test_names_that_a_trusted_package_imports_are_not_its_own(odd):
    changes = ["detector.context=SpatialRNN", "detector.context_source=c3", "detector.context.cell=LSTM"]
    config = override(tiny_config(odd), changes)
    assert class_name(config.detector.context.keywords["cell"].func, "") == "detection.cells.LSTM"
    with pytest.raises(UserError, match="detector.context=json: is not the name of a public Context"):
        override(tiny_config(odd), ["detector.context=json"])


def test_two_configs_have_modules_of_one_name_beside_them(tmp_path, shapes):
    found = []
    for folder, width in (("a", 8), ("b", 32)):
        (tmp_path / folder).mkdir()
        write_config(tmp_path / folder / "base.py", shapes)
        (tmp_path / folder / "my_width.py").write_text(f"WIDTH = {width}")
        (tmp_path / folder / "config.py").write_text(
            "from dataclasses import replace\nfrom base import config\nfrom my_width import WIDTH\n"
            "config = replace(config, seed=WIDTH)"
        )
        found.append(load_config(tmp_path / folder / "config.py").seed)
    assert found == [8, 32]


@pytest.mark.parametrize(
    "change",
    [
        "freeze={[1]:2}", "detector.context={{'class':'SpatialRNN'}}", "data.augmentation.extra={'class':'Blur',1:2}",
        f"optimizer.lr={'9' * 400}", f"ema={'-' * 5000}", "detector.context=[[1]:",
    ],
)  # fmt: skip
def test_texts_that_are_no_values_get_one_sentence(tmp_path, change):
    with pytest.raises(UserError) as error:
        override(tiny_config(tmp_path), [change])
    assert change.partition("=")[0] in str(error.value) and "\n" not in str(error.value)
