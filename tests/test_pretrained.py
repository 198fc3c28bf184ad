"""Fine-tuning goes by the names of classes, from runs, checkpoints and files."""

import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from detection.backbones import Tiny
from detection.context import ConvStack, SpatialRNN
from detection.data.coco_index import Category
from detection.detector import build_detector
from detection.errors import UserError
from detection.heads import FastRCNN, LocalGlobal, SequenceHead
from detection.pooling import RoIAlign
from detection.pretrained import load_pretrained, match_classes
from detection.runs.checkpoint import save_checkpoint
from detection.segmentation import SegmentationLoss
from detection.training.run import prepare
from tests.tiny_runs import DETECTOR, draw_shapes, tiny_config

KNOWN = ["red", "blue", "green"]
POOL = partial(RoIAlign, stages=("c3",), output_size=2)
HEADS = {
    "fast_rcnn": DETECTOR.head,
    "local_global": partial(LocalGlobal, fast_rcnn=partial(FastRCNN, hidden_channels=16), global_pool=POOL),
    "sequence": partial(SequenceHead, rezoom=POOL),
}


def config(head="fast_rcnn", **changes):
    segmentation = partial(SegmentationLoss, learned_upsampling=True)
    changes = {"context": partial(ConvStack), "context_source": "c3", "segmentation": segmentation, **changes}
    return dataclasses.replace(DETECTOR, head=HEADS[head], **changes)


def build(settings, classes, seed):
    torch.manual_seed(seed)
    detector = build_detector(settings, classes).eval()
    with torch.no_grad():
        for tensor in detector.state_dict().values():
            if tensor.is_floating_point() and not tensor.all():  # biases and corrections that start at 0
                tensor.normal_().abs_()
    return detector


def checkpoint(folder, detector, names):
    save_checkpoint(folder, detector, [Category(7 * i + 3, name) for i, name in enumerate(names)], {"epoch": 1})
    return str(folder)


@pytest.fixture
def saved(tmp_path):
    """A checkpoint of three classes and its detector."""
    detector = build(config(), 3, 0)
    return checkpoint(tmp_path / "saved", detector, KNOWN), detector


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("names", [["blue", "green", "red"], ["white", "green", "red", "black"], ["cat", "dog"]])
def test_rows_go_by_name(tmp_path, head, names):
    """All tensors whose shape depends on the number of classes; the last rows are the classes', equally many each."""
    theirs, ours, more = build(config(head), 3, 0), build(config(head), len(names), 1), build(config(head), 9, 2)
    before = {n: t.clone() for n, t in ours.state_dict().items()}
    (report,) = load_pretrained(ours, checkpoint(tmp_path / "c", theirs, KNOWN), names)
    kept = [n for n in names if n in KNOWN]
    assert report.classes == {
        "kept": kept, "new": [n for n in names if n not in KNOWN], "left": [n for n in KNOWN if n not in kept],
    }  # fmt: skip
    assert not report.resized and not report.missing and not report.unexpected
    source, large, dependent = theirs.state_dict(), more.state_dict(), 0
    for name, tensor in ours.state_dict().items():
        grown = [i for i, (a, b) in enumerate(zip(source[name].shape, large[name].shape, strict=True)) if a != b]
        if not grown:
            assert torch.equal(tensor, source[name]), name
            continue
        dependent += 1
        each = (large[name].shape[grown[0]] - source[name].shape[grown[0]]) // 6
        new, old, fresh = (t.movedim(grown[0], 0) for t in (tensor, source[name], before[name]))
        assert torch.equal(new[: -each * len(names)], old[: -each * 3]), name
        for k, class_name in enumerate(names):
            of, place = (old, 3 - KNOWN.index(class_name)) if class_name in KNOWN else (fresh, len(names) - k)
            expected = of[len(of) - each * place : len(of) - each * (place - 1)]
            rows = new[len(new) - each * (len(names) - k) : len(new) - each * (len(names) - k - 1)]
            assert torch.equal(rows, expected), (name, class_name)
    assert dependent == {"fast_rcnn": 7, "local_global": 7, "sequence": 7}[head]


def test_detections_are_those_of_the_run_in_another_order_of_classes(saved):
    path, theirs = saved
    names = ["green", "red", "blue"]
    ours = build(config(), 3, 1)
    load_pretrained(ours, path, names)
    with torch.no_grad():
        (a,), (b,) = (d([torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))]) for d in (theirs, ours))
    found, again = ({(n[k - 1], round(float(s), 4)) for k, s in zip(d["labels"], d["scores"], strict=True)}
                    for d, n in ((a, KNOWN), (b, names)))  # fmt: skip
    assert found and found == again


def test_the_report_names_classes(saved):
    (report,) = load_pretrained(build(config(), 6, 1), saved[0], ["red", "a", "b", "c", "d", "e"])
    text = "; classes kept 1 (red), new 5 (a, b, c, d, …), left 2 (blue, green)"
    assert str(report).endswith(text) and saved[0] in str(report)


def test_equal_names_go_in_their_order(tmp_path):
    theirs, ours = build(config(), 3, 0), build(config(), 3, 1)
    names = ["cell", "cell", "other"]
    load_pretrained(ours, checkpoint(tmp_path / "c", theirs, names), names)
    assert all(torch.equal(t, theirs.state_dict()[n]) for n, t in ours.state_dict().items())


def test_files_without_names_and_calls_without_names_go_by_shape(saved, tmp_path):
    path, theirs = saved
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    for weights, names in ((str(tmp_path / "w.safetensors"), ["blue", "green", "red"]), (path, [])):
        ours = build(config(), 3, 1)
        (report,) = load_pretrained(ours, weights, names)
        assert not report.classes and "classes" not in str(report)
        assert all(torch.equal(t, theirs.state_dict()[n]) for n, t in ours.state_dict().items())


def test_a_run_gives_its_best_checkpoint_else_its_last(tmp_path):
    run = tmp_path / "run"
    for name, seed in (("best", 0), ("last", 1)):
        checkpoint(run / "checkpoints" / name, build(config(), 3, seed), KNOWN)
    for name in ("best", "last"):
        (report,) = load_pretrained(build(config(), 3, 2), str(run), KNOWN)
        assert report.source == str(run / "checkpoints" / name / "model.safetensors")
        assert load_pretrained(build(config(), 3, 2), report.source, KNOWN[:0:-1] + KNOWN[:1])[0].classes["kept"]
        shutil.rmtree(run / "checkpoints" / name)
    with pytest.raises(UserError, match="no checkpoint in this folder; give a run folder"):
        load_pretrained(build(config(), 3, 2), str(run), KNOWN)


def test_weights_that_changed_since_they_were_written_are_an_error(saved):
    """As a copy that broke off leaves a file of the full length."""
    file = Path(saved[0], "model.safetensors")
    content = file.read_bytes()
    file.write_bytes(content[:-100] + bytes(100))
    for weights in (saved[0], str(file)):
        with pytest.raises(UserError, match="model.safetensors: the checkpoint is damaged, its content"):
            load_pretrained(build(config(), 3, 1), weights, KNOWN)


def test_names_that_do_not_belong_to_the_weights_are_an_error(saved):
    meta = f"{saved[0]}/meta.json"
    with open(meta) as file:
        plain = json.load(file)
    plain["categories"].pop()
    with open(meta, "w") as file:
        json.dump(plain, file)
    with pytest.raises(UserError, match="has .* rows, which are not those of the 2 categories"):
        load_pretrained(build(config(), 3, 1), saved[0], KNOWN)


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"context": None, "segmentation": None}, KNOWN),
        ({"context": partial(SpatialRNN)}, KNOWN),
        ({"context": partial(ConvStack, hidden_channels=8, num_layers=3)}, KNOWN),
        ({"head": "sequence"}, []),
        ({"head": "local_global"}, []),
    ],
)
def test_new_parts_need_not_fit(saved, changes, kept):
    (report,) = load_pretrained(build(config(**changes), 3, 1), saved[0], KNOWN)
    assert report.classes == {"kept": kept, "new": [] if kept else KNOWN, "left": [] if kept else KNOWN}
    assert report.missing or report.unexpected


def test_scores_of_another_width_are_new_classes():
    """The boxes' predictor would fit."""
    other = partial(HEADS["local_global"], global_channels=8)
    theirs, ours = build(config("local_global"), 3, 0), build(dataclasses.replace(config(), head=other), 3, 1)
    _, classes = match_classes(ours, theirs.state_dict(), KNOWN, KNOWN)
    assert classes == {"kept": [], "new": KNOWN, "left": KNOWN}


def test_a_branch_more_need_not_fit(tmp_path):
    theirs = build(dataclasses.replace(config(), head=partial(HEADS["local_global"], global_pool=None)), 3, 0)
    ours = build(config("local_global"), 3, 1)
    (report,) = load_pretrained(ours, checkpoint(tmp_path / "c", theirs, KNOWN), KNOWN)
    assert set(report.missing) == {n for n in ours.state_dict() if "global_branch" in n}


@pytest.mark.parametrize("channels", [(8,), (8, 16, 16), (16, 32)])
def test_weights_of_another_backbone_are_an_error_and_change_nothing(tmp_path, channels):
    """A deeper network's tensors hold all of a shallower one's."""
    theirs = build(config(backbone=partial(Tiny, channels=channels, stem_channels=8), **shallow(channels)), 3, 0)
    ours = build(config(), 3, 1)
    before = {n: t.clone() for n, t in ours.state_dict().items()}
    with pytest.raises(UserError, match="too little fits this model"):
        load_pretrained(ours, checkpoint(tmp_path / "c", theirs, KNOWN), KNOWN)
    assert all(torch.equal(t, before[n]) for n, t in ours.state_dict().items())


def shallow(channels):
    """What reads c2, where that is all there is."""
    if len(channels) > 1:
        return {}
    regions = partial(DETECTOR.regions.func, **{**DETECTOR.regions.keywords, "stages": ("c2",)})
    pool = partial(RoIAlign, stages=("c2",), output_size=3)
    return {"regions": regions, "pool": pool, "context_source": "c2"}


def test_training_hands_over_the_names_of_its_data(tmp_path, capsys):
    settings = tiny_config(draw_shapes(tmp_path / "data", train=2, val=1))
    names = [c["name"] for c in json.loads((tmp_path / "data" / "train.json").read_text())["categories"]]
    path = checkpoint(tmp_path / "c", build(DETECTOR, 2, 0), [names[-1], "other"])
    settings = dataclasses.replace(settings, detector=dataclasses.replace(settings.detector, weights=path))
    prepare(settings, tmp_path / "run", Accelerator(cpu=True), resume=False)
    assert f"classes kept 1 ({names[-1]}), new {len(names) - 1} (" in capsys.readouterr().out
