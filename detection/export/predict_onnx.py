"""Detect with an exported file: python predict_onnx.py MODEL.onnx IMAGE ... (needs numpy, onnxruntime, Pillow)."""

import json
import os
import sys

import numpy as np
from PIL import Image, ImageOps


def prepare(image, meta):
    """Return RGB (H, W, 3) uint8 as (3, h, w) floats in [0, 1], resized as the detector resizes: bilinear, no blur."""
    sides, x = image.shape[:2], image.astype(np.float32) / 255
    scale = min(meta["min_size"] / min(sides), meta["max_size"] / max(sides))
    if meta["size"]:
        scale = min(scale, meta["size"][0] / sides[0], meta["size"][1] / sides[1])
    for axis, side in enumerate(sides):
        new = max(1, int(side * scale))
        at = np.maximum((np.arange(new) + 0.5) * side / new - 0.5, 0)
        low = at.astype(int)
        share = (at - low).astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        x = x.take(low, axis) * (1 - share) + x.take(np.minimum(low + 1, side - 1), axis) * share
    return x.transpose(2, 0, 1)


def batched(images, meta):
    """Return images (3, h, w) as one batch, each in the top left, and their heights and widths."""
    sizes = np.array([image.shape[1:] for image in images], np.int64)
    batch = np.zeros((len(images), 3, *(meta["size"] or sizes.max(0))), np.float32)
    for place, image in zip(batch, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return {"images": batch, "sizes": sizes}


def main(model, *files):
    """Print file, class, score and box (x1, y1, x2, y2, in pixels of the upright image) of each detection."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model)
    meta = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    for file in files:
        image = np.asarray(ImageOps.exif_transpose(Image.open(file)).convert("RGB"))
        inputs = batched([prepare(image, meta)], meta)
        boxes, labels, scores, _ = (np.asarray(output)[0] for output in session.run(None, inputs))
        boxes = boxes * np.tile(np.array(image.shape[1::-1]) / inputs["sizes"][0, ::-1], 2)
        for box, label, score in zip(boxes, labels, scores, strict=True):
            if score >= meta["score"]:
                print(file, meta["categories"][label - 1]["name"], f"{score:.3f}", *(f"{side:.1f}" for side in box))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads the output any longer, as after `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:  # an image that cannot be read
        sys.exit(f"error: {error}")
