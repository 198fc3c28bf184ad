"""Controls: the widths that come nearest to a size, and the same ones again from the file that remembers them."""

from pathlib import Path

import pytest

from detection.ablation import Ablation
from detection.ablation.detectors import DETECTORS
from detection.ablation.size_matched import find_controls, find_widths, save_controls, widen
from detection.errors import UserError
from tests.ablation.coins import COINS, CoinConfig
from tests.tiny_runs import tiny_config


def area(texts):
    """The product of all numbers of the texts."""
    product = 1
    for text in texts:
        for number in text.partition("=")[2].strip("()").split(","):
            product *= int(number or 1)
    return product


@pytest.mark.parametrize("target", [33, 50, 64, 100, 1000, 31 * 32])
def test_the_nearest_of_all_factors_is_found(target):
    texts, size = widen({"a": [4, 8]}, target, area)
    steps = {(round(4 * f / 1000), round(8 * f / 1000)) for f in range(1000, 20_000)}
    assert abs(size - target) == min(abs(a * b - target) for a, b in steps)
    assert area(texts) == size and texts[0].startswith("a=(")


@pytest.mark.parametrize("target", [1_437_000, 1_999_000, 2_001_600])
def test_wide_layers_are_matched_to_a_channel(target):
    assert widen({"a": 1000}, target, lambda texts: 1000 * area(texts))[0] == (f"a={round(target / 1000)}",)


def test_several_keys_grow_together():
    assert widen({"a": 2, "b.c": 3}, 24, area) == (("a=4", "b.c=6"), 24)


def test_widths_that_do_not_count_are_refused():
    with pytest.raises(UserError, match="64 times as wide is still smaller"):
        widen({"a": 2}, 100, lambda texts: 5)


def coins(tmp_path, variants, **more):
    (tmp_path / "base.py").write_text("from tests.ablation.coins import CoinConfig\n\nconfig = CoinConfig()\n")
    return Ablation(base="base.py", variants=variants, run_type=COINS, **more), tmp_path / "base.py"


def test_larger_variants_have_a_control_and_the_others_none(tmp_path):
    variants = {
        "plain": [],
        "small": ["width=1"],
        "large": ["widths=(8, 16)"],
        "equal": ["p=0.9"],
        "hardly": ["widths=(4, 9)"],
    }
    ablation, base = coins(tmp_path, variants)
    controls, _ = find_controls(ablation, base, ["width=2"], "parameters", tmp_path / "none.json")
    assert {name: (c.name, c.overrides, c.size, c.target) for name, c in controls.items()} == {
        "large": ("plain-wide-4", ("width=4",), 48, 48)
    }


def test_what_was_found_is_found_again(tmp_path, monkeypatch):
    ablation, base = coins(tmp_path, {"plain": [], "large": ["widths=(8, 16)"]}, widen=("width", "widths"))
    path = tmp_path / "controls.json"
    controls, digest = find_controls(ablation, base, [], "parameters", path)
    save_controls(path, controls, digest)
    monkeypatch.setattr(COINS, "size", lambda config, what: 1 / 0)
    assert find_controls(ablation, base, [], "parameters", path) == (controls, digest)
    for arguments in ((["images=3"], "parameters"), ([], "flops")):
        with pytest.raises(ZeroDivisionError):
            find_controls(ablation, base, *arguments, path)
    path.write_text("{")
    with pytest.raises(ZeroDivisionError):
        find_controls(ablation, base, [], "parameters", path)


def test_widths_of_a_detector(tmp_path):
    ablation = Ablation(base="x.py", variants={"a": []})
    plain = DETECTORS.plain(tiny_config(tmp_path))
    assert find_widths(ablation, plain) == {"detector.backbone.channels": [8, 16]}
    plain["detector"]["backbone"].pop("channels")
    with pytest.raises(UserError, match="no width to widen"):
        find_widths(ablation, plain)
    with pytest.raises(UserError, match="p is 0.5"):
        find_widths(Ablation(base="x.py", variants={"a": []}, widen=("p",), run_type=COINS), COINS.plain(CoinConfig()))


@pytest.mark.parametrize("what", ["parameters", "flops"])
def test_a_detector_grows_to_a_size(tmp_path, what):
    config = tiny_config(Path("data"))
    target = DETECTORS.size(DETECTORS.override(config, ["detector.backbone.channels=(12, 24)"]), what)
    assert target > DETECTORS.size(config, what) > 0
    texts, size = widen(
        {"detector.backbone.channels": [8, 16]}, target, lambda t: DETECTORS.size(DETECTORS.override(config, t), what)
    )
    assert texts == ("detector.backbone.channels=(12, 24)",) and size == target
