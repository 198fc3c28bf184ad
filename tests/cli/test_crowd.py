"""The command that compares detectors on crowds: what it measures, names, writes, and what it refuses."""

import hashlib
import json
from pathlib import Path

import pytest
from matplotlib.image import imread

from detection.cli import crowd
from detection.data.image_identity import images_digest
from detection.evaluation.crowd import crowd_metrics
from detection.evaluation.crowd_plots import plot_runs_miss_rate, plot_runs_precision_recall
from detection.evaluation.operating_points import match_all, operating_points
from tests.evaluation.coco_sets import make_results, make_truth

PAIR = [(0, 0, 20, 20), (8, 0, 20, 20)]
TRUTH = make_truth([(i, 1, box) for i in range(1, 5) for box in PAIR], ("person",), num_images=4)
ALL = make_results([(i, 1, box, 0.9 - i / 100) for i in range(1, 5) for box in PAIR])
FIRST = make_results([(i, 1, PAIR[0], 0.9 - i / 100) for i in range(1, 5)])


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A current folder with ground_truth.json and two runs: `both` finds everybody, `one` the first of each pair."""
    monkeypatch.chdir(tmp_path)
    Path("ground_truth.json").write_text(json.dumps(TRUTH))
    for name, results in (("both", ALL), ("one", FIRST)):
        Path(name).mkdir()
        Path(name, "results.json").write_text(json.dumps(results))
        Path(name, "config.json").write_text(json.dumps({"data": {"val": {"annotations": "ground_truth.json"}}}))
    return tmp_path


def rows(text):
    """Cells of the table's rows by the name in the first."""
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    return {name: dict(zip(lines[0][1:], cells, strict=True)) for name, *cells in lines[2:]}


def refused(capsys, *arguments):
    assert crowd.main([str(a) for a in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def test_runs_are_measured_next_to_each_other(place, capsys):
    assert crowd.main(["both", "one"]) == 0
    text = capsys.readouterr().out
    table = rows(text)
    assert list(table) == ["both", "one"]
    perfect = dict.fromkeys(crowd._COLUMNS.values(), "1.000")
    assert table["both"] == perfect | {"COUNT": "0.500", "MR⁻²": "0.000"}
    one = crowd_metrics(TRUTH, FIRST)
    assert table["one"] == {column: f"{one[key]:.3f}" for key, column in crowd._COLUMNS.items()}
    assert table["one"]["overlapping"] == "0.500"
    assert "4 images, 8 ground-truth boxes, 8 of them overlapping" in text and "best on the other half" in text
    assert "do not compare" not in text


def test_the_threshold_of_the_count_may_be_given(place, capsys):
    assert crowd.main(["both", "--count-threshold=0.1"]) == 0
    text = capsys.readouterr().out
    assert rows(text)["both"]["COUNT"] == "0.000" and "at score 0.1" in text


def test_results_of_any_detector(place, capsys):
    Path("mine.json").write_text(json.dumps(FIRST))
    assert crowd.main(["both", "--results", "mine.json", "one/results.json", "--annotations=ground_truth.json"]) == 0
    table = rows(capsys.readouterr().out)
    assert list(table) == ["both", "mine", "results"] and table["mine"] == table["results"] != table["both"]


def test_equal_names_are_kept_apart_by_their_paths(place, capsys):
    arguments = ["--results", "both/results.json", "one/results.json", "--annotations=ground_truth.json"]
    assert crowd.main(arguments) == 0
    assert list(rows(capsys.readouterr().out)) == ["both/results", "one/results"]
    assert "both: named twice" in refused(capsys, "both", "both")
    assert "one/../both: named twice" in refused(capsys, "both", "one/../both")


def test_a_run_and_a_file_of_its_name_are_two(place, capsys):
    for name in ("both.json", "one.json"):
        Path(name).write_text(json.dumps(FIRST))
    Path("one/both.json").write_text(json.dumps(FIRST))
    arguments = ["both", "one", "--results", "both.json", "one/both.json", "--annotations=ground_truth.json"]
    assert crowd.main(arguments) == 0
    assert list(rows(capsys.readouterr().out)) == ["both", "one", "both.json", "one/both"]


def test_other_data_is_said_to_be_no_comparison(place, capsys):
    other = make_truth([(i, 1, PAIR[0]) for i in range(1, 5)], ("person",), num_images=4)
    Path("other.json").write_text(json.dumps(other))
    Path("one/config.json").write_text(json.dumps({"data": {"val": {"annotations": "other.json"}}}))
    assert crowd.main(["both", "one"]) == 0
    text = capsys.readouterr().out
    assert "do not compare" in text and rows(text)["one"]["overlapping"] == "n/a"
    assert crowd.main(["both", "one", "--annotations=other.json"]) == 0
    assert "do not compare" not in capsys.readouterr().out


def test_results_about_another_ground_truth_are_refused(place, capsys):
    digest = hashlib.sha256(Path("ground_truth.json").read_bytes()).hexdigest()
    Path("both/environment.json").write_text(json.dumps({"data": {"val": {"sha256": digest}}}))
    assert crowd.main(["both"]) == 0
    Path("ground_truth.json").write_text(json.dumps(TRUTH, indent=1))
    error = refused(capsys, "both", "one")
    assert "both: ground_truth.json has changed since this run" in error and "--annotations ground_truth.json" in error
    assert crowd.main(["both", "--annotations=ground_truth.json"]) == 0


def test_other_images_are_refused(place, capsys):
    digest = hashlib.sha256(Path("ground_truth.json").read_bytes()).hexdigest()
    Path("photos").mkdir()
    of_none = images_digest(Path("photos"), [image["file_name"] for image in TRUTH["images"]])
    val = {"annotations": "ground_truth.json", "sha256": digest, "image_folder": "photos", "images_sha256": of_none}
    Path("both/environment.json").write_text(json.dumps({"data": {"val": val}}))
    assert crowd.main(["both"]) == 0
    (Path("photos") / TRUTH["images"][0]["file_name"]).write_bytes(b"another")
    error = refused(capsys, "both")
    assert "both: an image in photos has changed since this run; evaluate the run again" in error


def test_numbers_and_figures_are_written(place, capsys):
    assert crowd.main(["both", "one", "--output=deep/out"]) == 0
    assert "written to deep/out" in capsys.readouterr().out
    assert sorted(p.name for p in Path("deep/out").iterdir()) == ["crowd.json", "miss_rate.png", "precision_recall.png"]
    assert json.loads(Path("deep/out/crowd.json").read_text()) == {
        "both": crowd_metrics(TRUTH, ALL), "one": crowd_metrics(TRUTH, FIRST)
    }  # fmt: skip
    for name in ("miss_rate", "precision_recall"):
        assert imread(f"deep/out/{name}.png").std() > 0.05


def lines_of(figure):
    return {str(line.get_label()).split()[0]: line.get_xydata() for line in figure.axes[0].lines}


def test_what_the_figures_draw():
    points = {name: operating_points(match_all(TRUTH, found), 4) for name, found in (("both", ALL), ("one", FIRST))}
    points["blind"] = operating_points(match_all(TRUTH, []), 4)
    lines = lines_of(plot_runs_precision_recall(points))
    assert lines["both"][-1].tolist() == [1, 1]
    assert lines["one"].tolist() == [[eighth / 8, 1] for eighth in range(5)]
    figure = plot_runs_miss_rate(points)
    axes, legend = figure.axes[0], figure.legends[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert [text.get_text() for text in legend.get_texts()] == ["both  0.000", "one  0.500", "blind  1.000"]
    lines = lines_of(figure)
    assert lines["one"][:, 1].tolist() == [eighth / 8 for eighth in (8, 7, 6, 5, 4)]
    assert lines["both"][-1].tolist() == [0.001, 0.01]
    nothing = {"nothing": operating_points(match_all(make_truth([]), []), 1)}
    for plot in (plot_runs_miss_rate, plot_runs_precision_recall):
        assert plot(nothing).axes[0].texts[0].get_text() == "no ground truth" and not plot(nothing).legends


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["run folder"]),
        (["--results", "one/results.json"], ["--annotations"]),
        (["nowhere"], ["nowhere", "not a run folder", "config.json"]),
        (["ground_truth.json"], ["ground_truth.json", "not a run folder"]),
        (["empty"], ["empty/results.json", "no such results file"]),
        (["odd"], ["odd/config.json", "--annotations"]),
        (["both", "--annotations=none.json"], ["none.json"]),
        (["both", "--results", "none.json", "--annotations=ground_truth.json"], ["none.json", "no such results file"]),
        (["both", "--count-threshold=nan"], ["--count-threshold nan: must be a finite number"]),
        (["both", "--count-threshold=-inf"], ["--count-threshold -inf: must be a finite number"]),
        (["both", "--output=ground_truth.json"], ["ground_truth.json", "must be a folder"]),
        (["both", "--output=ground_truth.json/out"], ["ground_truth.json/out", "cannot be written"]),
    ],
)
def test_what_is_refused(place, capsys, arguments, words):
    for name, config in (("empty", '{"data": {"val": {"annotations": "ground_truth.json"}}}'), ("odd", "{}")):
        Path(name).mkdir()
        Path(name, "config.json").write_text(config)
    error = refused(capsys, *arguments)
    assert all(word in error for word in words), error


def test_a_real_run_is_read(finished_run, capsys):
    assert crowd.main([str(finished_run)]) == 0
    assert list(rows(capsys.readouterr().out)) == ["finished"]
