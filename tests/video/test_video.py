"""Videos: every frame is detected on and drawn; what is odd, cut or unreadable in a file is named and counted."""

import csv
from pathlib import Path

import numpy as np
import pytest

from detection.analysis.visualize import distinct_colors
from detection.errors import UserError
from detection.video import writing
from detection.video.prediction import predict_videos
from detection.video.reading import count_frames, open_video
from detection.video.writing import FilmWriter
from tests.video.films import CATEGORIES, Exact, frame, square, turn, write_film


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()


def predict(*paths, batch_size=4):
    predictor = Exact()
    summaries = predict_videos(predictor, [Path(path) for path in paths], Path("out"), batch_size)
    with open("out/detections.csv", newline="") as file:
        return predictor, summaries, list(csv.DictReader(file))


def frames_of(path):
    with open_video(Path(path)) as video:
        return [f.pixels for f in video.frames()]


def boxes_of(rows):
    return np.array([[float(row[key]) for key in ("x1", "y1", "x2", "y2")] for row in rows])


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_every_frame_is_detected_on_and_drawn(suffix):
    path = write_film(Path(f"film{suffix}"), 11)
    predictor, (summary,), rows = predict(path)
    assert predictor.batches == [4, 4, 3] and summary.frames == summary.expected == 11
    assert (summary.problem, summary.notes, summary.drawn) == ("", [], "film.mp4")
    assert summary.detections == {"dog": 11} and [int(row["frame"]) for row in rows] == list(range(11))
    assert [float(row["time"]) for row in rows] == pytest.approx([n / 12.5 for n in range(11)], abs=2e-3)
    assert {(row["file"], row["label"], row["score"]) for row in rows} == {(path.name, "dog", "1.0")}
    np.testing.assert_allclose(boxes_of(rows), [square(n, 160, 120) for n in range(11)], atol=2)
    drawn = frames_of("out/videos/film.mp4")
    assert len(drawn) == 11 and all(pixels.shape == (120, 160, 3) for pixels in drawn)
    x0, y0, _, y1 = square(10, 160, 120)
    edge = drawn[10][(y0 + y1) // 2, x0 - 1 : x0 + 2].astype(int)
    assert np.abs(edge - distinct_colors([c.name for c in CATEGORIES])["dog"]).sum(1).min() < 150
    assert sorted(p.name for p in Path("out").rglob("*")) == ["detections.csv", "film.mp4", "videos"]


@pytest.mark.parametrize(("width", "height", "added"), [(161, 120, "1 column"), (161, 121, "1 column and 1 row")])
def test_an_odd_size_is_padded_and_that_is_reported(width, height, added):
    film = FilmWriter(Path("out"), "odd", 10)
    for n in range(5):
        film.write(frame(n, width, height))
    film.finish()
    assert film.path == Path("out/odd.mp4") and film.padding == (width % 2, height % 2)
    assert count_frames(film.path) == (5, (height + height % 2, width + width % 2))
    first = frames_of(film.path)[0].astype(int)
    assert np.abs(first[:height, :width] - frame(0, width, height)).mean() < 12
    assert np.abs(first[:, -1] - first[:, -2]).mean() < 12, "the edge is repeated"


def test_metadata_turn_the_frames():
    write_film(Path("turned.mp4"), 6)
    turn(Path("turned.mp4"))
    _, (summary,), rows = predict("turned.mp4")
    assert any("turned by 90 degrees" in note or "turned by 270 degrees" in note for note in summary.notes)
    assert count_frames(Path("out/videos/turned.mp4")) == (6, (160, 120))
    found = boxes_of(rows)
    assert np.allclose(found[:, 2:] - found[:, :2], (24, 32), atol=3), "the square is upright where the film is"


@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
def test_of_a_cut_file_what_can_be_read_is_drawn_and_counted(suffix):
    path = write_film(Path(f"cut{suffix}"), 40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    _, (summary,), rows = predict(path)
    assert summary.expected == 40 and 5 < summary.frames == len(rows) < 35
    assert f"{summary.frames} of the 40 frames" in summary.problem and "cut short" in summary.problem
    assert count_frames(Path("out/videos/cut.mp4"))[0] == summary.frames


def test_files_that_cannot_be_opened_are_named_and_the_others_go_on():
    good = write_film(Path("good.mp4"), 3)
    short = Path("short.mp4")
    short.write_bytes(good.read_bytes()[:-200])
    Path("empty.mp4").touch()
    Path("noise.mp4").write_bytes(bytes(range(256)) * 40)
    unknown = write_film(Path("unknown.avi"), 3)
    unknown.write_bytes(unknown.read_bytes().replace(b"MJPG", b"zz9y"))
    _, summaries, rows = predict("short.mp4", "empty.mp4", "noise.mp4", "unknown.avi", "gone.mp4", "good.mp4")
    words = ("its index at the end", "is empty", "is no video", "codec", "cannot be read", "")
    for summary, word in zip(summaries, words, strict=True):
        assert word in summary.problem and bool(word) == bool(summary.problem) == (not summary.drawn), summary.problem
        assert not summary.problem or summary.problem.count(str(summary.path)) == 1
    assert len(rows) == 3 and [p.name for p in Path("out/videos").iterdir()] == ["good.mp4"]


def test_equal_names_and_strange_ones_stay_apart():
    names = ["a/film.mp4", "b/film.mp4", "100%d.mp4", "ünï ☃.mp4"]
    for name in names:
        Path(name).parent.mkdir(exist_ok=True)
        write_film(Path("plain.mp4"), 2).rename(name)
    _, summaries, rows = predict(*names)
    assert [s.drawn for s in summaries] == ["film.mp4", "film-2.mp4", "100%d.mp4", "ünï ☃.mp4"]
    assert [row["file"] for row in rows[::2]] == names
    assert sorted(p.name for p in Path("out/videos").iterdir()) == sorted(s.drawn for s in summaries)


def test_the_next_codec_is_taken_where_one_fails(monkeypatch):
    monkeypatch.setattr(writing, "CODECS", (("zz9y", ".mp4"), ("avc1", ".mp4"), ("MJPG", ".avi")))
    film = FilmWriter(Path("out"), "film", 25)
    film.write(frame(0, 64, 64))
    film.finish()
    if film.codec != "avc1":  # where OpenCV has H.264, that is right, too
        assert (film.path, film.codec) == (Path("out/film.avi"), "MJPG")
    monkeypatch.setattr(writing, "CODECS", (("zz9y", ".mp4"),))
    with pytest.raises(UserError, match="a film of 64x64 pixels cannot be written here .tried zz9y."):
        FilmWriter(Path("out"), "other", 25).write(frame(0, 64, 64))


def test_frames_that_are_missing_in_the_written_film_are_an_error(monkeypatch):
    film = FilmWriter(Path("out"), "film", 25)
    for n in range(3):
        film.write(frame(n, 64, 64))
    film.written += 2
    with pytest.raises(UserError, match="3 of 5 frames are in the written film"):
        film.finish()
    film.discard()
    assert not list(Path("out").iterdir())
