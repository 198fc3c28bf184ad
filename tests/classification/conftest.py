import shutil

import pytest
from accelerate import Accelerator

from tests.classification.stripes import CONFIG, write_stripes


@pytest.fixture(scope="session")
def stripes(tmp_path_factory):
    """A folder of 64 training and 24 test images of 16 pixels, the test's fifth with the wrong class; read only."""
    folder = write_stripes(tmp_path_factory.mktemp("images") / "stripes")
    shutil.copy(folder / "train/standing/000.png", folder / "test/lying/004.png")
    return folder


@pytest.fixture(scope="session")
def config(stripes):
    """The settings of a small network on the stripes."""
    from detection.classification.config import load_classifier_config

    path = stripes.parent / "stripes_config.py"
    path.write_text(CONFIG)
    return load_classifier_config(path, [f"data.root={stripes}"])


@pytest.fixture(scope="session")
def run(config, tmp_path_factory):
    """A finished run folder; read only."""
    from detection.classification.training import train_classifier

    folder = tmp_path_factory.mktemp("runs") / "stripes"
    train_classifier(config, folder, Accelerator(cpu=True))
    return folder
