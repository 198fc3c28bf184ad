"""Every file of configs/ablations/ resolves, and all its models can be built."""

import ast
import functools
from pathlib import Path

import pytest

from detection.ablation import load_ablation
from detection.ablation.choosing import choice_ablation
from detection.ablation.plan import make_plan
from detection.cli import ablate
from detection.config import base_config, load_config, to_plain
from tests.markdown import python_blocks

FILES = {path.stem: path for path in sorted((Path(__file__).parents[2] / "configs" / "ablations").glob("*.py"))}


@pytest.fixture(scope="module", autouse=True)
def data(tmp_path_factory):
    """A folder DATA with one set."""
    images = tmp_path_factory.mktemp("data") / "cells/images"
    images.mkdir(parents=True)
    images.with_name("train.json").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATA", str(images.parents[1]))
        yield


@functools.cache
def plan_of(name):
    ablation, base = load_ablation(FILES[name])
    return make_plan(name, ablation, base, Path("out"))


@pytest.mark.parametrize("name", FILES)
def test_an_ablation_resolves(name):
    plan = plan_of(name)
    ablation = plan.ablation
    assert len(plan.runs) == len(ablation.variants) * len(ablation.data) * len(ablation.seeds)
    assert f"detection ablate {name}" in ast.get_docstring(ast.parse(FILES[name].read_text()))


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("clef", "FOLDER/clef as `detection muscima"),
        ("systems", "FOLDER/system as `detection muscima"),
        ("bccd", "train.json, val.json and images/ in FOLDER/bccd"),
    ],
)
def test_one_that_needs_data_asks_for_them(name, files, monkeypatch, capsys):
    monkeypatch.delenv("DATA", raising=False)
    assert ablate.main([name, "--dry-run"]) == 2
    assert f"{name}.py: set DATA=FOLDER, with {files}" in capsys.readouterr().err


def test_finetuning_takes_every_set_of_its_folder(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("DATA", raising=False)
    assert ablate.main(["finetuning", "--dry-run"]) == 2
    assert "finetuning.py: set DATA=FOLDER, with FOLDER/NAME/train.json" in capsys.readouterr().err
    monkeypatch.setenv("DATA", str(tmp_path))
    assert ablate.main(["finetuning", "--dry-run"]) == 2
    assert f"DATA={tmp_path}: no folder in it has a train.json and images/" in capsys.readouterr().err
    for name in ("cats", "dogs"):
        (tmp_path / name / "images").mkdir(parents=True)
        (tmp_path / name / "train.json").touch()
    data = load_ablation(FILES["finetuning"])[0].data
    assert set(data) == {"cats", "dogs"} and f"data.val.images={tmp_path}/dogs/images" in data["dogs"]


def test_clef_is_that_of_the_recurrences():
    """Both train the same detector on the same data, `clef` at twice the rate; its default is the quick start's."""
    ours, theirs = (
        {run.variant: to_plain(run.config) for run in plan_of(name).runs if (run.data, run.seed) == ("clef", 0)}
        for name in ("clef", "recurrences")
    )
    assert len(ours) == 12 and len(shared := ours.keys() & theirs.keys()) == 10
    for variant in shared:
        theirs[variant]["optimizer"]["lr"] *= 2
        assert ours[variant] == theirs[variant]
    quickstart = to_plain(base_config("quickstart"))["detector"]
    parts = ("context", "context_source", "pool", "head")
    assert [ours["default"]["detector"][part] for part in parts] == [quickstart[part] for part in parts]


@pytest.mark.parametrize("name", ["clef", "joining"])
def test_two_staves_are_asked_where_they_are(name, monkeypatch, tmp_path):
    monkeypatch.setenv("DATA", str(tmp_path))
    assert "clef2" not in load_ablation(FILES[name])[0].data
    (tmp_path / "clef2").mkdir()
    ablation, base = load_ablation(FILES[name])
    config = load_config(base, ablation.data["clef2"])
    assert config.data.val.annotations == f"{tmp_path}/clef2/val.json" and config.detector.min_size == 256
    assert config.data.train.images == f"{tmp_path}/clef2/images" and config.schedule.epochs == 56
    assert ablation.chance == {"clef": 1 / 3, "clef2": 1 / 3}


def test_a_pretrained_backbone_is_asked_the_same_of_two_staves(monkeypatch, tmp_path):
    monkeypatch.setenv("DATA", str(tmp_path))
    assert list(load_ablation(FILES["pretrained"])[0].data) == ["clef"]
    (tmp_path / "clef2").mkdir()
    ablation, base = load_ablation(FILES["pretrained"])
    one, two = (load_config(base, ablation.data[name]) for name in ("clef", "clef2"))
    assert one.data.val.annotations == f"{tmp_path}/clef/val.json" and one.schedule.epochs == 14
    assert two.data.val.annotations == f"{tmp_path}/clef2/val.json" and two.schedule.epochs == 56
    assert (one.detector.min_size, two.detector.min_size) == (128, 256)
    assert to_plain(one.detector.regions) == to_plain(two.detector.regions)
    assert one.schedule.warmup == two.schedule.warmup == 40


def test_the_documented_example_resolves(tmp_path):
    (_, block), (_, with_choice) = python_blocks(Path(__file__).parents[2] / "docs" / "ablation.md")
    end = block.index("\n)\n")
    (tmp_path / "chosen.py").write_text(f"{with_choice}{block[:end]}\n    choice=choice,{block[end:]}")
    chosen, _ = load_ablation(tmp_path / "chosen.py")
    assert chosen.choice and len(choice_ablation(chosen, chosen.choice).variants) == 6
    (tmp_path / "mine.py").write_text(block)
    ablation, base = load_ablation(tmp_path / "mine.py")
    plan = make_plan("mine", ablation, base, tmp_path / "out")
    assert len(plan.runs) == 9 and plan.ablation.comparisons[0].variant == "gru"
    assert plan.chance("beacon") == {"AP50": 1 / 3}


def test_contexts_are_the_only_difference():
    """All variants but the data's own changes differ in `detector.context` and nowhere else."""
    plan = plan_of("context")
    ablation = plan.ablation
    plains = [ablation.run_type.plain(run.config) for run in plan.runs if (run.data, run.seed) == ("beacon", 0)]
    assert len({ablation.run_type.digest(plain["detector"].pop("context")) for plain in plains}) == len(plains) == 18
    assert len({ablation.run_type.digest(plain) for plain in plains}) == 1
