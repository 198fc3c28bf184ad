"""Run folders: the next free name goes to one run alone."""

from accelerate import Accelerator

from detection.runs.folder import new_run_folder, taken_folder


def test_runs_started_together_get_a_folder_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    accelerator = Accelerator(cpu=True)
    chosen = [new_run_folder(None, "tiny") for _ in range(3)]
    with taken_folder(chosen[0], "tiny", accelerator) as first, taken_folder(chosen[1], "tiny", accelerator) as second:
        (first / "config.json").touch()
        with taken_folder(chosen[2], "tiny", accelerator) as third:
            assert [*map(str, chosen)] == ["runs/tiny"] * 3
            assert [*map(str, (first, second, third))] == ["runs/tiny", "runs/tiny-2", "runs/tiny-3"]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["tiny"]


def test_a_folder_that_stays_empty_is_removed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with taken_folder(new_run_folder(None, "tiny"), "tiny", Accelerator(cpu=True)) as folder:
        assert folder.is_dir() and str(folder) == "runs/tiny"
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_was_asked_for_is_taken_as_it_is(tmp_path):
    with taken_folder(tmp_path / "run", None, Accelerator(cpu=True)) as folder:
        assert folder == tmp_path / "run" and not folder.exists()
