"""Drawings of what decided the class of each detection."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detection.analysis.explain import Explanation
from detection.analysis.visualize import contact_sheet, distinct_colors, draw_boxes

# H×W pixels of the image, n detections, h×w patches.

_LIGHT = np.array([255, 140, 0])


def describe(explanation: Explanation, names: Sequence[str], boxes: np.ndarray) -> list[dict[str, Any]]:
    """Return for each detection its class, probability and box, and the far patch that decided its class most.

    Args:
        explanation: of an image.
        names: class of each detection.
        boxes: (n, 4) xyxy in pixels of the image.
    """
    described = []
    for i, (row, column) in enumerate(explanation.decisive().tolist()):
        entry = {"class": names[i], "probability": float(explanation.probabilities[i]), "box": boxes[i].tolist()}
        if row >= 0:
            patch = [float(edge) for edge in explanation.patch_box(row, column)]
            entry |= {"far_patch": patch, "drop": float(explanation.drops[i, row, column])}
        described.append(entry)
    return described


def draw_explanation(
    image: np.ndarray, explanation: Explanation, described: Sequence[dict[str, Any]], classes: Sequence[str] = ()
) -> np.ndarray:
    """Draw two panels a detection: lit by the drop of its class's probability, and by the gradient.

    Args:
        image: (H, W, 3) uint8 RGB.
        explanation: of this image.
        described: of `describe`; as many detections as are drawn.
        classes: names of all classes of the detector, by which each has the color that it has elsewhere.

    Returns:
        One (H', W', 3) uint8 image with titles.
    """
    panels, titles, colors = [], [], distinct_colors(classes)
    for i, entry in enumerate(described):
        drops, gradients = explanation.drops[i].clamp(min=0).numpy(), explanation.gradients[i].numpy()
        name = entry["class"]
        for values, top in ((drops, max(drops.max(), 0.05)), (gradients, max(gradients.max(), 1e-12))):
            lit = _lit(image, values / top, explanation)
            panels.append(draw_boxes(lit, np.array([entry["box"]]), [name], [entry["probability"]], colors=colors))
        far = f", {entry['drop']:.2f} by a patch far away" if "drop" in entry else ""
        titles += [f"{name}: lit where covering costs up to {drops.max():.2f}{far}", f"{name}: gradient"]
    return contact_sheet(panels, columns=2, titles=titles)


def _lit(image: np.ndarray, values: np.ndarray, explanation: Explanation) -> np.ndarray:
    """Return the image in gray, lit by the values (h, w) in 0..1 of its patches."""
    height, width = image.shape[:2]
    rows, columns = (
        np.minimum(((np.arange(pixels) + 0.5) * scale / explanation.side).astype(int), patches - 1)
        for pixels, scale, patches in zip((height, width), explanation.scale, values.shape, strict=True)
    )
    alpha = 0.8 * values[rows][:, columns][..., None]  # (H, W, 1)
    gray = 0.7 * image.mean(2, keepdims=True) + 0.15 * 255
    return (gray + (_LIGHT - gray) * alpha).round().clip(0, 255).astype(np.uint8)


def write_explanation(
    folder: Path,
    stem: str,
    image: np.ndarray,
    explanation: Explanation,
    described: list[dict[str, Any]],
    classes: Sequence[str] = (),
) -> None:
    """Write `STEM.png` and `STEM.json` into a folder; `classes` are as in `draw_explanation`."""
    drawn = draw_explanation(image, explanation, described, classes)
    Image.fromarray(drawn).save(folder / f"{stem}.png", compress_level=3)
    text = json.dumps({"patch_side": explanation.side / max(explanation.scale), "detections": described}, indent=1)
    (folder / f"{stem}.json").write_text(text + "\n", encoding="utf-8")
