"""Names are shown so that they cannot act: each place gets what it can hold, and nothing raises."""

import csv
import io
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from matplotlib.cbook import is_math_text

from detection.names import (
    csv_name,
    file_stem,
    plot_name,
    short_name,
    short_names,
    shorten,
    unique_stems,
    visible,
)
from tests.hostile_names import KINDS, hostile_names


@pytest.mark.parametrize("names", [KINDS, pytest.param(hostile_names(450), marks=pytest.mark.slow)])
def test_every_name_can_be_shown_everywhere(names):
    for name in names:
        for shown in (visible(name), short_name(name), plot_name(name), csv_name(name), file_stem(name)):
            assert shown.isprintable() and shown.encode() is not None
        assert 0 < len(short_name(name)) <= 40 and len(plot_name(name).replace("\\$", "$")) <= 25
        assert not is_math_text(plot_name(name)) and not plot_name(name).startswith("_")
        assert not csv_name(name).lstrip().startswith(("=", "+", "-", "@"))
        stem = file_stem(name)
        assert len(stem.encode()) <= 161 and not set('<>:"/\\|?*') & set(stem) and stem[0] not in "-. "[:2]
        assert Path(stem).name == stem
    assert len(set(unique_stems([*names, *names]))) == 2 * len(names)
    assert len(set(short_names(names))) == len(names)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("dog", "dog"),
        ("Ünï 中", "Ünï 中"),
        ("\x1b[1m", r"\x1b[1m"),
        ("a\nb", r"a\nb"),
        ("\u202eabc", r"\u202eabc"),
        ("\ud800", r"\ud800"),
        ("", "''"),
        ("n" * 100, "n" * 26 + "…" + "n" * 13),
    ],
)
def test_a_name_is_visible_and_short(name, shown):
    assert short_name(name) == shown


def test_the_end_of_a_long_text_is_kept():
    assert shorten("abcdefghij", 7) == "abcd…ij" and shorten("abcdefg", 7) == "abcdefg"


def test_names_that_look_the_same_are_numbered():
    long = "n" * 50
    assert short_names([long, "n" * 60, "a", "b"]) == [short_name(long), f"{short_name(long)} (2)", "a", "b"]


def test_formulas_are_text_in_a_spreadsheet_and_other_names_are_as_they_were():
    assert csv_name("=1+1") == "'=1+1" and csv_name("-seg") == "'-seg" and csv_name("a-b") == "a-b"
    file = io.StringIO()
    csv.writer(file).writerows([[csv_name(name)] for name in KINDS])
    assert len(file.getvalue().splitlines()) == len(KINDS)


def test_a_dollar_is_drawn_and_starts_no_formula():
    assert plot_name("$x^2$") == r"\$x^2\$" and plot_name("_a") == " _a"


def test_characters_without_a_glyph_are_escaped_in_plots():
    assert plot_name("中") == r"\u4e2d" and plot_name("é") == "é"


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a b", "a b"), ("../x", "__x"), ("CON", "_CON"), (".hidden", "_hidden"), ("-rf", "_rf"), ("", "_"), ("a.", "a")],
)
def test_names_of_files(name, stem):
    assert file_stem(name) == stem


def test_equal_stems_are_numbered_whatever_case_and_composition():
    composed = unicodedata.normalize("NFD", "é")
    stems = unique_stems(["x/a.png", "y/A.png", "x/a-2.png", "a.jpg", "é.png", f"{composed}.png"])
    assert stems == ["a", "A-2", "a-2-2", "a-3", "é", "é-2"]


def test_many_equal_stems_take_no_time():
    assert unique_stems(["0001.jpg"] * 20_000)[-1] == "0001-20000"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_errors_are_printed_in_any_encoding(encoding):
    script = (
        "from detection.errors import UserError, command_line\n"
        "def fail():\n    print('\\u4e2d \\ud800')\n"
        "    raise UserError('a\\x1b[31m \\u4e2d \\ud800\\n' + 'n' * 10000)\n"
        "raise SystemExit(command_line(fail)())"
    )
    env = {"PYTHONIOENCODING": encoding, "PATH": ""}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=env)
    assert done.returncode == 2 and b"\x1b" not in done.stderr and b"Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(rb"error: a\x1b[31m ") and len(line) < 2100
