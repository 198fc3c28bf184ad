"""The replaced context: by hand, by property, and a detector made by hand whose class comes from its context alone."""

import pytest
import torch

from detection.analysis.context_use import CONTEXT_SOURCES, ReplacedContext, context_use, context_use_table
from detection.atomic_write import write_json
from detection.cli import evaluate
from detection.contracts import Context
from detection.data.coco_index import load_index
from detection.detector import build_detector
from detection.runs.checkpoint import save_checkpoint
from detection.runs.folder import config_json
from detection.testing import check_context
from tests.tiny_runs import tiny_config


class Doubled(Context):
    """Twice the feature map, inside of the valid locations."""

    def __init__(self, in_channels):
        super().__init__()
        self.out_channels = in_channels

    def forward(self, x, valid):
        return 2 * x * valid


def batch(*sizes, channels=2, seed=0):
    """Feature maps of these valid sizes in one padded batch, whose padding is noise."""
    generator = torch.Generator().manual_seed(seed)
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    x = torch.rand(len(sizes), channels, height, width, generator=generator)
    valid = torch.zeros(len(sizes), 1, height, width, dtype=torch.bool)
    for mask, (h, w) in zip(valid, sizes, strict=True):
        mask[:, :h, :w] = True
    return x, valid


def test_the_mean_keeps_the_contract():
    check_context(lambda channels: ReplacedContext(Doubled(channels), "mean"))


def test_zeros_and_the_mean_over_valid_locations():
    x, valid = batch((2, 3), (4, 2))
    assert torch.equal(ReplacedContext(Doubled(2), "none")(x, valid), torch.zeros_like(x))
    sizes = (2, 3), (4, 2), (1, 1)
    x, valid = batch(*sizes)
    mean = ReplacedContext(Doubled(2), "mean")(x, valid)
    for image, source, (h, w) in zip(mean, x, sizes, strict=True):
        expected = torch.zeros_like(source)
        expected[:, :h, :w] = 2 * source[:, :h, :w].mean((1, 2), keepdim=True)
        torch.testing.assert_close(image, expected)


def test_every_image_gets_the_one_before_in_its_own_size():
    x, valid = batch((2, 3), (4, 2), (4, 2))
    y = ReplacedContext(Doubled(2), "other")(x, valid)
    assert torch.equal(y[2], 2 * x[1] * valid[1]) and torch.equal(y[0], 2 * x[0] * valid[0])
    resized = torch.nn.functional.interpolate(2 * x[:1, :, :2, :3], (4, 2), mode="bilinear")[0]
    torch.testing.assert_close(y[1, :, :, :2], resized)
    assert (y[~valid.expand_as(y)] == 0).all()


def test_padding_does_not_leak():
    x, valid = batch((2, 3), (4, 2), (3, 3))
    for source in CONTEXT_SOURCES:
        noise = torch.where(valid, x, 100.0)
        assert torch.equal(*(ReplacedContext(Doubled(2), source)(z, valid) for z in (x, noise)))


@pytest.mark.parametrize("parts", [(1, 1, 1, 1), (3, 1), (1, 3)])
@pytest.mark.parametrize("passes", [1, 2])
def test_batches_do_not_matter(parts, passes):
    """Images in other batches get the same; with two passes the mirrored images get mirrored ones."""
    sizes = [(2, 3), (4, 2), (3, 3), (4, 3)]
    x, valid = batch(*sizes)
    replaced, alone = (ReplacedContext(Doubled(2), "other", passes) for _ in range(2))
    for context in (replaced, alone):
        for z in (x, -x)[:passes]:  # the predecessor of the first
            assert torch.equal(context(z[3:], valid[3:]), 2 * z[3:] * valid[3:])  # which keeps its own
    together = [replaced(z, valid) for z in (x, -x)[:passes]]
    found = []
    for own, mask in zip(x.split(parts), valid.split(parts), strict=True):
        found.append([alone(z, mask) for z in (own, -own)[:passes]])
    for whole, *pieces in zip(together, *found, strict=True):
        torch.testing.assert_close(whole, torch.cat(pieces))
    if passes == 2:
        torch.testing.assert_close(together[1], -together[0])


def test_half_precision_and_images_without_any_location():
    x, valid = batch((2, 3), (4, 2))
    for source in CONTEXT_SOURCES:
        y = ReplacedContext(Doubled(2), source)(x.bfloat16(), valid)
        assert y.dtype == torch.bfloat16 and y.isfinite().all()
    valid[0] = False
    for source in CONTEXT_SOURCES:
        y = ReplacedContext(Doubled(2), source)(x, valid)
        assert y.isfinite().all() and (y[0] == 0).all()
    assert (y[1] == 0).all(), "zeros for what had none before it"


def metrics(ap50, ap, **classes):
    return {"AP50": ap50, "AP": ap, "per_class": {k: {"AP50": a, "AP": b} for k, (a, b) in classes.items()}}


def test_drops_and_their_table():
    use = context_use(metrics(0.9, 0.5, cat=(0.8, 0.4), dog=(-1, -1)), metrics(0.3, 0.2, cat=(0.9, 0.2), dog=(-1, -1)))
    assert use["all"]["AP50"]["drop"] == pytest.approx(0.6)
    assert use["per_class"]["cat"]["AP"] == {"as_it_is": 0.4, "replaced": 0.2, "drop": 0.2}
    lines = context_use_table(use, "other").splitlines()
    assert lines[0].split("|")[3].strip() == "AP50, another's context"
    assert [cell.strip() for cell in lines[3].strip("|").split("|")] == (
        ["cat", "0.800", "0.900", "−0.100", "0.400", "0.200", "+0.200"]
    )
    assert lines[4].count("n/a") == 6


def test_a_run_without_a_context_gets_a_sentence(finished_run, capsys):
    assert evaluate.main([str(finished_run), "--context-from=other", "--device=cpu"]) == 2
    error = capsys.readouterr().err
    assert error.endswith("--context-from other: this run's detector has no context to replace.\n")
    assert not (finished_run / "evaluation-context-other").exists()


def test_no_context_in_its_slot_is_none_either(shapes, tmp_path, capsys):
    context = ("detector.context=detection.context.NoContext", "detector.context_source=c3")
    config = tiny_config(shapes, *context, "detector.pool.stages=context")
    categories = load_index(shapes / "val.json").categories
    detector = build_detector(config.detector, len(categories))
    save_checkpoint(tmp_path / "checkpoints" / "best", detector, categories, {"epoch": 1})
    write_json(tmp_path / "config.json", config_json(config))
    assert evaluate.main([str(tmp_path), "--context-from=none", "--device=cpu"]) == 2
    assert "this run's detector has no context to replace" in capsys.readouterr().err


def test_an_output_that_is_a_file_is_refused_first(finished_run, tmp_path, capsys):
    (tmp_path / "mine").write_text("mine")
    assert evaluate.main([str(finished_run), f"--output={tmp_path / 'mine'}", "--device=cpu"]) == 2
    assert f"{tmp_path / 'mine'}: is a file; give --output a folder." in capsys.readouterr().err
