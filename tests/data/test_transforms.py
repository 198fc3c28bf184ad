import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from detection.config.serialization import from_plain
from detection.data.crop import GONE, KEPT, crop_window
from detection.data.semantic import IGNORED
from detection.data.transforms import Augmentation, Transform, resized_shape
from detection.errors import UserError

EVERYTHING = Augmentation(0.5, 0.5, min_sizes=(30, 45, 60), crop=0.7, photometric=0.7, jitter=0.7)
NO_LIMIT = 10_000


def _sample(height=48, width=64, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    w, h = width, height
    boxes = np.array([[0, 0, w, h], [0, 0, 5, 7], [w - 9.5, h - 3.25, w, h], [20.3, 10.1, 30.7, 30.9]], np.float32)
    return image, boxes, np.array([4, 3, 2, 1])


def _equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_nothing_to_do_changes_nothing():
    image, boxes, labels = _sample()
    assert _equal(Transform(None, 48, NO_LIMIT)(image, boxes, labels, 0)[:3], (image, boxes, labels))


def test_flips_against_slices():
    image, boxes, labels = _sample()
    x1, y1, x2, y2 = boxes.T
    h_image, h_boxes, h_labels, *_ = Transform(Augmentation(1.0), 48, NO_LIMIT)(image, boxes, labels, 0)
    assert (h_image == image[:, ::-1]).all() and (h_labels == labels).all()
    np.testing.assert_allclose(h_boxes, np.stack([64 - x2, y1, 64 - x1, y2], axis=1), atol=1e-5)
    v_image, v_boxes, *_ = Transform(Augmentation(0.0, 1.0), 48, NO_LIMIT)(image, boxes, labels, 0)
    assert (v_image == image[::-1]).all()
    np.testing.assert_allclose(v_boxes, np.stack([x1, 48 - y2, x2, 48 - y1], axis=1), atol=1e-5)


boxes_1000 = st.lists(
    st.tuples(*[st.floats(0, 990, width=32)] * 2, *[st.floats(0.5, 1000, width=32)] * 2), min_size=1, max_size=8
).map(lambda rows: np.array([[x, y, min(x + w, 1000), min(y + h, 1000)] for x, y, w, h in rows], np.float32))


@settings(max_examples=50, deadline=None)
@given(boxes_1000)
def test_flipping_twice_is_nothing(boxes):
    image, labels = np.zeros((1000, 1000, 3), np.uint8), np.arange(len(boxes))
    for augmentation in (Augmentation(1.0), Augmentation(0.0, 1.0)):
        flip = Transform(augmentation, 1000, NO_LIMIT)
        once = flip(image, boxes, labels, 0)
        image_2, boxes_2, labels_2, *_ = flip(*once[:3], 1)
        assert (labels_2 == labels).all()
        np.testing.assert_allclose(boxes_2, boxes, atol=1e-4)


def test_the_two_flips_are_independent():
    image, boxes, labels = _sample()
    transform = Transform(Augmentation(0.5, 0.5), 48, NO_LIMIT)
    variants = (image, image[:, ::-1], image[::-1], image[::-1, ::-1])
    counts = np.zeros(4, int)
    for seed in range(200):
        result = transform(image, boxes, labels, seed)[0]
        counts += [np.array_equal(result, variant) for variant in variants]
    assert counts.sum() == 200 and counts.min() > 25


@given(st.integers(1, 700), st.integers(1, 700), st.integers(1, 400), st.integers(1, 600))
@settings(deadline=None, max_examples=100)
def test_resized_shape_is_torchvisions(height, width, min_size, extra):
    import torch

    shape = resized_shape(height, width, min_size, min_size + extra)
    scale = min(min_size / min(height, width), (min_size + extra) / max(height, width))
    if min(height * scale, width * scale) < 1 or max(shape) > 1000:
        return
    resize = GeneralizedRCNNTransform(min_size, min_size + extra, [0.0], [1.0])
    assert resize.resize(torch.zeros(1, height, width))[0].shape[1:] == shape


def test_resize_is_torchvisions():
    import torch

    image, boxes, labels = _sample(61, 97)
    result, result_boxes, *_ = Transform(None, 40, 60)(image, boxes, labels, 0)
    resize = GeneralizedRCNNTransform(40, 60, [0.0] * 3, [1.0] * 3)
    target = {"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(labels)}
    expected, target = resize.resize(torch.from_numpy(image).permute(2, 0, 1).float(), target)
    assert result.shape[:2] == expected.shape[1:] == (37, 60)
    assert np.abs(result - expected.permute(1, 2, 0).numpy()).max() <= 1.01
    np.testing.assert_allclose(result_boxes, target["boxes"].numpy(), atol=1e-4)


def test_multi_scale_draws_every_size():
    image, boxes, labels = _sample()
    transform = Transform(Augmentation(0.0, min_sizes=(24, 36, 96)), 48, NO_LIMIT)
    drawn = [transform(image, boxes, labels, seed)[0].shape[0] for seed in range(60)]
    assert set(drawn) == {24, 36, 96} and min(map(drawn.count, set(drawn))) > 8


def test_photometric_keeps_boxes_and_changes_pixels():
    image, boxes, labels = _sample()
    result = Transform(Augmentation(0.0, photometric=1.0), 48, NO_LIMIT)(image, boxes, labels, 3)
    assert _equal(result[1:3], (boxes, labels)) and result[0].dtype == np.uint8
    assert (result[0] != image).mean() > 0.5


@pytest.mark.parametrize(
    "augmentation",
    [Augmentation(0.0, jitter=1.0), Augmentation(0.5, 0.5, jitter=1.0, crop=1.0), Augmentation(0.0, crop=1.0)],
)
def test_boxes_follow_their_pixels(augmentation):
    """A white rectangle on black: its box, found again in the result's pixels, is the box returned."""
    image = np.zeros((200, 300, 3), np.uint8)
    box = np.array([[120, 80, 190, 130]], np.float32)
    image[80:130, 120:190] = 255
    transform = Transform(augmentation, 200, NO_LIMIT)
    kept = 0
    for seed in range(40):
        result, boxes, *_ = transform(image, box, np.array([1]), seed)
        # The border that a jitter uncovers is filled with a middle gray.
        ys, xs = np.nonzero(result.min(axis=2) > 127.5)
        if len(boxes):
            found = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            scale = result.shape[0] / 200
            np.testing.assert_allclose(boxes[0], found, atol=1.5 * max(scale, 1) + 1)
            kept += 1
    assert kept >= 35


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**63), boxes_1000, st.integers(20, 700), st.integers(20, 700))
def test_results_are_always_valid(seed, boxes, height, width):
    boxes = boxes * np.float32([width, height, width, height]) / 1000
    boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)]
    image, labels = np.full((height, width, 3), seed % 256, np.uint8), np.arange(len(boxes))
    transform = Transform(EVERYTHING, 48, 80)
    image, boxes, labels, *_ = transform(image, boxes, labels, seed)
    h, w = image.shape[:2]
    assert image.dtype == np.uint8 and boxes.dtype == np.float32 and boxes.shape == (len(labels), 4)
    assert max(h, w) <= 80 and (boxes >= 0).all() and (boxes <= [w, h, w, h]).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all() and len(set(labels.tolist())) == len(labels)


def test_images_without_boxes():
    image = _sample()[0]
    for seed in range(20):
        _, boxes, labels, *_ = Transform(EVERYTHING, 48, 80)(
            image, np.zeros((0, 4), np.float32), np.zeros(0, int), seed
        )
        assert boxes.shape == (0, 4) and labels.shape == (0,)


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(0.5), Augmentation(0, 0.5), Augmentation(0, min_sizes=(20, 30, 40)), Augmentation(0, crop=0.5),
        Augmentation(0, photometric=0.5), Augmentation(0, jitter=0.5), EVERYTHING,
    ],
)  # fmt: skip
def test_a_result_depends_on_the_seed_only(augmentation):
    sample = _sample()
    transform = Transform(augmentation, 48, 100)
    fresh = [Transform(augmentation, 48, 100)(*sample, seed) for seed in range(6)]
    for seed in (5, 0, 3, 3, 1, 4, 2):
        np.random.seed(seed)
        assert _equal(transform(*sample, seed), fresh[seed])
        transform(*_sample(33, 40, seed), seed + 100)
    assert not all(_equal(result, fresh[0]) for result in fresh)


def test_the_input_is_not_changed():
    sample, again = _sample(), _sample()
    for seed in range(10):
        Transform(EVERYTHING, 48, 100)(*sample, seed)
    assert _equal(sample, again)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1000), boxes_1000)
def test_no_box_is_left_half_seen(seed, boxes):
    (x1, y1, x2, y2), kept = crop_window(boxes, 1000, 1000, np.random.default_rng(seed))
    assert 0 <= x1 < x2 <= 1000 and 0 <= y1 < y2 <= 1000 and min(x2 - x1, y2 - y1) >= 300 and kept.any()
    for (a, b, c, d), keep in zip(boxes.astype(float).tolist(), kept.tolist(), strict=True):
        seen = max(0, min(c, x2) - max(a, x1)) * max(0, min(d, y2) - max(b, y1)) / ((c - a) * (d - b))
        assert seen >= KEPT - 1e-9 if keep else seen <= GONE + 1e-9


def test_crops_remove_labels_with_their_boxes():
    image = np.zeros((100, 100, 3), np.uint8)
    boxes = np.array([[0, 0, 10, 10], [90, 90, 100, 100], [0, 90, 10, 100]], np.float32)
    counts = set()
    for seed in range(50):
        _, result, labels, *_ = Transform(Augmentation(0, crop=1.0), 100, NO_LIMIT)(
            image, boxes, np.array([7, 8, 9]), seed
        )
        counts.add(len(labels))
        assert len(result) == len(labels) > 0
    assert counts >= {1, 3}


@pytest.mark.parametrize("wrong", [{"crop": 1.5}, {"jitter": -0.1}, {"min_sizes": [0]}])
def test_wrong_settings_are_reported(wrong):
    with pytest.raises(UserError, match=f"^{next(iter(wrong))}.*: must be at least"):
        from_plain(wrong, Augmentation)


def _labels(height=48, width=64, seed=0):
    """A map of labels in rectangles, with ignored pixels."""
    rng = np.random.default_rng(seed)
    semantic = np.zeros((height, width), np.uint8)
    for label in (1, 2, 3, IGNORED):
        y, x = rng.integers(0, height - 12), rng.integers(0, width - 16)
        semantic[y : y + 20, x : x + 24] = label
    return semantic


@pytest.mark.parametrize("augmentation", [None, Augmentation(0.5, 0.5), EVERYTHING])
def test_a_map_of_labels_changes_no_draw(augmentation):
    image, boxes, labels = _sample()
    transform = Transform(augmentation, 40, 100)
    for seed in range(40):
        *with_map, moved, _ = transform(image, boxes, labels, seed, _labels())
        *without, nothing, _ = transform(image, boxes, labels, seed)
        assert _equal(without, with_map) and nothing is None
        assert moved.shape == with_map[0].shape[:2] and moved.dtype == np.uint8 and moved.flags.c_contiguous


@pytest.mark.parametrize("augmentation", [Augmentation(1.0), Augmentation(0.0, 1.0), Augmentation(0.5, 0.5)])
def test_flips_move_labels_with_their_pixels(augmentation):
    _, boxes, labels = _sample()
    semantic = _labels()
    for seed in range(8):
        image, _, _, moved, _ = Transform(augmentation, 48, NO_LIMIT)(
            np.repeat(semantic[:, :, None], 3, 2), boxes, labels, seed, semantic
        )
        assert (moved == image[:, :, 0]).all()
    assert augmentation.horizontal_flip < 1 or (moved == semantic[:, ::-1]).all()


def test_a_crop_cuts_the_same_window_from_labels_and_image(monkeypatch):
    """Every pixel of the image names the place that it came from."""
    places = np.zeros((48, 64, 3), np.uint8)
    places[:, :, 0], places[:, :, 1] = np.mgrid[:48, :64]
    semantic, boxes, labels = _labels(), np.array([[20, 20, 24, 24]], np.float32), np.array([1])
    monkeypatch.setattr("detection.data.transforms.resized_shape", lambda height, width, *limits: (height, width))
    sizes = set()
    for seed in range(30):
        transform = Transform(Augmentation(0.0, crop=1.0), 48, NO_LIMIT)
        image, _, _, moved, _ = transform(places, boxes, labels, seed, semantic)
        assert (moved == semantic[image[:, :, 0], image[:, :, 1]]).all()
        sizes.add(moved.shape)
    assert len(sizes) > 20


@pytest.mark.parametrize(
    "augmentation",
    [Augmentation(0.0, jitter=1.0), Augmentation(0.5, 0.5, (60, 150, 400), crop=0.5, jitter=0.7), Augmentation(0.0)],
)
def test_labels_move_like_the_image(augmentation):
    """An image of one gray a label: where it is still that pure gray, the map has the label; outside it is ignored."""
    grays = {0: 0, 1: 60, 2: 150, 3: 200, IGNORED: 250}
    _, boxes, labels = _sample(96, 128)
    transform = Transform(augmentation, 130, NO_LIMIT)
    outside = 0
    for seed in range(30):
        semantic = _labels(96, 128, seed)
        gray = np.vectorize(grays.get)(semantic).astype(np.uint8)
        image, _, _, moved, _ = transform(np.repeat(gray[:, :, None], 3, 2), boxes, labels, seed, semantic)
        pure = 0
        for label, value in grays.items():
            its = _inner((image == value).all(2))
            assert (moved[its] == label).all()
            pure += its.mean()
        filled = _inner((image == (124, 116, 104)).all(2))
        assert (moved[filled] == IGNORED).all()
        outside += filled.any()
        assert pure + filled.mean() > 0.6
    assert (outside > 10) == bool(augmentation.jitter)


def _inner(where):
    """Pixels all of whose neighbors are in `where` too."""
    padded = np.pad(where, 1)
    h, w = where.shape
    return np.all([padded[y : y + h, x : x + w] for y in range(3) for x in range(3)], axis=0)


def test_labels_are_resized_to_the_nearest_pixel():
    boxes, labels = np.zeros((0, 4), np.float32), np.zeros(0, int)
    four = np.arange(16, dtype=np.uint8).reshape(4, 4)
    image = np.zeros((4, 4, 3), np.uint8)
    smaller = Transform(None, 2, NO_LIMIT)(image, boxes, labels, 0, four)[3]
    assert smaller.tolist() == [[5, 7], [13, 15]]
    larger = Transform(None, 8, NO_LIMIT)(image, boxes, labels, 0, four)[3]
    assert (larger == four.repeat(2, 0).repeat(2, 1)).all()
    third = Transform(None, 3, NO_LIMIT)(image, boxes, labels, 0, four)[3]
    assert third.tolist() == [[0, 2, 3], [8, 10, 11], [12, 14, 15]]
    again = Transform(None, 4, NO_LIMIT)(image, boxes, labels, 0, four)[3]
    assert (again == four).all()


@pytest.mark.parametrize("augmentation", [None, Augmentation(0.5, 0.5), Augmentation(0, photometric=1.0), EVERYTHING])
def test_crowd_regions_change_nothing_and_move_like_boxes(augmentation):
    image, boxes, labels = _sample()
    transform = Transform(augmentation, 40, 100)
    for seed in range(40):
        *with_crowd, ignored = transform(image, boxes, labels, seed, _labels(), boxes[[0, 3]])
        *without, nothing = transform(image, boxes, labels, seed, _labels())
        assert _equal(without, with_crowd) and nothing.shape == (0, 4)
        assert ignored.dtype == np.float32 and (ignored[:, 2:] > ignored[:, :2]).all()
        for label, of_label in zip((4, 1), ignored if len(ignored) == 2 else (), strict=False):
            # Crops keep such boxes clipped to the window, as regions are.
            for box in with_crowd[1][with_crowd[2] == label]:
                np.testing.assert_allclose(of_label, box, atol=1e-3)


def test_what_little_is_visible_of_a_crowd_region_stays():
    """A jitter leaves out a box of which less than a quarter is visible."""
    image, boxes = np.zeros((100, 100, 3), np.uint8), np.array([[0, 30, 9, 60]], np.float32)
    left_out = 0
    for seed in range(60):
        transform = Transform(Augmentation(0.0, jitter=1.0), 100, NO_LIMIT)
        _, found, _, _, ignored = transform(image, boxes, np.array([1]), seed, None, boxes)
        assert len(found) <= len(ignored) <= 1
        left_out += len(ignored) - len(found)
    assert left_out > 2


@pytest.mark.parametrize("augmentation", [Augmentation(0.5), Augmentation(0.0, 0.5), Augmentation(0.5, 0.5, crop=0.5)])
def test_flips_are_those_of_albumentations(augmentation, monkeypatch):
    """Same draws, pixels, labels and crowd regions; boxes but for the last bit."""
    transform, results = Transform(augmentation, 40, NO_LIMIT), []
    for flips in (Transform._flips, None):
        monkeypatch.setattr(Transform, "_flips", flips)
        results.append(
            [transform(*_sample(seed=n), n, _labels(seed=n), np.array([[3.0, 5, 40, 31]])) for n in range(40)]
        )
    for ours, theirs in zip(*results, strict=True):
        assert all(np.array_equal(ours[k], theirs[k]) for k in (0, 2, 3))
        for k in (1, 4):
            np.testing.assert_allclose(ours[k], theirs[k], rtol=0, atol=1e-5)
