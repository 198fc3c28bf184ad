"""Weights that a detector starts from: its own, its parts', another run's, or torchvision's under their names."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from detection.detector import Detector
from detection.errors import UserError
from detection.runs.checkpoint import load_meta, newest_complete, require_as_written
from detection.weights import LoadReport, load_state, read_state, renamed

_TORCHVISION_PREFIXES = [
    ("backbone.body.", "backbone.body.body."),
    ("rpn.", "regions.rpn."),
    ("roi_heads.", "head.roi_heads."),
]
# Tensors of class predictors: the dimension of the classes, and rows a class. The last rows are the classes, in the
# order of labels; before them come a box's, where both are read by one layer, and the background's.
_CLASS_ROWS = [
    (re.compile(r"^head\..*\bbox_predictor\.cls_score\.(weight|bias)$"), 0, 1),
    (re.compile(r"^head\..*\bbox_predictor\.bbox_pred\.(weight|bias)$"), 0, 4),
    (re.compile(r"^head\.decoder\.(weight|bias)$"), 1, 1),
    (re.compile(r"^head\.correct\.2\.(weight|bias)$"), 0, 1),
    (re.compile(r"^segmentation\.(classify\.weight|classify\.bias|upsample\.weight)$"), 0, 1),
]
_OPTIONAL_PARTS = {"context", "pool", "segmentation"}


def load_pretrained(detector: Detector, weights: str | None, class_names: Sequence[str] = ()) -> list[LoadReport]:
    """Fill in the weights that a new detector starts from: the complete detector's, else its backbone's and its head's.

    Args:
        detector: filled in place.
        weights: the config's `detector.weights`: a run folder, of which the best checkpoint is taken, else the last; a
            checkpoint folder; a file; or a torchvision name.
        class_names: of the data, in the order of labels. A checkpoint's predictors keep what they know of the classes
            that have these names; so do torchvision's COCO weights, where all names are COCO's.

    Raises:
        UserError: less than 95 % of the tensors fit, class predictors and new parts left out; the backbone waits for
            weights of a complete detector that are not named; or the head's weights are not of the backbone's training.
    """
    if weights is None:
        if any(getattr(m, "weights", None) == "detector" for m in detector.backbone.modules()):
            raise UserError(
                "detector.backbone weights='detector': name them in detector.weights, or give the backbone its own."
            )
        report = detector.backbone.load_pretrained()
        head = _load_head(detector, "a random start" if report is None else report.source)
        return [r for r in (report, head) if r is not None]
    source, known = find_weights(weights)
    state = from_torchvision(read_state(source))
    if not known or not class_names:
        state = state if known else select_coco_classes(state, class_names)
        return [load_state(detector, state, source, uncounted=_uncounted(detector, state))]
    state, classes = match_classes(detector, state, known, class_names)
    report = load_state(detector, state, source, uncounted=_uncounted(detector, state))
    return [dataclasses.replace(report, classes=classes)]


def find_weights(weights: str) -> tuple[str, list[str]]:
    """Find what `read_state` reads, and the names of the classes that it was trained on; none where nothing has them.

    Args:
        weights: a run folder, a checkpoint folder, a file, or a torchvision name.

    Raises:
        UserError: a folder without a checkpoint, a damaged `meta.json` next to the file, or a file that changed since.
    """
    path = Path(weights)
    places = (path / "checkpoints" / "best", path / "checkpoints" / "last", path)
    files = (newest_complete(place) / "model.safetensors" for place in places)
    file = next((f for f in files if f.is_file()), None)
    if file is None and path.is_dir():
        raise UserError(
            f"detector.weights={weights}: no checkpoint in this folder; give a run folder, a checkpoint folder such as "
            "RUN/checkpoints/best, or a .safetensors, .pth or .pt file."
        )
    source = weights if file is None else str(file)
    path = Path(source)
    if path.suffix != ".safetensors" or not (path.parent / "meta.json").is_file():
        return source, []
    require_as_written(path)
    return source, [str(category.name) for category in load_meta(path.parent)["categories"]]


def match_classes(
    detector: Detector, state: Mapping[str, Tensor], known: Sequence[str], class_names: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Give the rows of class predictors the detector's order of classes, by name; new classes keep its initialization.

    Args:
        detector: to be filled; not changed here.
        state: our names.
        known: the state's classes, in the order of its labels.
        class_names: the detector's.

    Returns:
        The state, and the names of classes that the head has `kept`, that are `new` and that are `left`.

    Raises:
        UserError: the rows of a predictor are not those of so many classes.
    """
    own, kept = detector.state_dict(), _pair(known, class_names)
    filled: dict[str, Tensor] = {}
    for name, dim, each in _class_predictors(state):
        if name not in own or own[name].dim() != state[name].dim():
            continue
        ours = own[name].clone()
        new, old = ours.movedim(dim, 0), state[name].movedim(dim, 0)  # (rows, …)
        if new.shape[1:] != old.shape[1:]:
            continue
        start = len(new) - each * len(class_names)
        if start < 0 or start != len(old) - each * len(known):
            raise UserError(
                f"detector.weights: {name} has {len(old)} rows, which are not those of the {len(known)} categories in "
                f"meta.json next to it (here: {len(new)} rows, {len(class_names)} categories)."
            )
        new[:start] = old[:start]
        for label, place in kept.items():
            to, of = start + each * label, start + each * place
            new[to : to + each] = old[of : of + each]
        filled[name] = ours
    predictors = [name for name, _, _ in _class_predictors(own) if name.startswith("head.")]
    if not predictors:  # a head from outside, whose rows of classes are not known: by shape
        return {**state, **filled}, {}
    common = [name for name in predictors if name in state]
    if not common or not filled.keys() >= set(common):  # predictors of another kind or width start again
        kept = {}
    classes = {
        "kept": [class_names[label] for label in kept],
        "new": [name for label, name in enumerate(class_names) if label not in kept],
        "left": [name for label, name in enumerate(known) if label not in kept.values()],
    }
    return {**state, **filled}, classes


def _pair(known: Sequence[str], class_names: Sequence[str]) -> dict[int, int]:
    """Return which known class each class is by its name; of equal names the first is the first, and so on."""
    pairs: dict[int, int] = {}
    for label, name in enumerate(class_names):
        same = next((i for i, n in enumerate(known) if n == name and i not in pairs.values()), None)
        if same is not None:
            pairs[label] = same
    return pairs


def _class_predictors(state: Mapping[str, Tensor]) -> list[tuple[str, int, int]]:
    """Return the names of tensors with rows of classes, with their dimension and rows a class."""
    return [(name, dim, each) for name in state for pattern, dim, each in _CLASS_ROWS if pattern.match(name)]


def _uncounted(detector: Detector, state: Mapping[str, Tensor]) -> set[str]:
    """Return the tensors that need not fit: class predictors, and parts that are new here or that only the file has."""
    own = detector.state_dict()
    names = {**state, **own}
    new = {n for n in names if not n.startswith("backbone.") and not (n in own and n in state)}
    optional = {n for n in names if n.split(".")[0] in _OPTIONAL_PARTS}
    return new | optional | {name for name, _, _ in _class_predictors(names)}


def _load_head(detector: Detector, backbone: str) -> LoadReport | None:
    """The head's own weights, where it has any, which read what the convolutions of the same training make."""
    weights = detector.head.weights
    if weights is None:
        return None
    if weights != backbone:
        raise UserError(
            f"detector.head.weights={weights!r}: must come from the training that the backbone comes from, and that is "
            f"{backbone}; for VGG16 give detector.backbone.weights=IMAGENET1K_V1 and "
            "detector.head.weights=VGG16_Weights.IMAGENET1K_V1, or one file to both."
        )
    return detector.head.load_pretrained()


def from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of torchvision's `fasterrcnn_*` to ours; others stay as they are."""
    if not any(name.startswith("roi_heads.") for name in state):
        return state
    return renamed(state, _TORCHVISION_PREFIXES)


def to_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of a plain detector with FPN to those of torchvision's `fasterrcnn_*`."""
    return renamed(state, [(ours, theirs) for theirs, ours in _TORCHVISION_PREFIXES])


def select_coco_classes(state: dict[str, Tensor], class_names: Sequence[str]) -> dict[str, Tensor]:
    """Keep the background's and the named classes' rows of a predictor over torchvision's 91 COCO classes.

    Args:
        state: our names; returned as it is when its predictor is not of 91 classes, or a name is not COCO's.
        class_names: in the order of labels.
    """
    coco = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    scores = state.get("head.roi_heads.box_predictor.cls_score.weight")
    if scores is None or len(scores) != len(coco) or not class_names or not set(class_names) <= set(coco):
        return state
    rows = torch.tensor([0, *(coco.index(name) for name in class_names)])
    box_rows = (rows[:, None] * 4 + torch.arange(4)).flatten()
    chosen = {"cls_score": rows, "bbox_pred": box_rows}
    predictor = {
        f"head.roi_heads.box_predictor.{layer}.{kind}": index
        for layer, index in chosen.items()
        for kind in ("weight", "bias")
    }
    return {name: t[predictor[name]] if name in predictor else t for name, t in state.items()}
