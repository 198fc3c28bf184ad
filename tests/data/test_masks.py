"""Masks from a COCO file to a map of labels: exact pixels, every encoding, what is refused, and the cache."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline
from pycocotools import mask as mask_api

from detection.data.coco_index import load_index
from detection.data.masks import MAX_CATEGORIES, load_masks
from detection.data.run_lengths import decode_runs, encode_runs, polygon_runs
from detection.data.semantic import IGNORED, semantic_map
from detection.errors import UserError
from tests.coco_files import small, write


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTION_CACHE", str(tmp_path / "cache"))


def rectangle(x1, y1, x2, y2):
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def run_list(binary):
    """Run lengths of a mask (H, W), column by column, background first, counted one pixel after another."""
    lengths, value = [0], 0
    for pixel in np.asarray(binary).T.ravel().tolist():
        if pixel != value:
            lengths.append(0)
            value = pixel
        lengths[-1] += 1
    return lengths


def filled(height, width, x1, y1, x2, y2):
    binary = np.zeros((height, width), np.uint8)
    binary[y1:y2, x1:x2] = 1
    return binary


def data_set(*annotations, height=12, width=20):
    """One image; each annotation is (category id, segmentation, iscrowd), its box the whole image."""
    return {
        "images": [{"id": 5, "file_name": "a.png", "width": width, "height": height}],
        "annotations": [
            {
                "id": 100 + i,
                "image_id": 5,
                "category_id": category,
                "bbox": [0, 0, width, height],
                "iscrowd": crowd,
                "segmentation": segmentation,
            }
            for i, (category, segmentation, crowd) in enumerate(annotations)
        ],
        "categories": [{"id": 9, "name": "dog"}, {"id": 3, "name": "cat"}],
    }


def painted(folder, data, source="polygons", row=0):
    index = load_index(write(folder, data, images=False))
    return semantic_map(index, load_masks(index, source), row)


binary_masks = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32)).map(
    lambda t: (np.random.default_rng(t[2]).random(t[:2]) < np.random.default_rng(t[2] + 1).random()).astype(np.uint8)
)


@settings(max_examples=200, deadline=None)
@given(binary_masks, st.integers(1, 400))
def test_run_lengths_are_pycocotools(binary, repeat):
    binary = np.repeat(binary, repeat, axis=0)  # long runs take several digits
    lengths = run_list(binary)
    text = mask_api.encode(np.asfortranarray(binary))["counts"]
    assert decode_runs(text).tolist() == lengths
    assert encode_runs(lengths, *binary.shape) == text


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=30) | st.lists(st.integers(48, 111), max_size=30).map(bytes))
def test_any_text_is_decoded_or_refused(text):
    lengths = decode_runs(text)
    if lengths is not None:
        assert lengths.min() >= 0 and lengths.sum() < 2**62
        assert set(text) <= set(range(48, 112)) and not (text[-1] - 48) & 32


@pytest.mark.parametrize("text", [b"", b"/", b"p", b"5P", b"PPPPPPP1", b"O", b"521M"])
def test_damaged_run_lengths_are_refused(text):
    """Empty; characters out of range; a digit that promises another; too many of them; negative lengths."""
    assert decode_runs(text) is None


def test_a_rectangle_covers_exactly_its_pixels(tmp_path):
    expected = np.zeros((12, 20), int)
    expected[3:8, 2:11] = 2
    expected[0:2, 15:20] = 1
    two = data_set((9, [rectangle(2, 3, 11, 8)], 0), (3, [rectangle(15, -4, 25, 2)], 0))
    result = painted(tmp_path, two)
    assert result.dtype == np.uint8 and result.flags.c_contiguous
    assert result.tolist() == expected.tolist()


def test_a_polygon_covers_the_pixels_inside(tmp_path):
    """Against matplotlib's point in polygon, for the pixels that do not touch the border."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:40, :60].reshape(2, -1)
    for _ in range(20):
        angles = np.sort(rng.random(6)) * 2 * np.pi
        corners = [30, 20] + (rng.random((6, 1)) * [28, 18] + 2) * np.stack([np.cos(angles), np.sin(angles)], 1)
        result = painted(tmp_path, data_set((3, [corners.ravel().tolist()], 0), height=40, width=60))
        samples = [(x + a, y + b) for a in np.linspace(0, 1, 6) for b in np.linspace(0, 1, 6)]
        inside = np.stack([Outline(corners).contains_points(np.stack(sample, 1)) for sample in samples])
        clear = (inside == inside[0]).all(0)
        assert (result.ravel()[clear] == inside[0][clear]).all() and clear.mean() > 0.75


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_decimals_of_the_file_are_kept_exactly(tmp_path_factory, seed):
    """Tenths of a pixel are ties of pycocotools' rounding: a coordinate off by one bit would move the border."""
    rng = np.random.default_rng(seed)
    polygons = [(rng.random(8) * 30).round(int(rng.integers(1, 4))).tolist() for _ in range(2)]
    folder = tmp_path_factory.mktemp("exact")
    expected = mask_api.decode(mask_api.merge(mask_api.frPyObjects(polygons, 25, 31)))
    assert (painted(folder, data_set((3, polygons, 0), height=25, width=31)) == expected).all()


def test_points_are_kept_to_a_thousandth_of_a_pixel(tmp_path):
    """2.01 and 4.06 thousandfold are a bit less than whole in binary."""
    data = data_set((3, [[2.01, 1.13, 4.06, 0.0004, 5, 9.9996]], 0))
    points = load_masks(load_index(write(tmp_path, data, images=False))).points
    assert points.tolist() == [[2010, 1130], [4060, 0], [5000, 10000]]


def test_all_encodings_give_the_same_map(tmp_path):
    binary = filled(12, 20, 2, 3, 11, 8)
    binary[9:11, 13:19] = 1
    counts = run_list(binary)
    compressed = mask_api.encode(np.asfortranarray(binary))["counts"].decode()
    encodings = (
        [rectangle(2, 3, 11, 8), rectangle(13, 9, 19, 11)],
        {"size": [12, 20], "counts": counts},
        {"size": [12, 20], "counts": compressed},
    )
    for segmentation in encodings:
        other = (9, [rectangle(12, 0, 20, 3)], 0)
        for data in (data_set((3, segmentation, 0), other), data_set(other, (3, segmentation, 0))):
            assert ((painted(tmp_path, data) == 1) == binary).all()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_smaller_of_two_objects_lies_on_top(tmp_path, order):
    """A large dog, a cat across its corner, and a small dog on the cat."""
    objects = [
        (9, [rectangle(0, 0, 12, 12)], 0),
        (3, [rectangle(8, 2, 18, 8)], 0),
        (9, [rectangle(10, 3, 13, 6)], 0),
    ]
    expected = np.zeros((12, 20), int)
    expected[:, :12] = 2
    expected[2:8, 8:18] = 1
    expected[3:6, 10:13] = 2
    assert painted(tmp_path, data_set(*(objects[i] for i in order))).tolist() == expected.tolist()


def test_of_equal_objects_the_later_lies_on_top(tmp_path):
    a, b = (3, [rectangle(0, 0, 6, 6)], 0), (9, [rectangle(3, 3, 9, 9)], 0)
    assert painted(tmp_path, data_set(a, b))[4, 4] == 2
    assert painted(tmp_path, data_set(b, a))[4, 4] == 1


def test_size_is_that_of_the_mask_not_of_the_box(tmp_path):
    """A ring's box is larger than the square that hides its corner; its mask is smaller."""
    ring = filled(12, 20, 0, 0, 12, 12) - filled(12, 20, 1, 1, 11, 11)
    data = data_set((9, [rectangle(0, 0, 8, 8)], 0), (3, {"size": [12, 20], "counts": run_list(ring)}, 0))
    assert (painted(tmp_path, data)[ring == 1] == 1).all()


@pytest.mark.parametrize("first", [True, False])
def test_crowd_regions_are_ignored_except_under_objects(tmp_path, first):
    crowd = (9, {"size": [12, 20], "counts": run_list(filled(12, 20, 4, 4, 8, 8))}, 1)
    cat = (3, [rectangle(0, 0, 6, 6)], 0)
    expected = np.zeros((12, 20), int)
    expected[4:8, 4:8] = IGNORED
    expected[:6, :6] = 1
    result = painted(tmp_path, data_set(crowd, cat) if first else data_set(cat, crowd))
    assert result.tolist() == expected.tolist()


def with_masks():
    """The small data set, whose annotations are not in the order of its images, with polygons one pixel wide."""
    data = small()
    for annotation in data["annotations"]:
        x = annotation["id"]
        annotation["segmentation"] = [rectangle(x, 0, x + 1, 10)]
    return data


def test_masks_follow_their_annotations(tmp_path):
    features = [painted(tmp_path, with_masks(), row=row) for row in range(3)]
    assert [m.shape for m in features] == [(30, 40), (50, 20), (10, 10)]
    found = [{int(x): int(m[0, x]) for x in np.flatnonzero(m[0])} for m in features]
    assert found == [{5: IGNORED, 6: 2}, {7: 2, 0: 1}, {}]


def test_boxes_are_masks_only_when_asked(tmp_path):
    data = small()
    expected = np.zeros((50, 20), int)
    expected[:] = 1
    expected[2:6, 1:4] = 2
    assert painted(tmp_path, data, "boxes", row=1).tolist() == expected.tolist()
    # Partly outside, and beginning in the middle of a pixel; under it, a crowd region.
    assert np.unique(painted(tmp_path, data, "boxes")[10:15, 31:]).tolist() == [2]
    assert np.unique(painted(tmp_path, data, "boxes")[:, :30]).tolist() == [IGNORED]
    with pytest.raises(UserError, match="has no 'segmentation'"):
        painted(tmp_path, data)


RLE = {"size": [12, 20], "counts": [40, 200]}
WRONG = [
    (None, "has no 'segmentation' (and 1 more): give its polygons or RLE,"),
    ([], "has no 'segmentation'"),
    ({}, "has no 'segmentation'"),
    ("polygon", "has segmentation 'polygon', which is neither polygons nor an RLE"),
    ({"counts": [240]}, "which is neither polygons nor an RLE of 'size' and 'counts'"),
    ([1, 2, 3, 4, 5, 6], "which is not a list of polygons"),
    ([[]], "which is not a list of polygons"),
    ([[1, 2, 3, 4]], "which is not a list of polygons"),
    ([[1, 2, 3, 4, 5, 6, 7]], "which is not a list of polygons"),
    ([[1, 2, 3, 4, 5, "6"]], "which is not a list of polygons"),
    ([[1, 2, 3, 4, 5, None]], "which is not a list of polygons"),
    ([[1, 2, 3, 4, 5, True]], "which is not a list of polygons"),
    ([[1, 2, 3, 4, 5, 10**400]], "which is not a list of polygons"),
    ([rectangle(1, 2, 3, 4), None], "which is not a list of polygons"),
    ([[1, 2, 3, 4, 5, float("nan")]], "with a point far outside its image, or not finite"),
    ([[1, 2, 3, 4, 5, float("inf")]], "with a point far outside its image, or not finite"),
    ([rectangle(1, 2, 3, 4), rectangle(1, 2, 3, 1e9)], "with a point far outside its image"),
    ([rectangle(-20.5, 2, 3, 4)], "with a point far outside its image"),
    ([rectangle(0, 0.25, 0.5, 0.75)], "within the first pixel, unlike its bbox: polygons are in pixels"),
    (RLE | {"size": [20, 12]}, "has a segmentation of size [20, 12], but its image's height and width are [12, 20]"),
    (RLE | {"size": None}, "has a segmentation of size None"),
    (
        RLE | {"counts": [40, 199]},
        "has segmentation counts [40, 199], which are not the run lengths of a mask of 12 x 20",
    ),
    (RLE | {"counts": [40, 201]}, "which are not the run lengths"),
    (RLE | {"counts": [-1, 241]}, "which are not the run lengths"),
    (RLE | {"counts": []}, "which are not the run lengths"),
    (RLE | {"counts": [40.0, 200]}, "which are not the run lengths"),
    (RLE | {"counts": 240}, "which are not the run lengths"),
    (RLE | {"counts": ""}, "which are not the run lengths"),
    (RLE | {"counts": "X16"}, "which are not the run lengths"),  # 40 and 6
    (RLE | {"counts": "X1h"}, "which are not the run lengths"),  # cut short
    (RLE | {"counts": "X1é"}, "which are not the run lengths"),
    (RLE | {"counts": "X1X6\ud800"}, "which are not the run lengths"),
]


@pytest.mark.parametrize(("segmentation", "expected"), WRONG)
def test_a_bad_mask_is_reported_in_one_sentence_and_only_when_asked(tmp_path, segmentation, expected):
    good = (3, [rectangle(2, 3, 11, 8)], 0)
    data = data_set(good, (9, RLE, 0), (9, segmentation, 0), good, (9, segmentation, 0))
    if segmentation is None:
        del data["annotations"][2]["segmentation"]
    index = load_index(write(tmp_path, data, images=False))
    with pytest.raises(UserError) as error:
        load_masks(index)
    sentence = str(error.value)
    assert sentence.startswith(f"{index.path}: annotation 102 ") and expected in sentence
    assert "and 1 more" in sentence and "set data.masks=boxes" in sentence
    assert sentence.endswith(".") and "\n" not in sentence
    assert [entry.name[:5] for entry in (tmp_path / "cache").iterdir()] == ["index"]
    assert semantic_map(index, load_masks(index, "boxes"), 0).min() > 0


def test_good_neighbors_of_the_bad_masks_are_taken(tmp_path):
    """The limits themselves: points one side outside, three points, the longest and shortest runs."""
    for segmentation in (
        [rectangle(-20, -12, 40, 24)],
        [[0, 0, 20, 0, 0, 12.5]],
        RLE,
        RLE | {"counts": [0, 240]},
        RLE | {"counts": [240]},
        RLE | {"counts": "X1X6"},
    ):
        painted(tmp_path, data_set((3, segmentation, 0)))
    assert painted(tmp_path, data_set((3, [rectangle(-20, -12, 40, 24)], 0))).min() == 1


def test_a_small_mask_in_the_first_pixel_is_taken(tmp_path):
    """One polygon of several, and an object as small as its mask."""
    painted(tmp_path, data_set((3, [rectangle(0, 0, 1, 1), rectangle(2, 2, 9, 9)], 0)))
    data = data_set((3, [rectangle(0, 0, 1, 1)], 0))
    data["annotations"][0]["bbox"] = [0, 0, 1, 1]
    painted(tmp_path, data)


def test_a_dropped_annotation_needs_no_mask(tmp_path):
    data = data_set((3, [rectangle(2, 3, 11, 8)], 0), (9, None, 0), (9, [rectangle(2, 3, 4, 5)], 0))
    data["annotations"][1]["bbox"] = [1, 1, 0, 0]
    index = load_index(write(tmp_path, data, images=False), bad_boxes="drop")
    result = semantic_map(index, load_masks(index), 0)
    assert result[3, 2] == 2 and result[7, 10] == 1


def test_more_classes_than_a_byte_holds_are_refused(tmp_path):
    data = data_set((3, [rectangle(2, 3, 11, 8)], 0))
    data["categories"] = [{"id": i, "name": f"c{i}"} for i in range(MAX_CATEGORIES)]
    assert painted(tmp_path, data)[3, 2] == 4
    data["categories"].append({"id": -1, "name": "one too many"})
    with pytest.raises(UserError, match=r"a.json has 255 categories, but a map of labels holds at most 254.*=none"):
        painted(tmp_path, data)


def test_masks_are_cached_apart_and_opened_memory_mapped(tmp_path, monkeypatch):
    data = with_masks()
    data["annotations"][0]["segmentation"] = {"size": [50, 20], "counts": [10, 990]}
    index = load_index(write(tmp_path, data, images=False))
    assert len(list((tmp_path / "cache").iterdir())) == 1
    expected = [semantic_map(index, load_masks(index), row).tolist() for row in range(3)]
    with monkeypatch.context() as patch:
        patch.setattr("detection.data.masks.read_annotations", None)
        masks = load_masks(index)
        load_masks(index, "boxes")
    content = pickle.dumps(masks)
    assert len(content) < 1000 and isinstance(masks.points.base, np.memmap)
    again = pickle.loads(content)
    assert isinstance(again.runs.base, np.memmap) and not again.points.flags.writeable
    assert [semantic_map(index, again, row).tolist() for row in range(3)] == expected
    folder = next(p for p in (tmp_path / "cache").iterdir() if p.name.startswith("masks"))
    (folder / "points.npy").unlink()
    with pytest.raises(UserError, match="start again to rebuild"):
        pickle.loads(content)
    assert semantic_map(index, load_masks(index), 2).tolist() == expected[2]


def test_without_a_writable_cache_masks_stay_in_memory(tmp_path):
    index = load_index(write(tmp_path, with_masks(), images=False))
    (tmp_path / "file").write_text("a file where the folder should be")
    masks = load_masks(index, cache_dir=tmp_path / "file")
    again = pickle.loads(pickle.dumps(masks))
    for row in range(3):
        expected = semantic_map(index, load_masks(index), row)
        assert (semantic_map(index, masks, row) == expected).all() and (
            semantic_map(index, again, row) == expected
        ).all()


def test_no_annotation_at_all(tmp_path):
    assert not painted(tmp_path, data_set()).any()


def test_polygon_runs_of_nothing_visible():
    assert polygon_runs([np.array(rectangle(30.0, 30, 40, 40))], 12, 20).tolist() == [240]
