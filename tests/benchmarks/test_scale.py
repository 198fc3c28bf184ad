"""`docs/scale.md` is what its script computes."""

from pathlib import Path

import pytest

from detection.benchmarks import scale

DOCUMENT = Path(__file__).parents[2] / "docs" / "scale.md"


def test_the_document_is_computed():
    assert DOCUMENT.read_text(encoding="utf-8") == scale.document()


def test_hours_by_hand():
    """117 266 images are 29 317 batches of 4, twelve times; 8 GPUs need an eighth of the steps, rounded up."""
    coco = scale.DATA_SETS[0]
    assert scale.training_hours(coco, 1) == pytest.approx(12 * 29317 * 0.0726 / 3600)
    exchange = 2 * 7 / 8 * 41.8e6 * 4 / 300e9
    assert scale.training_hours(coco, 8) == pytest.approx(12 * 3665 * (0.0726 + exchange) / 3600)
    assert scale.ablation_hours(500, 64) == pytest.approx(8 * 378 * 0.16 / 3600)
