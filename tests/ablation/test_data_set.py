"""Sets in a folder of the user's, as entries of an ablation's data."""

import pytest

from detection.ablation import data_folder, data_set
from detection.config import base_config, override
from detection.errors import UserError


def test_a_set_is_three_names_in_its_folder():
    data = override(base_config("quickstart"), data_set("/my data, here/cells")).data
    assert data.train.annotations == "/my data, here/cells/train.json"
    assert data.val.annotations == "/my data, here/cells/val.json"
    assert data.train.images == data.val.images == "/my data, here/cells/images"


def test_its_folder_is_below_data(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA", "sets")
    assert data_folder("cells", "cells in FOLDER/cells") == tmp_path / "sets/cells"
    monkeypatch.delenv("DATA")
    with pytest.raises(UserError, match=r"^set DATA=FOLDER, with cells in FOLDER/cells\.$"):
        data_folder("cells", "cells in FOLDER/cells")
