"""`configs/ablations/own_data.py`: the variants that it makes of a base, and one small run to its report."""

from pathlib import Path

import pytest

from detection.ablation import load_ablation
from detection.ablation.plan import make_plan
from detection.ablation.size_matched import find_widths
from detection.cli import ablate
from detection.config import base_config, load_config, to_plain
from detection.config.files import find_config
from detection.insertion import with_context
from detection.pooling import RoIAlign, SkipPool
from tests.tiny_runs import draw_shapes, write_config

FILE = find_config("own_data")
NAMES = ["none", "average", "selfattention", "accumulator", "lstm", "rglru", "rcl"]


def configs(base, monkeypatch):
    monkeypatch.setenv("BASE", str(base))
    ablation, config = load_ablation(FILE)
    assert config == find_config(base) and list(ablation.variants) == NAMES
    (data,) = ablation.data.values()
    return {name: load_config(config, [*data, *changes]) for name, changes in ablation.variants.items()}, ablation


def test_a_plain_base_gets_contexts_for_its_classes(monkeypatch):
    found, ablation = configs("finetune", monkeypatch)
    plain = base_config("finetune").detector
    assert to_plain(found.pop("none").detector) == to_plain(plain)
    for config in found.values():
        expected = with_context(plain, config.detector.context, "p3")
        assert to_plain(config.detector) == to_plain(expected)
    (head,) = ablation.question.where_crowded.values()
    assert "SequenceHead" in head[0]


def test_a_run_evaluates_six_times_unless_its_base_or_the_command_line_has_another_number(monkeypatch, tmp_path):
    found, _ = configs("finetune", monkeypatch)
    assert {(c.evaluate_every, c.schedule.epochs, c.validation_loss) for c in found.values()} == {(3, 20, False)}
    rare = tmp_path / "rare.py"
    rare.write_text(
        "from dataclasses import replace\nfrom detection.config import base_config\n"
        "config = replace(base_config('finetune'), evaluate_every=12, validation_loss=True)\n"
    )
    found, _ = configs(rare, monkeypatch)
    assert {(c.evaluate_every, c.validation_loss) for c in found.values()} == {(12, False)}
    ablation, base = load_ablation(FILE)
    plan = make_plan("it", ablation, base, tmp_path / "out", ["evaluate_every=1"])
    assert {run.config.evaluate_every for run in plan.runs} == {1}


def test_a_base_is_relative_to_the_current_folder(monkeypatch, tmp_path):
    (tmp_path / "mine.py").write_text("from detection.config import base_config\nconfig = base_config('quickstart')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BASE", "mine.py")
    assert load_ablation(FILE)[1] == tmp_path / "mine.py"


def test_a_plain_base_with_another_head_gets_contexts_in_its_pool(monkeypatch):
    found, _ = configs("sequence_head_lite0_finetune", monkeypatch)
    plain = found.pop("none").detector
    assert plain.pool.func is RoIAlign
    for config in found.values():
        pool = to_plain(config.detector.pool)
        assert config.detector.pool.func is SkipPool and pool["init"] == "identity"
        assert [source["feature_maps"] for source in pool["sources"]] == [["p2", "p3", "p4", "p5"], ["context"]]
        assert config.detector.context_source == "p3" and to_plain(config.detector.head) == to_plain(plain.head)


def test_in_a_base_with_context_the_context_is_exchanged(monkeypatch):
    found, ablation = configs("quickstart", monkeypatch)
    plains = [to_plain(config.detector) for config in found.values()]
    contexts = [plain.pop("context") for plain in plains]
    assert all(plain == plains[0] for plain in plains)
    assert contexts[0]["class"].endswith("NoContext") and {c.get("hidden_channels", 64) for c in contexts} == {64}
    assert all(config.data.scenes is None for config in found.values())


@pytest.mark.parametrize("base", ["accnn_beacon", "sequence_head_crowd"])
def test_a_base_with_another_head_keeps_it(base, monkeypatch):
    found, ablation = configs(base, monkeypatch)
    head = to_plain(base_config(base).detector.head)
    assert all(to_plain(config.detector.head) == head for config in found.values())
    assert not ablation.question.where_crowded and "sequence" not in ablation.question.drop


@pytest.mark.parametrize(
    "base", ["finetune", "shapes", "quickstart", "faster_rcnn_vgg16_voc07", "ion_resnet50_c4_coco"]
)
def test_every_base_has_a_width_for_the_wider_detector(base, monkeypatch):
    found, ablation = configs(base, monkeypatch)
    widths = find_widths(ablation, to_plain(found["none"]))
    is_of_head = base in ("faster_rcnn_vgg16_voc07", "ion_resnet50_c4_coco")
    assert is_of_head == ("detector.head.hidden_channels" in widths) and len(widths) == 1


def test_a_base_whose_pool_reads_no_context_is_a_sentence(monkeypatch, capsys):
    monkeypatch.setenv("BASE", "reinspect_crowd")
    assert ablate.main(["own_data", "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert "its detector.pool is a " in error and "give a BASE with RoIAlign or SkipPool" in error
    assert "line" not in error


def test_data_that_are_not_named_are_one_sentence(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BASE", raising=False)
    assert ablate.main(["own_data"]) == 2
    assert "data.train.annotations is not set" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_small_run_ends_in_an_answer(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    draw_shapes(tmp_path / "data", train=12, val=6)
    base = write_config(tmp_path / "base.py", tmp_path / "data")
    monkeypatch.setenv("BASE", str(base))
    arguments = ["own_data", "--output=out", "--variants=average", "schedule.epochs=1"]
    assert ablate.main(arguments) == 0
    text = capsys.readouterr().out
    assert "no image of val is in train too" in text and "wider is none with detector.backbone.channels=" in text
    assert "time     lstm: " in text and text.count("finished in") == 12
    page, report = (Path("out", f"report.{ending}").read_text() for ending in ("html", "md"))
    first = report.partition("## Data and plan")[0]
    assert "Against wider (without context, as many FLOPs): " in first and "By class and object size" in first
    assert "| against none" in first.partition("By class")[2] and "*" not in first.partition("By class")[2][:300]
    assert "What it costs" in first and "Images that context saved, and those it broke" in first
    assert 'src="http' not in page
    assert ablate.main([*arguments, "--report-only"]) == 0
    assert load_config(base).schedule.epochs == 2
