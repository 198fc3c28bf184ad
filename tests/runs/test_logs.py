"""The log of a resumed run: damaged lines are left out, and a full disk is named."""

import errno
import json
from contextlib import closing

import pytest

from detection.runs.logs import RunLog


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def written(folder):
    log = RunLog(folder)
    for epoch in range(3):
        log.update(epoch, {"loss": 1.0, "lr": 0.1})
    log.close()
    return lines(folder)


def test_half_a_line_at_the_end_is_trimmed_without_a_word(tmp_path, capsys):
    expected = written(tmp_path)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "epo')
    RunLog(tmp_path, keep_epochs=3).close()
    assert lines(tmp_path) == expected and capsys.readouterr().err == ""


@pytest.mark.parametrize("damage", ["[1]", "null", "[" * 50_000, '{"epoch": "1"}', '{"epoch": 0, "step": []}', "\0\0"])
def test_damaged_lines_are_left_out_and_counted(tmp_path, capsys, damage):
    expected = written(tmp_path)
    path = tmp_path / "log.jsonl"
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([first, damage, *rest]) + "\n")
    log = RunLog(tmp_path, keep_epochs=3)
    log.close()
    assert lines(tmp_path) == expected and log.step == 3
    assert "log.jsonl: 1 damaged lines are left out" in capsys.readouterr().err


class Full:
    """A file on a full disk."""

    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    def close(self):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_named_and_everything_is_closed(tmp_path):
    log = RunLog(tmp_path)
    log.file.close()
    log.file = Full()
    for write in (lambda: log.update(0, {"loss": 1.0}), lambda: log.evaluation(0, {"AP": 0.5}), log.close):
        with pytest.raises(OSError) as error:
            write()
        assert error.value.filename == str(tmp_path / "log.jsonl")
    assert log.board.all_writers is None


def test_events_stay_in_the_folder_that_they_began_in(tmp_path):
    run = tmp_path / "data" / "none" / "seed-3"
    run.mkdir(parents=True)
    with closing(RunLog(run)):
        pass
    assert [path.name for path in (run / "tensorboard").iterdir()] == ["data-none-seed-3"]
    moved = run.rename(tmp_path / "other")
    with closing(RunLog(moved)):
        pass
    assert [path.name for path in (moved / "tensorboard").iterdir()] == ["data-none-seed-3"]
