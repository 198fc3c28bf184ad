"""Overrides drawn over all keys, with values of each key's type within its range and just outside of it.

Each must be taken, or refused with one sentence where the config is read or the detector is built: no traceback, no
endless loop, no memory for a typing error.
"""

import dataclasses
import functools
import types
import typing
from typing import Annotated, Any, Literal

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detection.cells import CELLS
from detection.config import Config, override, to_plain
from detection.config.serialization import setting_types
from detection.context import AttentionLSTM, NonLocal, RecurrentConv, SpatialRNN
from detection.detector import build_detector
from detection.errors import UserError
from detection.heads import LocalGlobal, SequenceHead
from detection.pooling import CenterCell, RoIAlign, SkipPool, Source
from detection.ranges import Range
from detection.segmentation import SegmentationLoss
from tests.tiny_runs import tiny_config

BASES = {
    "plain": {},
    "sweeps": {"context": functools.partial(SpatialRNN, hidden_channels=4), "context_source": "c3"},
    "attention": {
        "context": functools.partial(AttentionLSTM, hidden_channels=4),
        "context_source": "c3",
        "head": functools.partial(LocalGlobal, global_pool=functools.partial(CenterCell, stage="context")),
        "segmentation": functools.partial(SegmentationLoss),
    },
    "recurrent": {
        "context": functools.partial(RecurrentConv, hidden_channels=4),
        "context_source": "c3",
        "pool": functools.partial(SkipPool, sources=(Source(("c3",), norm="channels"), Source(("context",)))),
    },
    "sequence": {
        "context": functools.partial(NonLocal),
        "context_source": "c3",
        "head": functools.partial(
            SequenceHead, rezoom=functools.partial(RoIAlign, stages=("c3",), output_size=2, sampling_ratio=1)
        ),
    },
}


@pytest.fixture(scope="module")
def configs(shapes):
    plain = tiny_config(shapes)
    return {
        name: dataclasses.replace(plain, detector=dataclasses.replace(plain.detector, **parts))
        for name, parts in BASES.items()
    }


def keys(node: Any, prefix: str = "") -> dict[str, Any]:
    """All dotted keys below a config with the type of each."""
    found = {}
    for name, annotation in setting_types(node).items():
        child = node.keywords.get(name) if isinstance(node, functools.partial) else getattr(node, name)
        if isinstance(node, functools.partial) and name not in node.keywords:
            import inspect

            child = inspect.signature(node.func.__init__).parameters[name].default
        found[prefix + name] = annotation
        if isinstance(child, functools.partial) or (dataclasses.is_dataclass(child) and not isinstance(child, type)):
            found |= keys(child, f"{prefix}{name}.")
    return found


def values(annotation: Any) -> st.SearchStrategy[str]:
    """Texts that are values of a type: inside its range, at its edges and just outside; and now and then nonsense."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        if not any(isinstance(a, Range) for a in arguments[1:]):  # a step of augmentation
            return st.sampled_from(["GaussNoise", "D4", "NoSuchStep", "os.system", "albumentations.Blur"])
        (limits,) = [a for a in arguments[1:] if isinstance(a, Range)]
        high = limits.high if limits.high is not None else 10 * abs(limits.low) + 10
        edges = [limits.low, limits.low - 1, limits.low + 1, high, high + 1, high - 1]
        inner = st.integers(int(limits.low), int(min(high, limits.low + 40)))
        if arguments[0] is float:
            inner = st.floats(limits.low, min(high, limits.low + 5))
        return st.one_of(st.sampled_from(edges), inner).map(str)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*(st.just("none") if a is type(None) else values(a) for a in arguments))
    if origin is Literal:
        return st.sampled_from([str(a) for a in arguments] + ["nothing"])
    if origin is tuple:
        inner = values(arguments[0])
        size = st.integers(0, 3) if arguments[-1] is Ellipsis else st.just(len(arguments))
        return size.flatmap(lambda n: st.lists(inner, min_size=n, max_size=n).map(_tuple))
    if annotation is bool:
        return st.sampled_from(["true", "false", "1"])
    if annotation is int:
        return st.integers(-2, 70).map(str)
    if annotation is float:
        return st.one_of(st.floats(-2, 5), st.sampled_from([float("nan"), float("inf")])).map(str)
    if annotation is str:
        return st.sampled_from(["c3", "c4", "c9", "", "x/y.json", "FasterRCNN_ResNet50_FPN_Weights.COCO_V1"])
    if origin is functools.partial or annotation is functools.partial:
        cells = [f"detection.cells.{cell.__name__}" for cell in CELLS]
        return st.sampled_from(["none", "detection.context.NoContext", "detection.heads.FastRCNN", "os.system", *cells])
    return st.sampled_from(["none", "0", "x", "{}"])


def _tuple(texts: list[str]) -> str:
    return f"({', '.join(repr(t) if not _is_literal(t) else t for t in texts)}{',' * (len(texts) == 1)})"


def _is_literal(text: str) -> bool:
    import ast

    try:
        ast.literal_eval(text)
        return True
    except (ValueError, SyntaxError):
        return False


def take(config: Config, items: list[str]) -> str:
    """The sentence of a refusal, or an empty text."""
    try:
        changed = override(config, items)
        to_plain(changed)
        build_detector(changed.detector, 3, resize_in_training=False)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", BASES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_drawn_overrides_are_taken_or_refused_with_one_sentence(configs, name, data):
    config = configs[name]
    known = keys(config)
    key = data.draw(st.sampled_from(sorted(known)))
    item = f"{key}={data.draw(values(known[key]))}"
    sentence = take(config, [item])
    assert "\n" not in sentence, f"{item}: {sentence}"
    assert not sentence or len(sentence) < 700, sentence


def test_what_costs_memory_is_bounded(configs):
    """Numbers that would start processes or build layers until the memory is gone."""
    for item, base in {
        "data.workers=1000000": "plain",
        "detector.context.hidden_channels=60000": "sweeps",
        "detector.context.num_steps=1000000000": "recurrent",
        "detector.regions.conv_depth=100000": "plain",
        "detector.head.decoder.layers=100000": "sequence",
        "detector.backbone.channels=(60000, 60000)": "plain",
    }.items():
        sentence = take(configs[base], [item])
        assert sentence and "\n" not in sentence, item


@pytest.mark.slow
@pytest.mark.parametrize("name", BASES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_what_is_taken_trains_and_detects(configs, name, data):
    """One update and one detection with a detector that such an override built."""
    known = {k: t for k, t in keys(configs[name]).items() if k.startswith("detector.")}
    key = data.draw(st.sampled_from(sorted(known)))
    item = f"{key}={data.draw(values(known[key]))}"
    if take(configs[name], [item]):
        return
    config = override(configs[name], [item]).detector
    torch.manual_seed(0)
    detector = build_detector(config, 3, resize_in_training=False)
    images = [torch.rand(3, 64, 64)] * 2
    target = {"boxes": torch.tensor([[8.0, 8, 50, 50]]), "labels": torch.tensor([1])}
    if config.segmentation is not None:
        target["semantic"] = torch.zeros(64, 64, dtype=torch.uint8)
    try:
        sum(detector(images, [target] * 2).values()).backward()
        with torch.no_grad():
            detector.eval()(images)
    except UserError as error:
        assert "\n" not in str(error)
