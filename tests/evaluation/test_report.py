"""The whole evaluation as data, table and files, and the command that prints it."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from detection.analysis.visualize import distinct_colors
from detection.cli import evaluate
from detection.errors import UserError
from detection.evaluation import METRICS, evaluate_detections, metrics_table, write_evaluation
from detection.evaluation.curves import match_results
from detection.evaluation.plots import plot_confusion, plot_losses, plot_precision_recall
from tests.evaluation.coco_sets import make_results, make_truth

TRUTH = make_truth(
    [(1, 1, (10, 10, 40, 40)), (1, 2, (60, 60, 40, 40)), (2, 1, (10, 10, 50, 50)), (2, 1, (70, 0, 30, 90), True)],
    categories=("cat", "dog", "a|b"),
    num_images=2,
)
RESULTS = make_results([(1, 1, (10, 10, 40, 40), 0.9), (2, 1, (10, 10, 50, 45), 0.8), (1, 1, (60, 60, 40, 40), 0.7)])
TOOL = Path(evaluate.__file__)


def read_strict(path):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_tables_of_an_earlier_evaluation_do_not_stay(tmp_path):
    """`label_errors.csv` needs a package, which a later evaluation may lack."""
    metrics = evaluate_detections(TRUTH, RESULTS)
    (tmp_path / "plots").mkdir()
    for name in ("label_errors.csv", "plots/errors.png", "plots/mine.png"):
        (tmp_path / name).write_text("earlier")
    write_evaluation(tmp_path, TRUTH, RESULTS, metrics)
    assert not (tmp_path / "label_errors.csv").exists() and not (tmp_path / "plots/errors.png").exists()
    assert (tmp_path / "plots/mine.png").read_text() == "earlier"


class TestData:
    metrics = evaluate_detections(TRUTH, RESULTS)

    def test_keys(self):
        expected = {*METRICS, "VOC07_AP50", "VOC_AP50", "best_f1", "per_class", "images", "ground_truth", "detections"}
        assert set(self.metrics) == expected | {"backend", "notes"}

    def test_values(self):
        assert self.metrics["AP50"] == pytest.approx(0.5)
        assert self.metrics["VOC_AP50"] == self.metrics["VOC07_AP50"] == 0.5
        assert (self.metrics["images"], self.metrics["ground_truth"], self.metrics["detections"]) == (2, 3, 3)
        perfect = {"score": 0.8, "f1": 1.0, "precision": 1.0, "recall": 1.0}
        cat = self.metrics["per_class"]["cat"]
        assert cat["AP50"] == pytest.approx(1) and cat["ground_truth"] == 2 and cat["best_f1"] == perfect
        assert self.metrics["best_f1"] == {"score": 0.8, **dict.fromkeys(("f1",), pytest.approx(0.8))} | {
            "precision": 1.0,
            "recall": pytest.approx(2 / 3),
        }
        assert self.metrics["per_class"]["a|b"]["ground_truth"] == 0

    def test_backends_agree(self):
        assert evaluate_detections(TRUTH, RESULTS, "pycocotools") | {"backend": ""} == self.metrics | {"backend": ""}


class TestTable:
    def test_rows(self):
        table = metrics_table(evaluate_detections(TRUTH, RESULTS))
        rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines() if "|" in line]
        assert ["AP50", "0.500"] in rows
        assert ["APs", "n/a (no ground truth of this size)"] in rows
        assert ["best F1", "0.800 at score 0.800"] in rows
        assert ["cat", "0.950", "1.000", "1.000", "0.800", "2"] in rows
        assert ["a\\|b", *["n/a (no ground truth)"] * 3, "-", "0"] in rows
        assert "2 images, 3 ground-truth boxes, 3 detections" in table
        assert "-1" not in table

    def test_columns_line_up(self):
        lines = metrics_table(evaluate_detections(TRUTH, RESULTS)).splitlines()
        assert len({len(line) for line in lines if line.startswith("|") and "AP50" in line}) <= 2

    def test_nothing_to_find(self):
        table = metrics_table(evaluate_detections({"images": [], "annotations": [], "categories": []}, []))
        assert "| AP         | n/a (no ground truth)" in table and "| class" not in table


class TestFiles:
    def test_all_files_in_strict_json(self, tmp_path):
        output = tmp_path / "deep" / "run"
        log = tmp_path / "log.jsonl"
        log.write_text('{"step": 1, "epoch": 0, "loss": 2.0}\n{"epoch": 0, "AP": 0.1}\n')
        metrics = evaluate_detections(TRUTH, RESULTS)
        write_evaluation(output, TRUTH, RESULTS, metrics, losses_log=log)
        assert read_strict(output / "metrics.json") == metrics
        assert read_strict(output / "results.json") == RESULTS
        names = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
        plots = {f"plots/{name}.png" for name in ("precision_recall", "confusion", "losses")}
        assert names == {"metrics.json", "results.json", "confusion.csv"} | plots
        for plot in plots:
            assert imread(output / plot).std() > 0.01

    def test_no_losses_without_a_log(self, tmp_path):
        metrics = evaluate_detections(TRUTH, [])
        write_evaluation(tmp_path, TRUTH, [], metrics)
        write_evaluation(tmp_path, TRUTH, [], metrics, losses_log=tmp_path / "none.jsonl")
        assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["confusion.png", "precision_recall.png"]

    def test_a_failed_write_leaves_the_old_file(self, tmp_path):
        (tmp_path / "metrics.json").write_text("old")
        with pytest.raises(ValueError, match="JSON"):
            write_evaluation(tmp_path, TRUTH, [], evaluate_detections(TRUTH, []) | {"AP": float("nan")})
        assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
        assert (tmp_path / "metrics.json").read_text() == "old"

    def test_output_below_a_file(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match="file/run: its files cannot be written"):
            write_evaluation(tmp_path / "file" / "run", TRUTH, RESULTS, evaluate_detections(TRUTH, RESULTS))


class TestPlots:
    def test_a_line_for_each_class_with_ground_truth(self):
        metrics = evaluate_detections(TRUTH, RESULTS)
        figure = plot_precision_recall(match_results(TRUTH, RESULTS), metrics)
        lines = figure.axes[0].get_lines()
        assert [line.get_label() for line in lines] == ["cat  1.000", "dog  0.000"]
        assert np.array(lines[0].get_data()).tolist() == [[0, 0.5, 1, 1], [1, 1, 1, 2 / 3]]

    @pytest.mark.parametrize(("score", "text"), [(-1, "all scores"), (0.5, "score ≥ 0.5"), (0.9968, "score ≥ 0.9968")])
    def test_confusion_names_the_score_and_not_1_for_one_below(self, score, text):
        assert plot_confusion(match_results(TRUTH, RESULTS), score).axes[0].get_title().endswith(f", {text}")

    def test_confusion_shares_and_counts(self):
        figure = plot_confusion(match_results(TRUTH, RESULTS), 0.0)
        assert figure.axes[0].images[0].get_array().tolist()[:2] == [[1, 0, 0, 0], [1, 0, 0, 0]]
        assert [text.get_text() for text in figure.axes[0].texts] == ["2", "1"]

    @pytest.mark.parametrize("all_classes", [None, ["ant", "a|b", "cat", "dog"]])
    def test_a_class_has_its_color_on_images_in_every_figure(self, all_classes):
        matching, metrics = match_results(TRUTH, RESULTS), evaluate_detections(TRUTH, RESULTS)
        curves = plot_precision_recall(matching, metrics, all_classes).axes[0].get_lines()
        matrix = plot_confusion(matching, 0.0, all_classes).axes[0]
        expected = distinct_colors(all_classes or ["a|b", "cat", "dog"])
        for number, name in enumerate(("cat", "dog")):
            labels = matrix.get_xticklabels()[number], matrix.get_yticklabels()[number]
            assert [label.get_text() for label in labels] == [name, name]
            drawn = curves[number].get_color(), *(label.get_bbox_patch().get_facecolor() for label in labels)
            assert {tuple(round(value * 255) for value in color[:3]) for color in drawn} == {expected[name]}
        assert matrix.get_xticklabels()[-1].get_bbox_patch() is None, "background has no color"

    @pytest.mark.parametrize("num_classes", [0, 1, 21, 80])
    def test_any_number_of_classes(self, tmp_path, num_classes):
        names = [f"class {k}" for k in range(num_classes)]
        ground_truth = make_truth([(1, k + 1, (k, k, 20, 20)) for k in range(num_classes)], categories=names)
        results = make_results([(1, k + 1, (k, k, 20, 20), 0.5) for k in range(num_classes)])
        metrics = evaluate_detections(ground_truth, results)
        plot_precision_recall(match_results(ground_truth, results), metrics).savefig(tmp_path / "curve.png")
        plot_confusion(match_results(ground_truth, results), 0.0).savefig(tmp_path / "confusion.png")

    def test_losses(self, tmp_path):
        log = tmp_path / "log.jsonl"
        lines = [{"step": s, "epoch": s // 5, "loss": 2.0, "loss_classifier": 1.0, "lr": 0.1} for s in range(10)]
        lines[5:5] = [{"epoch": 0, "val_loss": 1.5, "AP": 0.1, "AP50": 0.3}]
        lines += [{"epoch": 1, "val_loss": float("nan"), "AP": 0.2, "AP50": -1}, [1], 3]
        log.write_text("\n".join(map(json.dumps, lines)) + '\nnot json\n{"step": 11, "lo')
        losses, scores = plot_losses(log).axes
        drawn = {line.get_label(): np.array(line.get_data()).T.tolist() for line in losses.get_lines()}
        assert set(drawn) == {"loss", "loss_classifier", "val_loss"}
        assert drawn["val_loss"] == [[4, 1.5]]
        assert len(drawn["loss"]) == 10
        drawn = {line.get_label(): np.array(line.get_data()).T.tolist() for line in scores.get_lines()}
        assert drawn == {"AP": [[1, 0.1], [2, 0.2]], "AP50": [[1, 0.3]]}

    def test_one_step_and_one_epoch_are_marked_as_such(self, tmp_path):
        lines = ({"step": 4, "epoch": 1, "loss": 2.0}, {"step": 4, "epoch": 1, "AP": 0.1})
        (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        losses, scores = plot_losses(tmp_path / "log.jsonl").axes
        for axes, place in ((losses, 4), (scores, 2)):
            low, high = axes.get_xlim()
            assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [place]

    def test_nothing_to_draw(self, tmp_path):
        (tmp_path / "log.jsonl").write_text("")
        assert plot_losses(tmp_path / "log.jsonl") is None

    def test_pyplot_is_left_alone(self):
        code = (
            "import sys; from detection.evaluation import plots, report; "
            "print([m for m in ('torch', 'matplotlib.pyplot') if m in sys.modules])"
        )
        assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTION_CACHE", str(tmp_path / "cache"))
    annotations, results = tmp_path / "annotations.json", tmp_path / "results.json"
    annotations.write_text(json.dumps(TRUTH))
    results.write_text(json.dumps(RESULTS))
    return {"annotations": str(annotations), "results": str(results), "folder": tmp_path}


class TestCommand:
    def test_prints_and_writes_nothing(self, files, capsys):
        before = {path.name for path in files["folder"].iterdir()}
        assert evaluate.main(["--results", files["results"], "--annotations", files["annotations"]]) == 0
        out = capsys.readouterr().out
        assert out.strip() == metrics_table(evaluate_detections(TRUTH, RESULTS, errors=True))
        assert {path.name for path in files["folder"].iterdir()} - {"cache"} == before

    def test_output_and_notes(self, files, capsys):
        Path(files["results"]).write_text("[]")
        output = files["folder"] / "out"
        argv = ["--results", files["results"], "--annotations", files["annotations"], "--output", str(output)]
        assert evaluate.main(argv) == 0
        assert "note: AP is 0: there are no detections at all" in capsys.readouterr().out
        assert read_strict(output / "metrics.json")["AP"] == 0
        assert (output / "plots" / "confusion.png").exists()

    @pytest.mark.parametrize(
        ("argv", "sentence"),
        [
            ([], "Name a run folder, or a results file by --results R.json --annotations A.json."),
            (["--results", "R"], "--results needs the ground truth too: add --annotations A.json."),
            (
                ["RUN", "--results", "R", "--annotations", "A"],
                "--results takes no run folder or config keys, but 'RUN'",
            ),
            (
                ["--results", "R", "--annotations", "A", "--device", "cpu"],
                "--device is for a run; --results needs",
            ),
            (["RUN", "--annotations", "A"], "--annotations and --images go together"),
        ],
    )
    def test_arguments_that_do_not_go_together(self, argv, sentence, capsys):
        assert evaluate.main(argv) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and sentence in error and error.count("\n") == 1

    def test_bad_results_file(self, files, capsys):
        Path(files["results"]).write_text(json.dumps(TRUTH))
        output = files["folder"] / "out"
        argv = ["--results", files["results"], "--annotations", files["annotations"], "--output", str(output)]
        assert evaluate.main(argv) == 2
        assert "this is an annotations file" in capsys.readouterr().err
        assert not output.exists()

    def test_output_is_a_file(self, files, capsys):
        argv = ["--results", files["results"], "--annotations", files["annotations"], "--output", files["results"]]
        assert evaluate.main(argv) == 2
        assert "--output must be a folder" in capsys.readouterr().err

    @pytest.mark.parametrize("name", ["results", "annotations"])
    def test_what_is_read_is_not_replaced(self, files, capsys, name):
        given = files["folder"] / "out" / ("results.json" if name == "results" else "metrics.json")
        given.parent.mkdir()
        given.write_bytes(Path(files[name]).read_bytes())
        before, files = given.read_bytes(), files | {name: str(given)}
        argv = ["--results", files["results"], "--annotations", files["annotations"]]
        assert evaluate.main([*argv, "--output", str(given.parent)]) == 2
        error = f"error: {given.parent}: {given} is read, and would be replaced; choose another --output.\n"
        assert capsys.readouterr().err == error and given.read_bytes() == before

    def test_a_run_is_handed_on(self, monkeypatch, capsys):
        seen = {}
        import detection.training.evaluate

        def evaluate_run(run, on_written, **options):
            seen.update(run=run, **options)
            return evaluate_detections(TRUTH, RESULTS)

        monkeypatch.setattr(detection.training.evaluate, "evaluate_run", evaluate_run)
        assert evaluate.main(["runs/one", "--device", "cpu", "a.b=1", "--output", "out", "c=2"]) == 0
        nothing = {"annotations": None, "images": None, "split": "val", "checkpoint": None}
        nothing |= {"context_from": None, "classes_ignored": False, "slice_by": None}
        assert (
            seen == {"run": "runs/one", "device": "cpu", "output": Path("out"), "overrides": ["a.b=1", "c=2"]} | nothing
        )
        assert "| AP50 " in capsys.readouterr().out

    def test_help_is_quick_and_imports_nothing_heavy(self):
        code = (
            f"import sys; sys.argv = ['evaluate.py', '--help']; sys.path.insert(0, {str(TOOL.parent)!r})\n"
            "import evaluate\n"
            "try: evaluate.main()\nexcept SystemExit as e: code = e.code\n"
            "print(code, [m for m in ('numpy', 'torch') if m in sys.modules])"
        )
        start = time.perf_counter()
        out = subprocess.check_output([sys.executable, "-c", code], text=True)
        assert time.perf_counter() - start < 5  # ten times what it takes, for a core that is shared
        assert out.strip().endswith("0 []")
