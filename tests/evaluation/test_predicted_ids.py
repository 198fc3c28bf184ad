"""Results of `detection predict`, which numbers images by the order of its arguments, against annotations."""

import json

import pytest

from detection.errors import UserError
from detection.evaluation.results import read_results
from tests.evaluation.coco_sets import make_results, make_truth

TRUTH = make_truth([], num_images=3)
BOXES = [(1, 1, (10, 10, 40, 40), 0.9), (2, 1, (1, 1, 5, 5), 0.8)]


def read(folder, names, truth=TRUTH):
    """Read results of two images that `images.json` gives these names."""
    images = [{"id": n, "file_name": name, "drawn": ""} for n, name in enumerate(names, start=1)]
    (folder / "images.json").write_text(json.dumps({"images": images, "categories": []}))
    (folder / "results.json").write_text(json.dumps(make_results(BOXES)))
    return [result["image_id"] for result in read_results(folder / "results.json", truth)]


def named(*names):
    images = [{"id": n, "file_name": name, "width": 9, "height": 9} for n, name in enumerate(names, start=1)]
    return {**TRUTH, "images": images}


def test_ids_that_are_the_annotations_own_stay(tmp_path, capsys):
    assert read(tmp_path, ["photos/1.png", "photos/2.png"]) == [1, 2]
    assert capsys.readouterr().err == ""
    assert read(tmp_path, ["b.png", "a.png"], named("", "")) == [1, 2]
    assert read(tmp_path, ["/data/val/1.png", "/data/val/2.png"], named("images/1.png", "images/2.png")) == [1, 2]


@pytest.mark.parametrize("names", [["photos/3.png", "photos/1.png"], ["3.png", "1.png"], ["/a/b/3.png", "../1.png"]])
def test_others_are_mapped_by_file_name(tmp_path, capsys, names):
    assert read(tmp_path, names) == [3, 1]
    note = f"note: {tmp_path}/results.json: its image ids are those of images.json next to it, and were mapped to "
    assert capsys.readouterr().err == note + "those of the annotations by file name\n"


def test_folders_of_file_names_count(tmp_path):
    assert read(tmp_path, ["x/b/1.png", "x/a/1.png"], named("a/1.png", "b/1.png")) == [2, 1]


@pytest.mark.parametrize(
    ("names", "truth", "words"),
    [
        (["2.png", "photos/9.png"], TRUTH, "image 2 is 'photos/9.png', which is none of the annotations' images"),
        (["2.png", "1.png"], named("a/1.png", "2.png", "b/1.png"), "image 2 is '1.png', which may be several of"),
        (["a/2.png", "b/2.png"], TRUTH, "image 2 is 'b/2.png', which is the same of the annotations' images as 1"),
    ],
)
def test_what_cannot_be_mapped_is_refused(tmp_path, names, truth, words):
    with pytest.raises(UserError) as error:
        read(tmp_path, names, truth)
    assert str(error.value).startswith(f"{tmp_path}/images.json: {words}") and "\n" not in str(error.value)


def test_results_of_an_evaluation_in_that_folder_are_not_mapped(tmp_path):
    (tmp_path / "metrics.json").write_text("{}")
    assert read(tmp_path, ["3.png", "1.png"]) == [1, 2]


@pytest.mark.parametrize("content", ["[", "[]", '{"images": 3}', '{"images": [{"id": 1, "file_name": "3.png"}]}'])
def test_an_images_json_that_predict_did_not_write(tmp_path, content):
    (tmp_path / "images.json").write_text(content)
    (tmp_path / "results.json").write_text(json.dumps(make_results(BOXES)))
    assert [result["image_id"] for result in read_results(tmp_path / "results.json", TRUTH)] == [1, 2]
