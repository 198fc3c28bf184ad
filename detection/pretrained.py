"""Weights that a detector starts from: its own, its parts', or torchvision's under their names."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from detection.detector import Detector
from detection.errors import UserError
from detection.weights import LoadReport, load_state, read_state, renamed

_TORCHVISION_PREFIXES = [
    ("backbone.body.", "backbone.body.body."),
    ("rpn.", "regions.rpn."),
    ("roi_heads.", "head.roi_heads."),
]


def load_pretrained(detector: Detector, weights: str | None, class_names: Sequence[str] = ()) -> list[LoadReport]:
    """Fill in the weights that a new detector starts from: the whole detector's, else its backbone's and its head's.

    Args:
        detector: filled in place.
        weights: the config's `detector.weights`.
        class_names: of the data, in the order of labels; where all are COCO's, torchvision's COCO weights keep what
            they know of these classes.

    Raises:
        UserError: too little fits, the backbone waits for weights of a whole detector that are not named, or the
            head's weights are not of the backbone's training.
    """
    if weights is None:
        if any(getattr(m, "weights", None) == "detector" for m in detector.backbone.modules()):
            raise UserError(
                "detector.backbone weights='detector': name them in detector.weights, or give the backbone its own."
            )
        report = detector.backbone.load_pretrained()
        head = _load_head(detector, "a random start" if report is None else report.source)
        return [r for r in (report, head) if r is not None]
    state = from_torchvision(read_state(weights))
    return [load_state(detector, select_coco_classes(state, class_names), weights)]


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
