"""Changes as texts: what is typed gives the part that was meant."""

from functools import partial

import pytest

from detection.cells import GRU
from detection.config import Config, from_plain, override, to_plain
from detection.config.overrides import as_overrides, as_text
from detection.context import NoContext, SpatialRNN
from detection.errors import UserError
from detection.pooling import SkipPool, Source
from tests.tiny_runs import tiny_config


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("context", partial(NoContext)),
        ("context", partial(SpatialRNN, cell=partial(GRU, reset="before"), layers=(("right", "left"), ("down", "up")))),
        ("pool", partial(SkipPool, sources=(Source(("c3",), norm="channels"), Source(("c2",))), amplitude=(1.0, 4.0))),
        ("context", None),
        ("min_size", 96),
    ],
    ids=["a class", "a part in a part", "settings that are tuples of dataclasses", "none", "a number"],
)
def test_a_value_becomes_a_text_that_gives_the_value(tmp_path, key, value):
    config = tiny_config(tmp_path, "detector.max_size=96")
    (text,) = as_overrides({f"detector.{key}": value}, "variants['a']")
    plain = to_plain(config)
    plain["detector"][key] = to_plain(value)
    assert to_plain(override(config, [text])) == to_plain(from_plain(plain, Config))


def test_texts_are_short():
    assert as_text(partial(NoContext), "k") == as_text(NoContext, "k") == "detection.context.NoContext"
    assert as_text(partial(SpatialRNN, cell=GRU), "k") == as_text(partial(SpatialRNN, cell=partial(GRU)), "k")
    given = as_text(partial(SpatialRNN, hidden_channels=8), "k")
    assert given == "{'class': 'detection.context.SpatialRNN', 'hidden_channels': 8}"
    assert as_text("c4", "k") == "c4" and as_text(0.5, "k") == "0.5"
    assert as_overrides(["schedule.epochs=2"], "k") == ("schedule.epochs=2",)


def test_what_is_no_change_is_refused():
    for wrong, word in (({"a": object()}, "object"), ([1], "list")):
        with pytest.raises(UserError, match=word):
            as_overrides(wrong, "variants['a']")
