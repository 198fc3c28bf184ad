"""Configs: typed, frozen dataclasses and partials of classes, to and from plain data.

A config file is Python that ends in one `config = Config(...)`. A *part* (backbone, context, regions, pool, head) is a
`functools.partial` of a class: its keywords are the settings, what the builder injects is left open.
Plain data is what JSON holds; it names classes of this package only, so that reading a stranger's run runs none of
its code.
"""

import ast
import dataclasses
import difflib
import functools
import hashlib
import importlib
import inspect
import json
import runpy
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from detection.data.transforms import Augmentation
from detection.errors import UserError

Part = functools.partial


@dataclasses.dataclass(frozen=True)
class DetectorConfig:
    """The five parts in a row and the size of the pictures they see.

    Attributes:
        backbone: images to stage maps.
        context: a map to a map of the same size, or None; its output is the map named `context`.
        context_source: the stage map that the context reads.
        regions: maps to boxes.
        pool: maps and boxes to descriptors.
        head: descriptors to detections or losses.
        min_size: pixels of a picture's shorter side inside the detector.
        max_size: most pixels of its longer side.
        weights: weights of a whole detector to start from: a torchvision name such as
            `FasterRCNN_ResNet50_FPN_Weights.COCO_V1`, a safetensors file, or None.
    """

    backbone: Part
    regions: Part
    pool: Part
    head: Part
    context: Part | None = None
    context_source: str = "c5"
    min_size: int = 800
    max_size: int = 1333
    weights: str | None = None


@dataclasses.dataclass(frozen=True)
class SplitConfig:
    """One COCO-style split.

    Attributes:
        annotations: the COCO JSON file.
        images: the folder that its `file_name`s are relative to.
        empty_images: keep or drop training images without boxes; counted either way.
        bad_boxes: what to do with boxes that no training can use: stop, or drop and count them.
    """

    annotations: str = ""
    images: str = ""
    empty_images: Literal["keep", "drop"] = "keep"
    bad_boxes: Literal["error", "drop"] = "error"


@dataclasses.dataclass(frozen=True)
class ScenesConfig:
    """ContextScenes to draw when the annotation files do not exist yet (`datasets/context_scenes.py`)."""

    task: str = "shapes"
    train: int = 400
    val: int = 100
    size: int = 128
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Training and validation data.

    Attributes:
        train: what is trained on.
        val: what is evaluated.
        augmentation: random changes of training pictures, None for none.
        workers: processes that load pictures; 0 loads in the training process.
        aspect_grouping: batch wide pictures with wide ones and tall with tall, which saves padding.
        scenes: draw this ContextScenes set into the folder of `train.annotations` when that file is missing.
    """

    train: SplitConfig = SplitConfig()
    val: SplitConfig = SplitConfig()
    augmentation: Augmentation | None = Augmentation()
    workers: int = 2
    aspect_grouping: bool = True
    scenes: ScenesConfig | None = None


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """How weights move.

    Attributes:
        kind: `sgd` with momentum, or `adamw`.
        lr: learning rate for `reference_batch` images an update; scaled linearly (sgd) or by the square root (adamw)
            to the real number.
        reference_batch: images an update that `lr` is stated for.
        momentum: of sgd.
        weight_decay: on weights; biases and norms have `norm_weight_decay`.
        norm_weight_decay: on biases and normalisation weights.
        clip_norm: largest gradient norm, None for no clipping.
    """

    kind: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.02
    reference_batch: int = 16
    momentum: float = 0.9
    weight_decay: float = 1e-4
    norm_weight_decay: float = 1e-4
    clip_norm: float | None = None


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """How long, and how the learning rate goes.

    Attributes:
        epochs: passes over the training images.
        kind: `step` multiplies by `gamma` at each milestone, `cosine` falls to 0, `constant` stays.
        milestones: fractions of all updates at which `step` drops.
        gamma: factor of a drop.
        warmup: updates over which the rate rises linearly from `warmup_start` times its value; at most a tenth of all.
        warmup_start: factor at the first update.
    """

    epochs: int = 12
    kind: Literal["step", "cosine", "constant"] = "step"
    milestones: tuple[float, ...] = (0.667, 0.917)
    gamma: float = 0.1
    warmup: int = 500
    warmup_start: float = 0.001


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything a run is made of.

    Attributes:
        detector: the model.
        data: what it learns from and is measured on.
        optimizer: how weights move.
        schedule: for how long.
        batch_size: images of one forward pass, on each process.
        accumulate: forward passes an update.
        eval_batch_size: images of one forward pass in evaluation.
        precision: `no` for float32, or mixed precision in `bf16` or `fp16`.
        freeze: stages (`stem`, `c2` …) or modules (`backbone`, `head` …) that stay as they are, with the epoch at which
            they are let go, None for never.
        ema: decay of the exponential moving average of the weights that is evaluated and kept; None for none.
        validation_loss: measure the loss on the validation split too, at the price of a second pass over it.
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
        best_metric: key of the metrics by which the best checkpoint is chosen; `val_loss` is minimised.
        early_stopping: evaluations without a new best after which training stops; None for never.
        samples: validation pictures that are drawn.
        seed: of weights, order, augmentation and sampling.
    """

    detector: DetectorConfig
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    batch_size: int = 2
    accumulate: int = 1
    eval_batch_size: int = 2
    precision: Literal["no", "bf16", "fp16"] = "no"
    freeze: dict[str, int | None] = dataclasses.field(default_factory=dict)
    ema: float | None = None
    validation_loss: bool = False
    evaluate_every: int = 1
    best_metric: str = "AP"
    early_stopping: int | None = None
    samples: int = 8
    seed: int = 0


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Run a config file and apply `key=value` overrides to its `config`.

    Raises:
        UserError: no such file, no `config = Config(...)` in it, or an override that does not fit.
    """
    path = Path(path)
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.py")], n=1)
        raise UserError(f"{path}: no such config file" + (f"; did you mean {path.parent / near[0]}?" if near else "."))
    config = runpy.run_path(str(path)).get("config")
    if not isinstance(config, Config):
        raise UserError(f"{path}: a config file must end in `config = Config(...)`; found {type(config).__name__}.")
    return override(config, overrides)


def override(config: Config, overrides: Sequence[str]) -> Config:
    """Return `config` with `dotted.key=value` strings applied in order, and the result checked.

    Raises:
        UserError: an unknown key (names the nearest one) or a value of the wrong type.
    """
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise UserError(f"override {item!r}: write it as key=value, for example schedule.epochs=2.")
        config = _replace(config, key.split("."), text, key)
    validate(config)
    return config


def validate(config: Config) -> None:
    """Check the numbers that types cannot: a wrong one is named with its key.

    Raises:
        UserError: a setting out of range.
    """
    positive = {
        "batch_size": config.batch_size,
        "accumulate": config.accumulate,
        "eval_batch_size": config.eval_batch_size,
        "evaluate_every": config.evaluate_every,
        "schedule.epochs": config.schedule.epochs,
        "optimizer.lr": config.optimizer.lr,
        "optimizer.reference_batch": config.optimizer.reference_batch,
        "detector.min_size": config.detector.min_size,
    }
    for key, value in positive.items():
        if not value > 0:
            raise UserError(f"{key}={value}: must be greater than 0.")
    not_negative = {"data.workers": config.data.workers, "samples": config.samples, "seed": config.seed}
    for key, value in not_negative.items():
        if value < 0:
            raise UserError(f"{key}={value}: must be 0 or more.")
    if config.detector.max_size < config.detector.min_size:
        raise UserError(
            f"detector.max_size={config.detector.max_size}: must be at least min_size={config.detector.min_size}."
        )
    if config.ema is not None and not 0 < config.ema < 1:
        raise UserError(f"ema={config.ema}: must lie between 0 and 1, for example 0.999; None for no average.")
    if any(not 0 < m <= 1 for m in config.schedule.milestones):
        raise UserError(f"schedule.milestones={config.schedule.milestones}: are fractions of training, in (0, 1].")
    if config.optimizer.clip_norm is not None and config.optimizer.clip_norm <= 0:
        raise UserError(f"optimizer.clip_norm={config.optimizer.clip_norm}: must be greater than 0, or None.")


def to_plain(value: Any, key: str = "config") -> Any:
    """Turn a config into JSON-ready data, with every default written out.

    Raises:
        UserError: a part whose class is not in this package, so that the run could not be opened again.
    """
    if isinstance(value, functools.partial):
        cls = value.func
        if not cls.__module__.startswith("detection."):
            raise UserError(
                f"{key}: {cls.__module__}.{cls.__qualname__} is outside the package `detection`, so the run could not "
                "be opened again; put the class into a module of `detection`."
            )
        settings = {name: p.default for name, p in _parameters(cls).items() if p.default is not p.empty}
        settings.update(value.keywords)
        plain = {name: to_plain(v, f"{key}.{name}") for name, v in settings.items()}
        return {"class": f"{cls.__module__}.{cls.__qualname__}", **plain}
    if dataclasses.is_dataclass(value):
        return {f.name: to_plain(getattr(value, f.name), f"{key}.{f.name}") for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_plain(v, f"{key}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(v, key) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UserError(f"{key}: a {type(value).__name__} cannot be written to config.json; use plain values.")


def from_plain(plain: Any) -> Config:
    """Rebuild a `Config` from what `to_plain` made.

    Raises:
        UserError: unknown keys, values of the wrong type, or a class outside this package.
    """
    return _convert(plain, Config, "config")


def config_hash(config: Config) -> str:
    """SHA-256 of the resolved plain config: equal hashes, equal settings."""
    return hashlib.sha256(json.dumps(to_plain(config), sort_keys=True).encode()).hexdigest()


def _parameters(cls: Any) -> dict[str, inspect.Parameter]:
    return dict(list(inspect.signature(cls.__init__).parameters.items())[1:])


def _settings(node: Any) -> dict[str, Any]:
    """The keys that may be set below a node, with their annotations."""
    if isinstance(node, functools.partial):
        hints = typing.get_type_hints(node.func.__init__)
        keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        parameters = _parameters(node.func).items()
        return {
            name: hints.get(name, Any)
            for name, p in parameters
            if p.kind in keyword and (p.default is not p.empty or name in node.keywords)
        }
    hints = typing.get_type_hints(type(node))
    return {f.name: hints[f.name] for f in dataclasses.fields(node)}


def _child(node: Any, name: str) -> Any:
    if isinstance(node, functools.partial):
        return node.keywords[name] if name in node.keywords else _parameters(node.func)[name].default
    return getattr(node, name)


def _replace(node: Any, path: list[str], text: str, key: str) -> Any:
    name, rest = path[0], path[1:]
    if isinstance(node, dict):
        return {**node, ".".join(path): _convert(_literal(text), int | None, key)}
    if not (isinstance(node, functools.partial) or dataclasses.is_dataclass(node)):
        parent = key.removesuffix("." + ".".join(path))
        raise UserError(f"{key}: {parent} is {node!r} and has no settings of its own.")
    settings = _settings(node)
    if name not in settings:
        near = difflib.get_close_matches(name, settings, n=1, cutoff=0.4)
        prefix = key[: len(key) - len(".".join(path))]
        raise UserError(
            f"{key}: unknown config key; "
            + (f"did you mean {prefix}{near[0]}?" if near else f"known here: {', '.join(sorted(settings))}.")
        )
    if rest:
        value = _replace(_child(node, name), rest, text, key)
    else:
        value = _convert(_parse(text, settings[name]), settings[name], key)
    if isinstance(node, functools.partial):
        return functools.partial(node.func, **{**node.keywords, name: value})
    return dataclasses.replace(node, **{name: value})  # type: ignore[type-var]


def _parse(text: str, annotation: Any) -> Any:
    """Text as what it stands for; where a string is wanted it stands for itself."""
    value = _literal(text)
    if annotation is str or (annotation == str | None and value is not None):
        return text
    return value


def _literal(text: str) -> Any:
    lowered = text.strip().lower()
    if lowered in ("true", "false", "none", "null"):
        return {"true": True, "false": False}.get(lowered)
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return text


def _convert(value: Any, annotation: Any, key: str) -> Any:
    """Check `value` against a type annotation, turning plain data and text into what it asks for."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, arguments, key)
    if origin is Literal:
        if value in arguments:
            return value
        near = difflib.get_close_matches(str(value), [str(a) for a in arguments], n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UserError(f"{key}={value}: must be one of {', '.join(map(str, arguments))}{hint}.")
    if annotation is Part:
        return _convert_part(value, key)
    if dataclasses.is_dataclass(annotation):
        return _convert_dataclass(value, annotation, key)
    if origin is tuple:
        return _convert_tuple(value, arguments, key)
    if origin is dict and isinstance(value, Mapping):
        return {k: _convert(v, arguments[1], f"{key}.{k}") for k, v in value.items()}
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(annotation, type) and type(value) is annotation:
        return value
    name = getattr(annotation, "__name__", str(annotation))
    raise UserError(f"{key}={value!r}: must be of type {name}, not {type(value).__name__}.")


def _convert_union(value: Any, arguments: tuple[Any, ...], key: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    errors = []
    for argument in arguments:
        if argument is not type(None):
            try:
                return _convert(value, argument, key)
            except UserError as error:
                errors.append(error)
    raise errors[0] if len(errors) == 1 else UserError(f"{key}={value!r}: fits none of {arguments}.")


def _convert_tuple(value: Any, arguments: tuple[Any, ...], key: str) -> tuple:
    if not isinstance(value, list | tuple):
        value = (value,)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_convert(v, arguments[0], key) for v in value)
    if len(value) != len(arguments):
        raise UserError(f"{key}={value!r}: must have {len(arguments)} values, not {len(value)}.")
    return tuple(_convert(v, a, key) for v, a in zip(value, arguments, strict=True))


def _convert_dataclass(value: Any, annotation: Any, key: str) -> Any:
    if isinstance(value, annotation):
        return value
    if not isinstance(value, Mapping):
        raise UserError(f"{key}={value!r}: has settings below it; set them one by one as {key}.NAME=VALUE.")
    hints = typing.get_type_hints(annotation)
    unknown = set(value) - set(hints)
    if unknown:
        raise UserError(f"{key}: unknown config key {sorted(unknown)[0]!r}; known here: {', '.join(sorted(hints))}.")
    missing = [
        f.name
        for f in dataclasses.fields(annotation)
        if f.default is f.default_factory is dataclasses.MISSING and f.name not in value
    ]
    if missing:
        raise UserError(f"{key}: the key {missing[0]!r} is missing.")
    return annotation(**{k: _convert(v, hints[k], f"{key}.{k}") for k, v in value.items()})


def _convert_part(value: Any, key: str) -> functools.partial:
    if isinstance(value, functools.partial):
        return value
    name, plain = (value, {}) if isinstance(value, str) else (value.get("class", ""), value) if value else ("", {})
    part = functools.partial(_find_class(name, key))
    hints = typing.get_type_hints(part.func.__init__)
    known = _parameters(part.func)
    keywords = {}
    for k, v in plain.items():
        if k == "class":
            continue
        if k not in known:
            raise UserError(f"{key}.{k}: {name} has no such setting; known: {', '.join(sorted(known))}.")
        keywords[k] = _convert(v, hints.get(k, Any), f"{key}.{k}")
    return functools.partial(part.func, **keywords)


def _find_class(name: str, key: str) -> Any:
    module, _, attribute = str(name).rpartition(".")
    if not module.startswith("detection."):
        raise UserError(f"{key}: {name!r} is not a class of the package `detection`; only such classes are opened.")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        raise UserError(f"{key}: there is no class {name}; it may come from another version of the package.") from None
    if not isinstance(found, type) or not found.__module__.startswith("detection."):
        raise UserError(f"{key}: {name} is not a class of the package `detection`; only such classes are opened.")
    return found
