import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detection.data.coco_index import load_index
from detection.data.dataset import DetectionDataset
from detection.data.repeat_factors import draw_repeats, epoch_length, repeat_factors
from detection.data.sampling import TrainBatches
from tests.coco_files import small, write


def naive_factors(images, threshold):
    """Gupta et al. 2019, Appendix B: f_c of images, r_c, and the largest r_c of each image."""
    classes = set().union(*images)
    of_class = {c: max(1.0, (threshold / (sum(c in image for image in images) / len(images))) ** 0.5) for c in classes}
    return [max((of_class[c] for c in image), default=1.0) for image in images]


@given(st.lists(st.lists(st.integers(0, 5), max_size=6), min_size=1, max_size=20), st.sampled_from([0.01, 0.3, 1.0]))
def test_factors_are_those_of_the_paper(images, threshold):
    image = np.array([i for i, labels in enumerate(images) for _ in labels], dtype=np.int64)
    label = np.array([label for labels in images for label in labels], dtype=np.int64)
    found = repeat_factors(image, label, len(images), threshold)
    np.testing.assert_allclose(found, naive_factors([set(labels) for labels in images], threshold), rtol=1e-12)


@given(st.lists(st.floats(1, 9), min_size=1, max_size=30), st.integers(0, 3), st.integers(0, 3))
def test_each_factor_is_rounded_and_the_sum_is_known(factors, seed, epoch):
    factors = np.array(factors)
    repeats = draw_repeats(factors, np.arange(len(factors)) * 7 - 30, seed, epoch)
    assert (repeats >= np.floor(factors)).all() and (repeats <= np.floor(factors) + 1).all()
    assert epoch_length(factors) - 1 <= repeats.sum() <= epoch_length(factors)
    assert abs(epoch_length(factors) - factors.sum()) < 1 + 1e-4


def test_the_fraction_is_the_frequency_and_goes_by_image_id():
    factors, ids = np.array([1.0, 1.2, 2.5, 1.9, 1.2]), np.array([-3, 10**12, 5, 6, 2**62])
    drawn = np.array([draw_repeats(factors, ids, 1, epoch) for epoch in range(2000)])
    np.testing.assert_allclose(drawn.mean(0), factors, atol=0.04)
    assert len({tuple(row) for row in drawn}) > 5
    order = [3, 0, 4, 2, 1]
    for epoch in range(20):
        assert (draw_repeats(factors[order], ids[order], 1, epoch) == drawn[epoch][order]).all()
    assert (np.array([draw_repeats(factors, ids, 2, epoch) for epoch in range(20)]) != drawn[:20]).any()


@given(st.lists(st.floats(1, 4), min_size=1, max_size=25), st.integers(1, 5), st.integers(1, 3), st.integers(0, 2))
def test_batches_hold_each_image_as_often_as_drawn(factors, batch_size, processes, epoch):
    factors, ids = np.array(factors), np.arange(len(factors)) + 100
    keys = []
    for rank in range(processes):
        batches = TrainBatches(
            len(factors), batch_size, factors=factors, image_ids=ids, num_processes=processes, rank=rank
        )
        batches.set_epoch(epoch)
        listed = list(batches)
        assert len(listed) == len(batches) == -(-epoch_length(factors) // (batch_size * processes))
        keys += [key for batch in listed for key in batch]
    assert len(set(keys)) == len(keys)  # no two appearances of an image are the same
    counts = np.bincount([position for _, position, _ in keys], minlength=len(factors))
    extra = counts - draw_repeats(factors, ids, 0, epoch)
    assert (extra >= 0).all() and extra.sum() <= batch_size * processes
    for position, count in enumerate(counts):
        assert sorted(repeat for _, p, repeat in keys if p == position) == list(range(count))


def test_batches_of_repeats_are_equal_on_one_and_two_processes_and_go_on_where_they_stopped():
    factors, ratios = np.linspace(1, 3, 30), np.linspace(0.5, 2, 30)
    given_ = {"factors": factors, "aspect_ratios": ratios, "seed": 4}
    one = list(TrainBatches(30, 6, **given_))
    two = [list(TrainBatches(30, 3, num_processes=2, rank=rank, **given_)) for rank in range(2)]
    assert one == [sum(slices, []) for slices in zip(*two, strict=True)]
    later = TrainBatches(30, 6, **given_)
    later.set_epoch(0, 3)
    assert list(later) == one[3:]
    other = TrainBatches(30, 4, **given_)
    other.set_epoch(0, 3, formed_by=6)  # two batches of 6 went before, in batches of 4
    left = [key for batch in other for key in batch]
    assert left[: 6 * (len(one) - 2)] == sum(one[2:], []) and len(set(left)) == len(left)


@pytest.mark.parametrize("name", ["factors", "image_ids"])
def test_a_wrong_number_is_refused(name):
    with pytest.raises(ValueError, match="2 .* for 3 images"):
        TrainBatches(3, 1, **{name: np.ones(2)})


def test_a_data_set_counts_classes_among_the_images_that_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTION_CACHE", str(tmp_path / "cache"))
    dataset = DetectionDataset(load_index(write(tmp_path, small())), tmp_path / "images")
    per_image = [set(dataset[position][1]["labels"].tolist()) for position in range(len(dataset))]
    np.testing.assert_allclose(dataset.repeat_factors(0.9), naive_factors(per_image, 0.9))
    kept = DetectionDataset(dataset.index, dataset.images, empty_images="drop")
    per_image = [set(kept[position][1]["labels"].tolist()) for position in range(len(kept))]
    np.testing.assert_allclose(kept.repeat_factors(1.0), naive_factors(per_image, 1.0))
