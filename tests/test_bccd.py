"""On the real BCCD images: `BCCD_ROOT=DIR pytest -m bccd`, DIR holding Annotations/, JPEGImages/ and ImageSets/."""

import json
import os
from pathlib import Path

import doctor
import pytest
import voc_to_coco

ROOT = Path(os.environ.get("BCCD_ROOT", ""))

pytestmark = [
    pytest.mark.bccd,
    pytest.mark.skipif("BCCD_ROOT" not in os.environ, reason="set BCCD_ROOT to the folder of the BCCD data set"),
]


@pytest.mark.parametrize(("split", "images", "degenerate"), [("train", 205, 1), ("val", 87, 1), ("test", 72, 0)])
def test_bccd_is_converted_and_fit_for_training(tmp_path, capsys, split, images, degenerate):
    arguments = [str(ROOT / "Annotations"), str(ROOT / "JPEGImages"), str(tmp_path / "out.json")]
    assert voc_to_coco.main([*arguments, "--ids", str(ROOT / f"ImageSets/Main/{split}.txt")]) == 0
    out = capsys.readouterr()
    assert (out.out + out.err).count("BloodImage_00338") + (out.out + out.err).count("BloodImage_00343") == degenerate
    data = json.loads((tmp_path / "out.json").read_text())
    assert len(data["images"]) == images
    assert [c["name"] for c in data["categories"]] == ["Platelets", "RBC", "WBC"]
    assert doctor.main([str(tmp_path / "out.json"), str(ROOT / "JPEGImages")]) == 0
