"""What the runs were made with, and a warning where that was not the same for all."""

import json
from types import SimpleNamespace

from detection.ablation.report.provenance import describe_runs
from detection.reports.document import Bullets, Paragraph

ENVIRONMENT = {
    "git": {"commit": "0123456789abcdef", "changes": None},
    "versions": {"python": "3.12", "torch": "2.15"},
    "machine": {"device": "cpu", "threads": 2},
}


def plan(folder, *environments):
    """A plan of runs with these environments, None for one that tells nothing."""
    runs = []
    for number, environment in enumerate(environments):
        path = folder / str(number)
        path.mkdir(parents=True)
        if environment is not None:
            (path / "environment.json").write_text(json.dumps(environment))
        runs.append(SimpleNamespace(name=f"run {number}", folder=path))
    return SimpleNamespace(trainings=runs), {run.name for run in runs}


def test_one_environment_is_one_sentence(tmp_path):
    (block,) = describe_runs(*plan(tmp_path, ENVIRONMENT, ENVIRONMENT))
    assert block == Paragraph("All were made with commit 0123456789ab, python 3.12, torch 2.15, cpu, 2 thread(s).")


def test_several_are_kept_apart_with_a_warning(tmp_path):
    changed = {**ENVIRONMENT, "git": {"commit": "0123456789abcdef", "changes": "fedc"}}
    warning, bullets = describe_runs(*plan(tmp_path, ENVIRONMENT, changed, None))
    assert warning.warning and isinstance(bullets, Bullets) and len(bullets.items) == 3
    assert "with changes fedc" in bullets.items[1] and bullets.items[1].endswith(": run 1")
    assert "unknown environment" in bullets.items[2]


def test_every_library_that_differs_is_named(tmp_path):
    versions = ENVIRONMENT["versions"]
    others = [{**ENVIRONMENT, "versions": {**versions, **more}} for more in ({"pillow": "11"}, {"pillow": "12"}, {})]
    warning, bullets = describe_runs(*plan(tmp_path, *others))
    assert warning.warning
    assert [item.partition("torch 2.15, ")[2].partition(",")[0] for item in bullets.items] == [
        "pillow 11",
        "pillow 12",
        "pillow none",
    ]


def test_runs_that_do_not_count_are_not_described(tmp_path):
    found, _ = plan(tmp_path, ENVIRONMENT, None)
    assert len(describe_runs(found, {"run 0"})) == 1
    assert describe_runs(found, set()) == [Paragraph("There is none yet.")]


def test_a_run_that_was_resumed_was_made_with_both(tmp_path):
    entry = {**ENVIRONMENT, "epoch": 3, "versions": {"python": "3.12", "torch": "2.16", "pillow": "12"}}
    (block,) = describe_runs(*plan(tmp_path / "a", {**ENVIRONMENT, "history": [{**ENVIRONMENT, "epoch": 3}, "?"]}))
    assert block.text == "All were made with commit 0123456789ab, python 3.12, torch 2.15, cpu, 2 thread(s)."
    (block,) = describe_runs(*plan(tmp_path / "b", {**ENVIRONMENT, "history": [entry]}))
    resumed = "commit 0123456789ab, python 3.12, torch 2.16, pillow 12, cpu, 2 thread(s)"
    assert block.text.endswith(f"pillow none, cpu, 2 thread(s); resumed after 3 epochs with {resumed}.")
    warning, bullets = describe_runs(*plan(tmp_path / "c", ENVIRONMENT, {**ENVIRONMENT, "history": [entry]}))
    assert warning.warning and len(bullets.items) == 2
