"""Drawing: images keep their content and their size, labels stay inside, colors follow names."""

import colorsys
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detection.analysis.visualize import class_color, contact_sheet, distinct_colors, draw_boxes


def gray(height: int = 400, width: int = 500) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def has_color(image: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    return (image == np.array(color, np.uint8)).all(2)


def test_box_edges_are_where_the_box_is():
    drawn = draw_boxes(gray(), np.array([[100.0, 150.0, 200.0, 300.0]]), ["cell"], colors={"cell": (255, 0, 0)})
    red = has_color(drawn, (255, 0, 0))
    assert drawn.shape == (400, 500, 3) and drawn.dtype == np.uint8
    ys, xs = np.nonzero(red[160:])
    assert (xs.min(), xs.max(), ys.max() + 160) == (100, 199, 299)
    assert red[150, 150] and not red[155:295, 105:195].any()
    assert (drawn[155:295, 105:195] == 128).all()


def test_image_is_not_changed_and_no_boxes_draw_nothing():
    image = gray()
    before = image.copy()
    draw_boxes(image, np.array([[1, 2, 30, 40]]), ["a"], [0.5])
    np.testing.assert_array_equal(image, before)
    drawn = draw_boxes(image, np.zeros((0, 4)), [], [])
    np.testing.assert_array_equal(drawn, image)
    assert drawn is not image and not np.shares_memory(drawn, image)


def test_small_images_grow_by_a_whole_factor_and_boxes_with_them():
    image = np.random.default_rng(0).integers(0, 256, (100, 128, 3), np.uint8)
    drawn = draw_boxes(image, np.zeros((0, 4)), [], min_side=384)
    assert drawn.shape == (400, 512, 3)
    np.testing.assert_array_equal(drawn[::4, ::4], image)
    assert draw_boxes(image, np.zeros((0, 4)), [], min_side=1).shape == image.shape
    red = has_color(
        draw_boxes(gray(100, 128), np.array([[50, 60, 90, 80]]), ["a"], colors={"a": (255, 0, 0)}), (255, 0, 0)
    )
    ys, xs = np.nonzero(red[250:])
    assert (xs.min(), xs.max() + 1, ys.max() + 251) == (200, 360, 320)


@settings(max_examples=40, deadline=None)
@given(
    boxes=st.lists(st.tuples(*[st.floats(-300, 700)] * 4), max_size=4),
    name=st.text(st.characters(min_codepoint=32, max_codepoint=900), min_size=1, max_size=60),
    height=st.integers(1, 60),
    width=st.integers(1, 60),
)
def test_any_box_and_any_name_can_be_drawn(boxes, name, height, width):
    drawn = draw_boxes(gray(height, width), np.array(boxes), [name] * len(boxes), [0.5] * len(boxes), min_side=64)
    factor = max(1, min(-(-64 // min(height, width)), 2048 // max(height, width)))
    assert drawn.shape == (height * factor, width * factor, 3)


def test_a_long_thin_image_is_not_enlarged_without_limit():
    assert draw_boxes(gray(1, 5000), np.zeros((0, 4)), []).shape == (1, 5000, 3)


def label_size(box: tuple[int, int, int, int]) -> tuple[int, int]:
    """Return the (height, width) of the label at a box of 40 pixels: only its rows hold more than 50 of its color."""
    drawn = draw_boxes(gray(), np.array([box]), ["platelets"], [0.5], colors={"platelets": (255, 255, 0)})
    yellow = has_color(drawn, (255, 255, 0))
    rows = yellow.sum(1) > 50
    return int(rows.sum()), int(yellow[rows].any(0).sum())


@pytest.mark.parametrize("box", [(0, 0, 40, 30), (460, 0, 500, 30), (0, 370, 40, 400), (460, 370, 500, 400)])
def test_whole_label_stays_in_the_image(box):
    """A label in a corner is as large as one in the middle: nothing of it is cut off."""
    assert label_size(box) == label_size((240, 200, 280, 230))


def test_long_names_are_shortened_to_the_image():
    drawn = draw_boxes(gray(), np.array([[10, 100, 60, 140]]), ["very " * 60], colors={})
    assert drawn.shape == (400, 500, 3)


def test_labels_of_two_equal_boxes_are_both_readable():
    box = [[100, 100, 300, 200], [100, 100, 300, 200]]
    drawn = draw_boxes(gray(), np.array(box), ["a", "b"], [0.9, 0.8], colors={"a": (255, 0, 0), "b": (0, 0, 255)})
    red, blue = has_color(drawn, (255, 0, 0)), has_color(drawn, (0, 0, 255))
    assert red[:99].sum() > 100 and not blue[:99].any()  # the better one has the better place
    assert blue[102:130, 102:290].sum() > 100


def test_the_best_score_is_drawn_on_top():
    box = np.array([[100, 100, 300, 200]] * 2)
    colors = {"good": (255, 0, 0), "bad": (0, 0, 255)}
    drawn = draw_boxes(gray(), box, ["good", "bad"], [0.9, 0.1], colors=colors)
    assert tuple(drawn[199, 200]) == colors["good"]


def test_labels_of_many_small_boxes_on_a_large_image_hide_little():
    """A photograph of 12 megapixels with 200 objects of 50 pixels, and one with a large object."""
    corners = np.random.default_rng(0).integers(0, (3900, 2900), (200, 2))
    image, colors = np.full((3000, 4000, 3), 128, np.uint8), {"a": (255, 0, 0)}
    drawn = draw_boxes(image, np.concatenate([corners, corners + 50], 1), ["a"] * 200, [0.5] * 200, colors=colors)
    assert has_color(drawn, (255, 0, 0)).mean() < 0.05 and has_color(drawn, (128, 128, 128)).mean() > 0.9
    small, large = (
        draw_boxes(image, np.array([b]), ["a"], colors=colors) for b in ([9, 999, 59, 1049], [9, 999, 2e3, 2e3])
    )
    assert has_color(large, (255, 0, 0))[:990].sum() > 4 * has_color(small, (255, 0, 0))[:990].sum()


def test_a_class_named_after_a_color_has_it():
    assert class_color("red") == (255, 0, 0) and class_color("Blue") == (0, 0, 255)
    Image.new("RGB", (1, 1), "red")  # Pillow replaces the text of a color that it has used by numbers
    assert class_color("red") == (255, 0, 0)
    colors = distinct_colors(["red", "dog", "cat"])
    assert colors["red"] == (255, 0, 0) and len(set(colors.values())) == 3


def test_colors_follow_names():
    assert class_color("dog") == class_color("dog") != class_color("cat")
    script = "from detection.analysis.visualize import class_color; print(class_color('dog'))"
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(class_color("dog"))
    names = [f"class {index}" for index in range(80)]
    palette = distinct_colors(names)
    assert len(set(palette.values())) == 80 and palette == distinct_colors(names[::-1])
    assert distinct_colors([]) == {}


def test_wrong_lengths_are_an_error():
    with pytest.raises(ValueError, match="1 boxes, 2 labels"):
        draw_boxes(gray(), np.array([[0, 0, 5, 5]]), ["a", "b"])
    with pytest.raises(ValueError):
        draw_boxes(gray(), np.array([[0, 0, 5, 5]]), ["a"], [])
    with pytest.raises(ValueError):
        contact_sheet([], 3)


def test_images_side_by_side_are_complete():
    left, right = np.full((90, 120, 3), 10, np.uint8), np.full((60, 80, 3), 200, np.uint8)
    sheet = contact_sheet([left, right], columns=2, titles=("ground truth", "detections"))
    assert has_color(sheet, (10,) * 3).sum() >= 90 * 120 and has_color(sheet, (200,) * 3).sum() >= 60 * 80
    assert sheet[0, 0].tolist() == [255] * 3 and sheet.shape[1] == 2 * 120 + 3 * 8


def test_contact_sheet_holds_every_image_in_order():
    images = [np.full((20 + 5 * index, 40 - 5 * index, 3), 10 * index, np.uint8) for index in range(5)]
    sheet = contact_sheet(images, columns=3, gap=4)
    assert sheet.shape == (2 * (40 + 4) + 4, 3 * (40 + 4) + 4, 3)
    for index, image in enumerate(images):
        x, y = 4 + index % 3 * 44, 4 + index // 3 * 44
        np.testing.assert_array_equal(sheet[y : y + image.shape[0], x : x + image.shape[1]], image)
    assert contact_sheet(images[:2], columns=9, gap=0).shape == (25, 80, 3)


def test_importing_it_loads_no_torch():
    script = "import sys, detection.analysis.visualize; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_no_other_class_has_the_hue_of_a_class_named_by_a_color():
    names = ["RBC", "WBC", "Platelets", "dog", "cat", "person", "red", "bus", "gray"]
    colors = distinct_colors(names)
    assert set(colors) == set(names) and colors["red"] == (255, 0, 0) and colors["gray"] == (128, 128, 128)
    hues = {name: colorsys.rgb_to_hsv(*color)[0] for name, color in colors.items() if name not in ("red", "gray")}
    assert min(min(hue, 1 - hue) for hue in hues.values()) > 0.05
    ordered = sorted(hues.values())
    assert min(b - a for a, b in zip(ordered, ordered[1:], strict=False)) > 0.05
