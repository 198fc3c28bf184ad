"""Use that a detector makes of its context: metrics as it is, and with the context's feature map replaced.

B images, C channels, H×W feature map.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from detection.contracts import Context, at_least_float32
from detection.names import short_names
from detection.reports.document import markdown_table

ContextSource = Literal["other", "mean", "none"]
"""`other`: that of the image seen before; `mean`: its own mean over valid locations, by channel; `none`: zeros."""

CONTEXT_SOURCES: tuple[ContextSource, ...] = get_args(ContextSource)
METRICS = ("AP50", "AP")


class ReplacedContext(Context):
    """A context whose output is replaced, for inference only.

    With `other` an image gets the context of the one that was passed before it, resized from that one's valid size to
    its own; the first of all keeps its own, so that whoever evaluates a data set passes another image before.

    Args:
        context: whose output is replaced.
        source: what by.
        passes: feature maps that are extracted from each batch, 2 with `inference.flip`: the mirrored images get the
            context of mirrored ones.
    """

    def __init__(self, context: Context, source: ContextSource, passes: int = 1) -> None:
        super().__init__()
        self.context, self.source, self.out_channels = context, source, context.out_channels
        self._last: deque[Tensor] = deque(maxlen=passes)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Return what replaces the context (B, C, H, W) of x under `valid` (B, 1, H, W)."""
        if self.source == "none":
            return x.new_zeros(len(x), self.out_channels, *x.shape[-2:])
        y = self.context(x, valid)
        if self.source == "mean":
            wide = at_least_float32(y)
            mean = (wide * valid).sum((2, 3), keepdim=True) / valid.sum((2, 3), keepdim=True).clamp_min(1)
            return (mean * valid).to(y.dtype)
        return self._of_others(y, valid)

    def _of_others(self, y: Tensor, valid: Tensor) -> Tensor:
        sizes = [_valid_size(mask[0]) for mask in valid]
        own = [image[:, :height, :width] for image, (height, width) in zip(y, sizes, strict=True)]
        before = self._last[0] if len(self._last) == self._last.maxlen else own[0]
        self._last.append(own[-1])
        replaced = torch.zeros_like(y)
        for image, other, (height, width) in zip(replaced, [before, *own[:-1]], sizes, strict=True):
            image[:, :height, :width] = _resized(other, height, width)
        return replaced


def _valid_size(valid: Tensor) -> tuple[int, int]:
    """Height and width of the valid part of a mask (H, W), which begins at its upper left corner."""
    return int(valid.any(1).sum()), int(valid.any(0).sum())


def _resized(features: Tensor, height: int, width: int) -> Tensor:
    """Interpolate a feature map (C, h, w) where it has another size; one without locations becomes zeros."""
    if features.shape[-2:] == (height, width):
        return features
    if not features.numel() or not height * width:
        return features.new_zeros(len(features), height, width)
    wide = at_least_float32(features)[None]
    return interpolate(wide, (height, width), mode="bilinear", align_corners=False)[0].to(features.dtype)


def context_use(as_it_is: Mapping[str, Any], replaced: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Compare metrics of `evaluate_detections` without and with the replacement.

    Returns:
        For AP50 and AP of `all` and, under `per_class`, of each class: `as_it_is`, `replaced` and their difference
        `drop`; -1 and, for the drop, 0 where the metric is not defined.
    """

    def compared(mine: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: {"as_it_is": mine[name], "replaced": other[name], "drop": mine[name] - other[name]}
            for name in METRICS
        }

    per_class = {name: compared(mine, replaced["per_class"][name]) for name, mine in as_it_is["per_class"].items()}
    return {"all": compared(as_it_is, replaced), "per_class": per_class}


def context_use_table(use: Mapping[str, Any], source: ContextSource) -> str:
    """Format what `context_use` returned as a Markdown table, a line for all classes and one for each."""
    other = {"other": "another's context", "mean": "mean context", "none": "no context"}[source]
    head = ["class"] + [column for name in METRICS for column in (name, f"{name}, {other}", "drop")]
    listed = list(use["per_class"])
    rows = zip(["all", *short_names(listed)], [use["all"], *use["per_class"].values()], strict=True)
    return markdown_table(head, [[name, *(text for m in METRICS for text in _texts(row[m]))] for name, row in rows])


def _texts(values: Mapping[str, float]) -> list[str]:
    if values["as_it_is"] == -1:
        return ["n/a", "n/a", "n/a"]
    return [f"{values['as_it_is']:.3f}", f"{values['replaced']:.3f}", f"{values['drop']:+.3f}".replace("-", "−")]
