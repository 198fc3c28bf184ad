import os
import unicodedata

import pytest

from detection.data.image_names import absent_reason, match_names


@pytest.fixture
def folder(tmp_path):
    for name in (
        "img1.JPG",
        "sub/b.png",
        "other/b.png",
        unicodedata.normalize("NFD", "ä.png"),
        "deep/er/only.png",
        "c dé.png",
        "v1.2.tif",
        "000139.jpg",
        "frame_7_010.png",
    ):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "images"


@pytest.mark.parametrize(
    ("written", "found", "difference"),
    [
        ("images\\img1.JPG", "img1.JPG", "backslashes, a folder in front"),
        ("C:\\data\\sub\\b.png", "sub/b.png", "backslashes, a folder in front"),
        ("images/img1.JPG", "img1.JPG", "a folder in front"),
        ("img1.jpg", "img1.JPG", "another case"),
        ("ä.png", unicodedata.normalize("NFD", "ä.png"), "another Unicode form"),
        ("https://host/x/sub/b.png?size=1", "sub/b.png", "a URL"),
        ("/data/img1.jpg", "img1.JPG", "an absolute path, a folder in front, another case"),
        ("elsewhere/only.png", "deep/er/only.png", "another folder"),
        ("img1.jpg ", "img1.JPG", "spaces around it or percent-encoding"),
        ("x/c%20d%C3%A9.PNG", "c dé.png", "a folder in front, spaces around it or percent-encoding"),
        ("img1.png", "img1.JPG", "another suffix"),
        ("images/img1", "img1.JPG", "a folder in front, another suffix"),
        ("v1.2", "v1.2.tif", "another suffix"),
        ("139.jpg", "000139.jpg", "zeros in front of a number"),
        ("000000000139", "000139.jpg", "zeros in front of a number, another suffix"),
        ("x/Frame_0007_10.png", "frame_7_010.png", "a folder in front, zeros in front of a number"),
    ],
)
def test_a_name_is_matched(folder, written, found, difference):
    match = match_names(folder, [written], [0])[0]
    assert (match.name, match.difference) == (found, difference)


def test_only_unique_matches_count(folder):
    assert match_names(folder, ["b.png"], [0]) == {}
    assert match_names(folder, ["a/only.png", "b/only.png"], [0, 1]) == {}
    assert match_names(folder, ["x/img1.JPG", "img1.JPG"], [0]) == {}
    assert match_names(folder, ["none.png", "", "..", "http://[", "\ud800.png"], range(5)) == {}
    assert match_names(folder, ["1390.jpg", "39.jpg", "frame_70_10.png", "frame_7_1.png"], range(4)) == {}
    (folder / "t_0.5.png").touch()
    assert match_names(folder, ["t_0.05.png"], [0]) == {}
    (folder / "img1.txt").touch()
    (folder / "sub/only.jpg").touch()
    assert match_names(folder, ["img1.bmp"], [0])[0].name == "img1.JPG"
    assert match_names(folder, ["only.bmp", "v1"], [0, 1]) == {}


def test_a_name_whose_folder_is_there_means_no_file_of_another_folder(folder):
    for written in ("sub/only.png", "/data/SUB/only.png", "er/b.png", "sub\\img1.JPG"):
        assert match_names(folder, [written], [0]) == {}, written
    assert match_names(folder, ["er/only.png"], [0])[0].name == "deep/er/only.png"
    (folder / "sub/images").mkdir()
    (folder / "sub/images/below.png").touch()
    assert match_names(folder, ["sub/below.png"], [0])[0].name == "sub/images/below.png"
    (folder / "empty").mkdir()
    assert match_names(folder, ["empty/only.png"], [0]) == {}


def test_a_link_out_of_the_folder_is_no_match(folder, tmp_path):
    (tmp_path / "outside.png").touch()
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    assert match_names(folder, ["x/link.png"], [0]) == {}


def test_what_is_in_the_way_is_named(folder):
    os.mkfifo(folder / "pipe.png")
    assert "a pipe or device" in absent_reason(folder, "pipe.png")
    assert "a folder in" in absent_reason(folder, "sub")
    assert "is not in" in absent_reason(folder, "gone.png") and "is not in" in absent_reason(folder, "a" * 999)
