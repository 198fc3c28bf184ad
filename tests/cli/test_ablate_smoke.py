"""`configs/ablations/smoke.py` as its users run it: four trainings of detectors, and the whole report."""

import csv
from pathlib import Path

from detection.cli import ablate

SMOKE = Path(__file__).parents[2] / "configs" / "ablations" / "smoke.py"


def test_smoke(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert ablate.main([str(SMOKE), "--cost-rounds=2"]) == 0
    text, output = capsys.readouterr().out, Path("runs/ablations/smoke")
    assert text.count("finished in") == 4 and "missing" not in text
    with (output / "report.csv").open() as file:
        means = {row["variant"]: float(row["mean"]) for row in csv.DictReader(file) if row["metric"] == "AP50"}
    # Three colors to choose from, of which a ring's own row has one.
    assert means["none"] < 0.5 < means["accumulator"]
    names = {path.name for path in output.iterdir()}
    assert names >= {"report.md", "report.html", "report.csv", "differences-row.png", "costs-row.png", "costs.json"}
    page = (output / "report.html").read_text()
    assert page.count("<img") == 2 and 'src="http' not in page and "<script" not in page and "<link" not in page
    assert "## Costs" in (output / "report.md").read_text()

    assert ablate.main([str(SMOKE), "--cost-rounds=2"]) == 0
    text = capsys.readouterr().out
    assert text.count("finished before") == 4 and "at work" not in text and "measuring costs" not in text
