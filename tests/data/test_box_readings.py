import numpy as np
import pytest
from PIL import Image

from detection.data.box_readings import Placement, Reading, fits, parse_reading, to_xywh
from detection.data.images import read_image
from detection.errors import UserError

XYWH = np.array([[10.0, 20, 30, 8]])
SIZES = np.array([[100, 50]])
PLACE = Placement(SIZES, SIZES, np.ones(1, int))


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("xywh", [10, 20, 30, 8]),
        ("xyxy", [10, 20, 40, 28]),
        ("cxcywh", [25, 24, 30, 8]),
        ("yxhw", [20, 10, 8, 30]),
        ("yxyx", [20, 10, 28, 40]),
        ("xyhw", [10, 20, 8, 30]),
        ("xywh/1", [0.1, 0.4, 0.3, 0.16]),
        ("xyxy/100", [10, 40, 40, 56]),
        ("cxcywh/1", [0.25, 0.48, 0.3, 0.16]),
        ("xywh*0.5", [20, 40, 60, 16]),
    ],
)
def test_a_reading_is_converted(name, written):
    reading = parse_reading(name)
    assert reading.name == name
    np.testing.assert_allclose(to_xywh(reading, np.array([written], float), PLACE), XYWH)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_raw_boxes_follow_the_image(tmp_path, orientation):
    stored = np.zeros((50, 100, 3), np.uint8)
    stored[20:28, 10:40] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    upright = read_image(tmp_path / "a.png")
    rows, columns = np.nonzero(upright[:, :, 0])
    expected = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    place = Placement(np.array([upright.shape[1::-1]]), SIZES, np.array([orientation]))
    assert to_xywh(Reading(frame="raw"), XYWH, place)[0].tolist() == expected


def test_scaled_boxes_follow_the_listed_size():
    place = Placement(SIZES, np.array([[200, 25]]), np.ones(1, int))
    assert to_xywh(Reading(frame="scaled"), XYWH, place).tolist() == [[5, 40, 15, 16]]


@pytest.mark.parametrize("name", ["xy", "xywh/0", "xywh/x", "xyxy*", "", "raw/1", "xywh*1..5"])
def test_no_reading(name):
    with pytest.raises(UserError, match="no such reading"):
        parse_reading(name)


def test_fitting_has_slack_of_two_pixels():
    boxes = np.array([[0, 0, 102, 50], [0, 0, 103, 50], [-2, 0, 5, 5], [-3, 0, 5, 5], [1, 1, 0, 5]], float)
    assert fits(boxes, np.tile(SIZES, (5, 1))).tolist() == [True, False, True, False, False]
