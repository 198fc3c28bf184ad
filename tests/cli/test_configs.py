"""`detection configs`: what is shipped, by name, and a copy to start from."""

from pathlib import Path

import pytest

from detection.cli import configs
from detection.config.files import shipped_configs


def test_shipped_configs_are_listed_with_their_first_lines(capsys):
    assert configs.main([]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert set(lines) == set(shipped_configs()) >= {"quickstart", "finetune", "ablations/smoke"}
    assert all(len(line.split()) > 3 for line in lines.values())


@pytest.mark.parametrize("name", ["finetune", "ablations/smoke", "smoke"])
def test_a_config_is_copied_into_a_new_folder(name, tmp_path, capsys):
    assert configs.main(["copy", name, str(tmp_path / "mine")]) == 0
    (copy,) = (tmp_path / "mine").iterdir()
    source = next(path for shipped, path in shipped_configs().items() if f"/{shipped}".endswith(f"/{name}"))
    assert copy.name == f"{Path(name).name}.py" and copy.read_bytes() == source.read_bytes()
    assert capsys.readouterr().out == f"copied to {copy}\n"


def test_mistakes_get_one_sentence_and_nothing_is_written(tmp_path, capsys):
    (tmp_path / "finetune.py").write_text("mine")
    (tmp_path / "file").touch()
    for arguments, words in (
        (["copy", "finetun", str(tmp_path)], "did you mean finetune?"),
        (["copy", "finetune", str(tmp_path)], "finetune.py: exists already"),
        (["copy", "quickstart", str(tmp_path / "file" / "mine")], "file/mine: cannot be written"),
    ):
        assert configs.main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and words in error and error.count("\n") == 1
    assert (tmp_path / "finetune.py").read_text() == "mine" and len(list(tmp_path.iterdir())) == 2
