"""Data sets of ContextScenes in ablation files."""

from pathlib import Path

import pytest

from detection.ablation import scenes
from detection.config import load_config, override
from detection.errors import UserError

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.py"


def test_settings_and_a_folder_of_their_own():
    asked = scenes("distance", size=96, difficulty=6)
    base = load_config(QUICKSTART)
    config = override(base, asked)
    assert (config.data.scenes.task, config.data.scenes.size, config.data.scenes.difficulty) == ("distance", 96, 6.0)
    assert config.data.scenes.val == base.data.scenes.val
    assert config.data.train.annotations == "datasets/distance-size96-difficulty6/train.json"
    assert config.data.val.images == "datasets/distance-size96-difficulty6/val"
    assert scenes("distance", size=96, difficulty=9)[0] != asked[0] != scenes("distance", size=64, difficulty=6)[0]


def test_a_test_split_where_it_has_images():
    base = load_config(QUICKSTART)
    assert override(base, scenes("row", test=50)).data.test.annotations == "datasets/row-test50/test.json"
    assert not override(base, scenes("row", val=50)).data.test.is_given


def test_a_setting_that_there_is_not():
    with pytest.raises(UserError, match=r"scenes\('row'\): no setting 'dificulty'; they are .*difficulty"):
        scenes("row", dificulty=3)
