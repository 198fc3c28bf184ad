"""The command that lays finished runs side by side: figures, what a run saved, images, and what it refuses."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection.cli import compare
from detection.comparison.comparison import image_differences, open_finished
from detection.data.image_identity import images_digest
from detection.evaluation.coco import coco_metrics
from tests.evaluation.coco_sets import make_results, make_truth

LEFT, RIGHT = (2, 2, 24, 24), (34, 30, 24, 24)
TRUTH = make_truth([(i, 1 + i % 2, box) for i in range(1, 5) for box in (LEFT, RIGHT)], num_images=4, size=(64, 64))


def found(image, box, score, wrong=False):
    return image, 1 + (image + wrong) % 2, box, score


# Image 1: `context` saves RIGHT, of which `plain` says the wrong class; image 2: it loses LEFT; 3 and 4: even.
PLAIN = [found(1, LEFT, 0.9), found(1, RIGHT, 0.95, wrong=True), found(2, LEFT, 0.9), found(2, RIGHT, 0.9)]
CONTEXT = [found(1, LEFT, 0.9), found(1, RIGHT, 0.9), found(2, RIGHT, 0.9)]
EVEN = [found(i, box, 0.9) for i in (3, 4) for box in (LEFT, RIGHT)] + [found(4, (40, 2, 9, 9), 0.1)]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A current folder with images, ground_truth.json, and the runs `a/plain` and `a/context` on it."""
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    rng = np.random.default_rng(0)
    for image in TRUTH["images"]:
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(f"images/{image['file_name']}")
    Path("ground_truth.json").write_text(json.dumps(TRUTH))
    digest = hashlib.sha256(Path("ground_truth.json").read_bytes()).hexdigest()
    for name, rows in (("plain", PLAIN), ("context", CONTEXT)):
        folder = Path("a", name)
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(make_results(rows + EVEN)))
        val = {"annotations": "ground_truth.json", "images": "images"}
        (folder / "config.json").write_text(json.dumps({"context": name, "data": {"val": val}, "seed": 0}))
        (folder / "environment.json").write_text(json.dumps({"data": {"val": {"sha256": digest}}}))
    return tmp_path


def refused(capsys, *arguments):
    assert compare.main([str(a) for a in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


def rows(text):
    """Cells of all tables' rows by the name in the first."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {name: cells for name, *cells in lines}


def test_figures_next_to_each_other(capsys):
    assert compare.main(["a/plain", "a/context"]) == 0
    text = capsys.readouterr().out
    table = rows(text)
    metrics = [coco_metrics(TRUTH, make_results(r + EVEN)) for r in (PLAIN, CONTEXT)]
    assert table["metric"] == ["plain", "context", "context − plain"]
    for name in ("AP", "AP50", "AP75", "APs"):
        assert table[name][:2] == [f"{m[name]:.3f}" for m in metrics]
    assert table["APl"] == ["n/a", "n/a", "n/a"]
    assert table["cat"][1] == f"{metrics[1]['per_class']['cat']['AP50']:.3f}"
    assert re.fullmatch(r"[+−]0\.\d{3} \[−0\.\d{3}, \+0\.\d{3}\]", table["AP50"][2]), table["AP50"]
    apart = metrics[1]["per_class"]["dog"]["AP50"] - metrics[0]["per_class"]["dog"]["AP50"]
    assert apart > 0.1 and table["dog"][2].startswith(f"+{apart:.3f} [")
    assert "about these trained networks" in text and "An asterisk marks an interval that excludes 0;" in text
    # Of AP, AP50, AP75 and APs; the classes are on two of the four images, and large and medium objects on none.
    assert "0.2 of the 4 intervals below would have one by chance" in text
    assert table["dog"][2].endswith("] (too few images)")


def test_kinds_of_error(capsys):
    """`plain` calls one object by the wrong class, `context` misses one."""
    pytest.importorskip("hotcoco")
    assert compare.main(["a/plain", "a/context"]) == 0
    table = rows(capsys.readouterr().out)
    assert table["AP50 gained without errors of the kind"] == ["plain", "context"]
    assert float(table["wrong class"][0]) > 0.1 and table["wrong class"][1] == "+0.000"
    assert table["missed"][0] == "+0.000" and float(table["missed"][1]) > 0.1


def test_a_difference_without_an_interval_is_not_a_missing_metric(capsys):
    """The only dog is found by one of two runs, in every sample of the images that has it."""
    truth = {**TRUTH, "annotations": [a for a in TRUTH["annotations"] if a["category_id"] == 1 or a["id"] == 1]}
    (dog,) = (a for a in truth["annotations"] if a["category_id"] == 2)
    Path("ground_truth.json").write_text(json.dumps(truth))
    for name, rows_of in (("plain", []), ("context", [(dog["image_id"], 2, dog["bbox"], 0.9)])):
        Path("a", name, "environment.json").unlink()
        Path("a", name, "results.json").write_text(json.dumps(make_results(rows_of)))
    assert compare.main(["a/plain", "a/context"]) == 0
    table = rows(capsys.readouterr().out)
    assert table["dog"] == ["0.000", "1.000", "no interval"] and table["APl"][2] == "n/a"


def test_a_run_and_its_copy_do_not_differ(capsys):
    shutil.copytree("a/plain", "b/plain")
    assert compare.main(["a/plain", "b/plain", "--output=out"]) == 0
    table = rows(capsys.readouterr().out)
    assert table["metric"] == ["a/plain", "b/plain", "b/plain − a/plain"]
    assert [table[name][2] for name in ("AP", "AP50")] == ["0 [0, 0]"] * 2
    assert [table[name][2] for name in ("cat", "dog")] == ["0 [0, 0] (too few images)"] * 2
    text = Path("out/comparison.md").read_text()
    assert "Their settings are the same" in text and "even on 4" in text
    assert [p.name for p in sorted(Path("out").iterdir())] == ["comparison.html", "comparison.md"]


def test_what_a_run_saved_and_lost():
    plain, context = (open_finished(Path("a", name), name) for name in ("plain", "context"))
    assert plain.threshold == context.threshold == 0.9
    ranked = image_differences(plain, context)
    assert [(d.position, d.gained, d.lost, d.false_positives, d.gain) for d in ranked] == [
        (0, (1,), (), (1, 0), (1, 1)),
        (2, (), (), (0, 0), (0, 0)),
        (3, (), (), (0, 0), (0, 0)),
        (1, (), (2,), (0, 0), (-1, 0)),
    ]
    mirrored = image_differences(context, plain)
    assert [d.gain for d in mirrored] == [(1, 0), (0, 0), (0, 0), (-1, -1)] and mirrored[-1].lost == (1,)


def test_an_object_that_is_called_everything_is_not_found():
    """`guess` says both classes of RIGHT on image 1, the wrong one louder; on image 2 the right one is louder."""
    rows = [found(1, LEFT, 0.9), found(1, RIGHT, 0.8), found(1, RIGHT, 0.81, wrong=True)]
    rows += [found(2, LEFT, 0.9), found(2, RIGHT, 0.8), found(2, RIGHT, 0.79, wrong=True)]
    shutil.copytree("a/plain", "a/guess")
    Path("a/guess/results.json").write_text(json.dumps(make_results(rows + EVEN)))
    guess, context = (open_finished(Path("a", name), name) for name in ("guess", "context"))
    assert guess.threshold == 0.8
    found_more = {d.position: (d.gained, d.lost) for d in image_differences(guess, context)}
    assert found_more == {0: ((1,), ()), 1: ((), (2,)), 2: ((), ()), 3: ((), ())}


def test_the_images_on_which_they_differ_most_are_drawn(capsys):
    assert compare.main(["a/plain", "a/context", "--output=deep/out"]) == 0
    assert "written to deep/out/comparison.html" in capsys.readouterr().out
    text, page = (Path(f"deep/out/comparison.{ending}").read_text() for ending in ("md", "html"))
    assert '- context="context" instead of "plain"' in text and "at the score of its best F1 (0.9 and 0.9)" in text
    assert "objects that context alone finds: 1, that plain alone finds: 1; false positives 1 → 0" in text
    better, worse = text.split("Where context is better")[1].split("Where context is worse")
    assert "![1.png: objects gained 1, lost 0; false positives 1 → 0](2-plain-context-1.png)" in better
    assert "![2.png: objects gained 0, lost 1" in worse and "3.png" not in text
    assert page.count("data:image/png;base64,") == 2
    image = np.asarray(Image.open("deep/out/2-plain-context-1.png"))
    height, width = image.shape[:2]
    assert width > 2.5 * height and image.std() > 20


def test_drawings_of_wide_images_are_in_a_column(capsys):
    rng = np.random.default_rng(0)
    for image in TRUTH["images"]:
        Image.fromarray(rng.integers(0, 255, (32, 64, 3), dtype=np.uint8)).save(f"images/{image['file_name']}")
    assert compare.main(["a/plain", "a/context", "--output=out"]) == 0
    width, height = Image.open("out/2-plain-context-1.png").size
    assert height > 1.3 * width
    assert compare.main(["a/plain", "a/context", "--output=none", "--images=0"]) == 0
    assert list(Path("none").glob("*.png")) == []


def test_the_worst_image_comes_first(capsys):
    """`worse` loses one object on image 3 and two on image 4."""
    shutil.copytree("a/plain", "a/worse")
    rows = [r for r in PLAIN + EVEN if r[0] < 3 or (r[0] == 3 and r[2] == LEFT)]
    Path("a/worse/results.json").write_text(json.dumps(make_results(rows)))
    assert compare.main(["a/plain", "a/worse", "--output=out", "--images=1"]) == 0
    text = Path("out/comparison.md").read_text()
    assert "![4.png: objects gained 0, lost 2" in text and "3.png" not in text


def test_three_runs_are_held_to_the_first(capsys):
    shutil.copytree("a/plain", "a/again")
    assert compare.main(["a/plain", "a/context", "a/again", "--output=out"]) == 0
    head = rows(capsys.readouterr().out)["metric"]
    assert head == ["plain", "context", "context − plain", "again", "again − plain"]
    assert Path("out/comparison.md").read_text().count("against plain") == 2


def test_a_real_run_is_read(finished_run, tmp_path, capsys):
    copy = shutil.copytree(finished_run, tmp_path / "copy")
    assert compare.main([str(finished_run), str(copy)]) == 0
    metrics = json.loads((finished_run / "metrics.json").read_text())
    assert rows(capsys.readouterr().out)["AP50"] == [f"{metrics['AP50']:.3f}"] * 2 + ["0 [0, 0]"]


def other_truth():
    Path("other.json").write_text(json.dumps(TRUTH, indent=1))
    Path("a/context/config.json").write_text(json.dumps({"data": {"val": {"annotations": "other.json"}}}))
    Path("a/context/environment.json").unlink()


def other_images(key="images_sha256"):
    for name in ("plain", "context"):
        path = Path("a", name, "environment.json")
        content = json.loads(path.read_text())
        content["data"]["val"][key] = name
        path.write_text(json.dumps(content))


def test_versions_of_libraries_that_differ_are_a_warning(capsys):
    for name, pillow in (("plain", "11.0"), ("context", "12.0")):
        path = Path("a", name, "environment.json")
        content = {**json.loads(path.read_text()), "versions": {"torch": "2.15", "pillow": pillow}}
        path.write_text(json.dumps(content))
    assert compare.main(["a/plain", "a/context", "--output=out"]) == 0
    for text in (capsys.readouterr().out, Path("out/comparison.md").read_text()):
        assert "not all made with the same versions" in text and "- pillow: 11.0 (plain), 12.0 (context)" in text
        assert "torch" not in text


def test_versions_that_a_resume_changed_are_a_warning(capsys):
    for name in ("plain", "context"):
        path = Path("a", name, "environment.json")
        history = [{"versions": {"torch": "2.15", "pillow": "12.0"}}, "damaged"]
        content = {**json.loads(path.read_text()), "versions": {"torch": "2.15", "pillow": "11.0"}, "history": history}
        path.write_text(json.dumps(content))
    assert compare.main(["a/plain", "a/context"]) == 0
    assert "- pillow: 11.0, then 12.0 (plain), 11.0, then 12.0 (context)" in capsys.readouterr().out


BAD = {
    "one run": (lambda: None, ["a/plain"], ["two runs"]),
    "twice": (lambda: None, ["a/plain", "a/../a/plain"], ["named twice"]),
    "nowhere": (lambda: None, ["a/plain", "nowhere"], ["nowhere", "not a run folder"]),
    "not ended": (lambda: Path("a/context/results.json").unlink(), [], ["a/context/results.json", "no such"]),
    "odd config": (lambda: Path("a/context/config.json").write_text("{}"), [], ["a/context/config.json", "'data'"]),
    "changed": (
        lambda: Path("ground_truth.json").write_text(json.dumps(TRUTH, indent=1)),
        [],
        ["ground_truth.json has changed"],
    ),
    "other data": (other_truth, [], ["evaluated on different data, their annotations differ", "other.json"]),
    "other images": (other_images, [], ["evaluated on different data, their images differ (images, images)"]),
    "no image": (lambda: Path("images/1.png").unlink(), ["--output=out"], ["1.png"]),
    "negative": (lambda: None, ["--images=-1"], ["--images -1"]),
    "a file": (lambda: None, ["--output=ground_truth.json"], ["ground_truth.json", "must be a folder"]),
}


@pytest.mark.parametrize(("change", "arguments", "words"), BAD.values(), ids=list(BAD))
def test_what_is_refused(place, capsys, change, arguments, words):
    change()
    before = set(place.rglob("*"))
    runs = [] if any(not a.startswith("--") for a in arguments) else ["a/plain", "a/context"]
    error = refused(capsys, *runs, *arguments)
    assert all(word in error for word in words), error
    assert set(place.rglob("*")) == before


def test_the_test_split(capsys):
    """Its own annotations and results; one image less."""
    truth = {**TRUTH, "images": TRUTH["images"][:3]}
    truth["annotations"] = [a for a in TRUTH["annotations"] if a["image_id"] < 4]
    Path("test.json").write_text(json.dumps(truth))
    for name, found_there in (("plain", PLAIN), ("context", CONTEXT)):
        folder = Path("a", name)
        config = json.loads((folder / "config.json").read_text())
        config["data"]["test"] = {"annotations": "test.json", "images": "images"}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "test").mkdir()
        rows_there = [row for row in found_there + EVEN if row[0] < 4]
        (folder / "test/results.json").write_text(json.dumps(make_results(rows_there)))
    assert compare.main(["a/plain", "a/context", "--split=test", "--output=out"]) == 0
    assert "3 images" in capsys.readouterr().out
    assert "![1.png: objects gained 1" in Path("out/comparison.md").read_text()
    assert compare.main(["a/plain", "a/context"]) == 0
    assert "4 images" in capsys.readouterr().out
    config = json.loads(Path("a/context/config.json").read_text())
    del config["data"]["test"]
    Path("a/context/config.json").write_text(json.dumps(config))
    error = refused(capsys, "a/plain", "a/context", "--split=test")
    assert "--split test: a/context has no test split" in error


def test_images_that_have_changed(capsys):
    environment = Path("a/plain/environment.json")
    record = json.loads(environment.read_text())
    names = [image["file_name"] for image in TRUTH["images"]]
    digest = images_digest(Path("images"), names)
    record["data"]["val"] |= {"annotations": "ground_truth.json", "image_folder": "images", "images_sha256": digest}
    environment.write_text(json.dumps(record))
    assert compare.main(["a/plain", "a/context"]) == 0
    capsys.readouterr()
    record["data"]["val"]["images_sha256"] = "0"
    environment.write_text(json.dumps(record))
    assert "a/plain: an image in images has changed since this run" in refused(capsys, "a/plain", "a/context")


def test_figures_of_long_names_are_of_their_own_run(capsys):
    name = "n" * 170
    for end in "12":
        shutil.copytree("a/context", f"a/{name}{end}")
    assert compare.main(["a/plain", f"a/{name}1", f"a/{name}2", "--output=out", "--images=1"]) == 0
    assert len(list(Path("out").glob("*.png"))) == 4
