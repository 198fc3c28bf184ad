"""Keys as people type them: an ending is a key where it is one key's only, and otherwise one sentence."""

from pathlib import Path

import pytest

from detection.ablation.ablation import Ablation
from detection.ablation.plan import make_plan
from detection.cells import LSTM, chrono
from detection.config import load_config, override, to_plain
from detection.config.files import find_config
from detection.config.foreign_keys import _KEYS, _REMEDY
from detection.config.keys import _keys, full_key, full_overrides
from detection.context import NoContext
from detection.errors import UserError
from tests.tiny_runs import tiny_config

CONFIG = tiny_config(Path("data"))
SMALL_ION = load_config(find_config("ion_beacon"))


@pytest.mark.parametrize(
    ("typed", "full"),
    [
        ("epochs", "schedule.epochs"),
        ("lr", "optimizer.lr"),
        ("momentum", "optimizer.momentum"),
        ("workers", "data.workers"),
        ("context", "detector.context"),
        ("cell", "detector.context.cell"),
        ("context.hidden_channels", "detector.context.hidden_channels"),
        ("val.annotations", "data.val.annotations"),
        ("lr_multipliers.backbone.fpn", "optimizer.lr_multipliers.backbone.fpn"),
        ("batch_size", "batch_size"),  # though detector.head.batch_size_per_image begins so
        ("seed", "seed"),  # though data.scenes.seed ends so
        ("freeze.backbone", "freeze.backbone"),
        ("detector.min_size", "detector.min_size"),
    ],
)
def test_a_unique_ending_is_a_key(typed, full):
    assert full_key(SMALL_ION, typed) == full


def test_every_key_is_found_by_each_of_its_unique_endings():
    keys = list(dict(_keys(SMALL_ION)))
    assert len(keys) > 100
    for key in keys:
        names = key.split(".")
        for start in range(len(names)):
            ending = ".".join(names[start:])
            owners = [k for k in keys if k == ending or k.endswith(f".{ending}")]
            if ending in keys or len(owners) == 1:
                assert full_key(SMALL_ION, ending) == (ending if ending in keys else owners[0])
            else:
                with pytest.raises(UserError) as error:
                    full_key(SMALL_ION, ending)
                assert all(owner in str(error.value) for owner in owners)


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        ("hidden_channels=2", "may be detector.head.hidden_channels or detector.context.hidden_channels; write"),
        ("annotations=a.json", "may be data.train.annotations, data.val.annotations or data.test.annotations; write"),
        ("detector.hidden_channels=2", "did you mean detector.head.hidden_channels or detector.context.hidden"),
        ("epohcs=2", "did you mean schedule.epochs?"),
        ("batch=4", "batch: unknown config key; here it is batch_size."),
        ("imgsz=640", "imgsz: unknown config key; here it is detector.min_size and detector.max_size."),
        ("device=cpu", "device: unknown config key; it is an option: --device."),
        ("lr0=0.1", "here it is optimizer.lr."),
        ("SOLVER.BASE_LR=0.1", "here it is optimizer.lr."),
        ("optimizer.learning_rate=0.1", "here it is optimizer.lr."),
        ("iou=0.5", "here it is detector.head.nms_threshold."),
        ("conf=0.5", "here it is detector.head.score_threshold."),
        ("num_classes=3", "come from the categories of the annotation file."),
        ("weights=a", "may be detector.head.weights or detector.weights; write"),
        ("context=Nothing", "detector.context=Nothing: is not the name of a public Context; such are"),
        ("backbone=LSTM", "detector.backbone=LSTM: is not the name of a public Backbone; such are"),
        ("nothing_like_it=1", "known at the top: batch_size,"),
    ],
)
def test_what_is_no_unique_ending_gets_one_sentence(item, sentence):
    with pytest.raises(UserError) as error:
        override(SMALL_ION, [item])
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_a_class_is_found_by_its_name_in_its_slot():
    assert override(CONFIG, ["context=NoContext"]).detector.context.func is NoContext
    changed = override(SMALL_ION, ["cell=LSTM", "init=chrono"])  # pool.init takes no such name
    cell = changed.detector.context.keywords["cell"]
    assert cell.func is LSTM and cell.keywords["init"].func is chrono
    typed = override(CONFIG, ["context={'class': 'SpatialRNN', 'cell': {'class': 'LSTM'}, 'hidden_channels': 4}"])
    assert typed.detector.context.keywords["cell"].func is LSTM
    assert to_plain(typed)["detector"]["context"]["class"] == "detection.context.SpatialRNN"


def test_names_of_other_packages_lead_to_keys_that_exist():
    known = {*dict(_keys(SMALL_ION)), *dict(_keys(CONFIG))}
    assert not [key for key in _KEYS if key.split()[0] not in known]
    # A name that is a unique ending of a key of ours would never be asked about.
    hidden = [name for name in _REMEDY if any(k == name or k.endswith(f".{name}") for k in known)]
    assert not hidden


def test_overrides_are_completed_as_those_before_them_leave_the_config():
    given = ["context=SpatialRNN", "cell=LSTM", "epochs=2"]
    full = ("detector.context=SpatialRNN", "detector.context.cell=LSTM", "schedule.epochs=2")
    assert full_overrides(CONFIG, given) == full
    assert to_plain(override(CONFIG, given)) == to_plain(override(CONFIG, full))


def test_an_ablation_writes_complete_keys(tmp_path):
    base = tmp_path / "base.py"
    base.write_text("from detection.config import base_config\n\nconfig = base_config('quickstart')\n")
    ablation = Ablation(
        base=str(base), variants={"plain": ["epochs=2"], "small": ["epochs=2", "min_size=64"]}, seeds=(0,)
    )
    plan = make_plan("it", ablation, base, tmp_path / "runs", ["batch_size=2"])
    assert plan.variants["small"] == ("schedule.epochs=2", "detector.min_size=64")
    assert "schedule.epochs=2 detector.min_size=64" in plan.printed_command(plan.runs[1])
