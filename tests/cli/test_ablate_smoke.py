"""`configs/ablations/smoke.py` as its users run it: four trainings of detectors, and the whole report."""

import csv
from pathlib import Path

import pytest

from detection.cli import ablate


def test_a_shipped_name_is_planned_in_an_empty_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert ablate.main(["smoke", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "4 runs" and all(line.startswith("detection train ") for line in lines[1:])
    assert "--output runs/ablations/smoke/runs/row/none/seed-0 " in lines[1] and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_smoke(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert ablate.main(["smoke", "--cost-rounds=2"]) == 0
    text, output = capsys.readouterr().out, Path("runs/ablations/smoke")
    assert text.count("finished in") == 4 and "missing" not in text
    with (output / "report.csv").open() as file:
        means = {row["variant"]: float(row["mean"]) for row in csv.DictReader(file) if row["metric"] == "AP50"}
    # Three colors to choose from, of which a ring's own row has one.
    assert means["none"] < 0.5 < means["accumulator"]
    names = {path.name for path in output.iterdir()}
    assert names >= {"report.md", "report.html", "report.csv", "costs.json"}
    assert names >= {"differences-row.png", "seeds-row.png", "costs-row.png"}
    page = (output / "report.html").read_text()
    assert page.count("<img") == 4 and 'src="http' not in page and "<script" not in page and "<link" not in page
    assert "## Costs" in (output / "report.md").read_text()

    assert ablate.main(["smoke", "--cost-rounds=2"]) == 0
    text = capsys.readouterr().out
    assert text.count("finished before") == 4 and "running" not in text and "measuring costs" not in text
