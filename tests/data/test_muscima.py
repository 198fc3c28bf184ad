"""Sets of MUSCIMA++ from a page written here: two staves of three lines, their clefs, and note heads."""

import json

import numpy as np
import pytest
from PIL import Image

from detection.cli.muscima import main
from detection.data.muscima import read_page
from detection.data.muscima_to_coco import COMMONEST, systems

NAME = "CVC-MUSCIMA_W-{:02d}_N-{:02d}_D-ideal.xml"


def crop_object(id_, name, left, top, width, height, links=(), runs=None):
    runs = runs or f"1:{width * height}"
    return (
        f"<CropObject><Id>{id_}</Id><ClassName>{name}</ClassName><Top>{top}</Top><Left>{left}</Left>"
        f"<Width>{width}</Width><Height>{height}</Height><Mask>{runs}</Mask>"
        f"<Outlinks>{' '.join(map(str, links))}</Outlinks></CropObject>"
    )


def staff(id_, top):
    """A staff that begins at x = 100, of one line of ink in its middle."""
    return [
        crop_object(id_, "staff", 100, top, 1500, 120),
        crop_object(id_ + 1, "staff_line", 100, top + 60, 1500, 2),
    ]


def head(id_, left, top, on, **settings):
    return crop_object(id_, "notehead-full", left, top, 20, 16, (on,), **settings)


PAGE = [
    *staff(10, 300),
    *staff(20, 540),
    crop_object(1, "g-clef", 120, 310, 40, 90, (10,)),
    crop_object(2, "c-clef", 500, 310, 40, 90, (10,)),
    crop_object(3, "f-clef", 124, 550, 40, 90, (20,)),
    head(30, 105, 340, 10),  # before the clef: unknown
    head(31, 300, 340, 10),
    head(32, 600, 341, 10, runs="0:100 1:220"),  # after the change, and its first five rows are empty
    head(33, 300, 580, 20),
    head(34, 700, 410, 20),  # of the lower staff, in the upper one's window
    head(35, 724, 340, 10),  # half inside of the window, but its middle is
    crop_object(40, "staff_grouping", 90, 300, 1510, 360, (10, 20)),
    crop_object(41, "dynamics_text", 200, 420, 100, 20),
]


def write_pages(folder, page=PAGE, names=((1, 1), (2, 8))):
    folder.mkdir()
    for writer, piece in names:
        text = f"<CropObjectList><CropObjects>{''.join(page)}</CropObjects></CropObjectList>"
        (folder / NAME.format(writer, piece)).write_text(text, encoding="utf-8")
    return folder


def draw(tmp_path, *options, **pages):
    """The JSON of the training split, by image name without writer and piece, and the folder."""
    out = tmp_path / "out"
    assert main([str(write_pages(tmp_path / "pages", **pages)), str(out), *options]) == 0
    data = json.loads((out / "train.json").read_text())
    names = {image["id"]: image["file_name"] for image in data["images"]}
    found = {name: [] for name in names.values()}
    for item in data["annotations"]:
        found[names[item["image_id"]]].append(item)
    return found, out


def labels(items):
    """Class, or 0 for a region to ignore, and left edge, from left to right."""
    return sorted((item["bbox"][0], 0 if item["iscrowd"] else item["category_id"]) for item in items)


def test_clef_is_the_last_one_to_the_left_on_the_head_s_staff(tmp_path, capsys):
    found, _ = draw(tmp_path)
    # The window begins at 120 − 24 = 96; categories are g, f, c.
    upper, lower = found["W-01_N-01_s10.png"], found["W-01_N-01_s20.png"]
    assert labels(upper) == [(4.5, 0), (102.0, 1), (252.0, 3), (302.0, 0), (314.0, 3)]
    assert labels(lower) == [(100.0, 2)]
    assert (
        "2 images, 4 boxes (note-in-g-clef 1, note-in-f-clef 1, note-in-c-clef 2), 2 regions" in capsys.readouterr().out
    )


def test_boxes_and_masks_by_hand(tmp_path):
    found, out = draw(tmp_path)
    by_left = {item["bbox"][0]: item for item in found["W-01_N-01_s10.png"]}
    # The window's top is 300 + 60 − 128 = 232: (341 − 232) / 2 = 54.5.
    changed = by_left[252.0]
    assert changed["bbox"] == [252.0, 54.5, 10.0, 8.0]
    # Rows 346 … 356 hold ink, halved rows 57 … 62.
    assert changed["area"] == 60.0
    mask = np.zeros(changed["segmentation"]["size"], bool).flatten(order="F")
    edges = np.cumsum(changed["segmentation"]["counts"])
    for start, stop in zip(edges[::2], edges[1::2], strict=False):
        mask[start:stop] = True
    rows, columns = np.nonzero(mask.reshape(changed["segmentation"]["size"], order="F"))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (57, 62, 252, 261)
    clipped = by_left[314.0]
    assert clipped["bbox"] == [314.0, 54.0, 6.0, 8.0] and clipped["area"] == 48.0
    image = np.asarray(Image.open(out / "images" / "W-01_N-01_s10.png"))
    assert image.shape == (128, 320) and image.dtype == np.uint8
    assert (image[64, 2:] == 0).all(), "the staff line, two rows of the page"
    assert (image[64, :2] == 255).all(), "before the staff"
    assert image[57, 253] == 0 and image[56, 253] == 255
    assert (image[94:104, 60:80] == 255).all(), "texts as groups of letters are no ink"


def test_two_staves_with_different_clefs(tmp_path):
    found, _ = draw(tmp_path, "--set", "clef2")
    (items,) = found.values()
    # Centered between 300 and 660: from 480 − 256 = 224.
    assert labels(items) == [(4.5, 0), (102.0, 1), (102.0, 2), (252.0, 3), (302.0, 2), (314.0, 3)]
    assert {tuple(i["bbox"][1:2]) for i in items} == {(58.0,), (58.5,), (93.0,), (178.0,)}


def test_systems_of_two_staves_need_a_change_of_clef(tmp_path):
    found, _ = draw(tmp_path, "--set", "system")
    (items,) = found.values()
    assert len(items) == 6
    page = read_page(
        write_pages(tmp_path / "more", [line for line in PAGE if "c-clef" not in line]) / NAME.format(1, 1)
    )
    assert not list(systems(page))


def test_systems_that_begin_with_the_same_staff_have_names_of_their_own(tmp_path):
    more = [
        *staff(50, 780),
        crop_object(4, "g-clef", 124, 790, 40, 90, (50,)),
        crop_object(42, "staff_grouping", 90, 300, 1510, 600, (10, 20, 50)),
    ]
    found, out = draw(tmp_path, "--set", "system", page=[*PAGE, *more])
    assert list(found) == ["W-01_N-01_s10.png", "W-01_N-01_s10-2.png"]
    images = json.loads((out / "train.json").read_text())["images"]
    assert [i["height"] for i in images] == [244, 364]
    assert all(Image.open(out / "images" / i["file_name"]).size == (i["width"], i["height"]) for i in images)


def test_symbols_are_of_their_own_class(tmp_path):
    found, _ = draw(tmp_path, "--set", "symbols")
    assert {i["category_id"] for items in found.values() for i in items} == {COMMONEST.index("notehead-full") + 1}


def test_splits_share_no_piece_and_where_asked_no_writer(tmp_path, capsys):
    names = ((1, 8), (2, 8), (2, 1), (1, 1))
    found, out = draw(tmp_path, "--split", "writers", names=names)
    assert all(name.startswith("W-02_N-01") for name in found)
    val = json.loads((out / "val.json").read_text())
    assert all(image["file_name"].startswith("W-01_N-08") for image in val["images"])
    printed = capsys.readouterr().out
    assert "writers in both splits: 0" in printed and "different splits: 4" in printed
    (tmp_path / "other").mkdir()
    draw(tmp_path / "other", names=names)
    assert "writers in both splits: 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        (
            [*PAGE, crop_object(90, "stem", 0, 0, 4, 4, runs="1:3")],
            "Id 90: Mask: its runs have 3 pixels, and Width × Height is 4 × 4; download",
        ),
        ([*PAGE, crop_object(90, "stem", 0, 0, 4, 4, runs="x")], "Id 90: Mask: is not run lengths"),
        ([*PAGE, crop_object(90, "stem", 0, 0, 4, 4, runs="1:9" + 15 * "0")], f"have 9{15 * '0'} pixels"),
        ([*PAGE, crop_object(90, "stem", 0, 0, 4, 4, runs="1:9" + 30 * "0")], "Id 90: Mask: is not run lengths"),
        ([crop_object("a", "stem", 0, 0, 4, 4)], "Id a: Id: 'a' is no integer"),
        ([crop_object("", "stem", 0, 0, 4, 4)], "CropObject 0 (from 0): has no Id"),
        ([*PAGE, crop_object(90, "stem", 0, 0, "", 4, runs="1:4")], "Id 90: has no Width"),
        ([*PAGE, crop_object(90, "stem", 0, 0, 4, 4, runs=" ")], "Id 90: has no Mask"),
        ([*PAGE, crop_object(90, "stem", 0, 0, 4, 4, ("x",))], "Id 90: Outlinks: 'x' is no integer"),
        ([*PAGE, crop_object(90, "", 0, 0, 4, 4)], "Id 90: has no ClassName"),
        ([crop_object(1, "stem", -3, 0, 0, 4, runs="1:1")], "Id 1: its box has Top 0, Left -3, Width 0, Height 4: Top"),
        ([*staff(1, 0), *staff(2, 300)], "two objects have the Id 2"),
        ([], "holds no CropObject"),
        (["<"], "no readable XML"),
        (staff(10, 300), "nothing to draw for train: no clef (g-clef, f-clef, c-clef) links to any of the 1 staves"),
        ([head(1, 300, 300, 9)], "none of its 1 pages has a staff; give the folder cropobjects_withstaff"),
        ([*staff(10, 300), crop_object(1, "g-clef", 120, 310, 40, 90, (10,))], "has a note head behind a clef; give"),
    ],
)
def test_pages_that_cannot_be_read_are_a_sentence_and_leave_nothing(tmp_path, capsys, page, sentence):
    pages = write_pages(tmp_path / "pages", page)
    assert main([str(pages), str(tmp_path / "out")]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_two_files_of_one_page_are_refused(tmp_path, capsys):
    """MUSCIMA++ comes with the same pages in several folders, whose images would replace each other."""
    pages = write_pages(tmp_path / "pages")
    write_pages(pages / "withstaff")
    assert main([str(pages), str(tmp_path / "out")]) == 2
    assert "is a second file of writer 1, piece 1; give a folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_set_that_no_page_has_is_said(tmp_path, capsys):
    page = [item.replace("c-clef", "dot") for item in PAGE]
    pages = write_pages(tmp_path / "pages", page)
    assert main([str(pages), str(tmp_path / "out"), "--set=system"]) == 2
    expected = "none of its 1 pages has a system of three staves or more, or with a change of clef; give the folder"
    assert expected in capsys.readouterr().err
    assert main([str(write_pages(tmp_path / "one", names=[(1, 1)])), str(tmp_path / "out")]) == 2
    assert "for val: no page is of its pieces and writers; give the folder with all" in capsys.readouterr().err


def test_what_is_not_drawn_is_counted(tmp_path, capsys):
    pages = write_pages(tmp_path / "pages")
    write_pages(tmp_path / "other", [item.replace("f-clef", "fClef") for item in PAGE], names=[(2, 2)])
    write_pages(tmp_path / "none", staff(10, 300), names=[(3, 1)])
    for folder in ("other", "none"):
        (tmp_path / folder).rename(pages / folder)
    assert main([str(pages), str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "staves that no clef links to, of 7: 2\n" in text
    assert "pages of which nothing is drawn, of 4: 1 (W-03_N-01)\n" in text


@pytest.mark.parametrize("target", [".", "link"])
def test_an_empty_folder_may_be_the_current_one_or_behind_a_link(tmp_path, monkeypatch, target):
    pages, empty = write_pages(tmp_path / "pages"), tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "link").symlink_to(empty)
    monkeypatch.chdir(empty if target == "." else tmp_path)
    assert main([str(pages), target]) == 0
    assert {path.name for path in empty.iterdir()} == {"images", "train.json", "val.json"}
    assert (tmp_path / "link").is_symlink()


def test_folders_in_the_way(tmp_path, capsys):
    pages = write_pages(tmp_path / "pages")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    assert main([str(pages), str(tmp_path / "out")]) == 2
    assert "exists already and is not an empty folder; choose another OUT." in capsys.readouterr().err
    assert main([str(tmp_path / "none"), str(tmp_path / "new")]) == 2
    assert "is no folder" in capsys.readouterr().err
