"""Loading of training images: decoders, loading processes, and images that stay in memory."""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from PIL import Image

from detection.analysis.timing import Measurements, times_in_turns
from detection.data.coco_index import load_index
from detection.data.dataset import DetectionDataset
from detection.data.images import read_image
from detection.data.sampling import TrainBatches
from detection.data.transforms import Augmentation, Transform
from detection.training.loaders import build_loader
from detection.training.workers import loading_processes, own_cores

SIZE = (640, 480)
"""Width and height."""


def benchmark_loading(device: str, images: int = 96, rounds: int = 5) -> Measurements:
    """Measure decoders on JPEGs and PNGs of 640x480 pixels, and batches of 8 with flips, at that size."""
    with tempfile.TemporaryDirectory() as folder:
        files = {kind: _write_images(Path(folder), kind, images) for kind in ("jpg", "png")}
        found: Measurements = {}
        for kind, paths in files.items():
            found |= _decoders(kind, paths[:16], rounds)
        automatic = loading_processes("auto", device, False)
        for workers in sorted({0, 1, automatic}):
            found[f"images a second, {workers} processes"] = _rate(Path(folder), workers, 0, rounds, device)
        found["images a second, in memory, no process"] = _rate(Path(folder), 0, 10**9, rounds, device)
        found["data.workers=auto"] = f"{automatic} processes, {own_cores()} cores"
    return found


def _write_images(folder: Path, kind: str, number: int) -> list[Path]:
    """Write smooth noise, which compresses about as photographs do, and its annotations; return the paths."""
    rng, (width, height) = np.random.default_rng(0), SIZE
    paths = []
    for n in range(number):
        coarse = Image.fromarray(rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8))
        paths.append(folder / f"{n}.{kind}")
        coarse.resize(SIZE, Image.Resampling.BICUBIC).save(paths[-1])
    boxes = [
        {"id": 5 * n + k + 1, "image_id": n + 1, "category_id": 1, "bbox": [20 + 90 * k, 40, 80, 120]}
        for n in range(number)
        for k in range(5)
    ]
    listed = [{"id": n + 1, "file_name": p.name, "width": width, "height": height} for n, p in enumerate(paths)]
    content = {"images": listed, "annotations": boxes, "categories": [{"id": 1, "name": "thing"}]}
    (folder / f"{kind}.json").write_text(json.dumps(content), encoding="utf-8")
    return paths


def _decoders(kind: str, paths: list[Path], rounds: int) -> Measurements:
    """Measure our reader against OpenCV; where its pixels differ from ours, that is stated.

    torchvision's decoders, which are in between, are deprecated since 0.29.
    """
    import cv2

    cv2.setNumThreads(1)
    decoders: dict[str, Callable[[Path], np.ndarray]] = {
        "Pillow (ours)": read_image,
        "OpenCV": lambda path: cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB),  # type: ignore[arg-type]
    }
    passes = [lambda decode=decode: [decode(path) for path in paths] for decode in decoders.values()]
    found: Measurements = {}
    for (name, decode), times in zip(decoders.items(), times_in_turns(passes, rounds, lambda: None), strict=True):
        equal = all(np.array_equal(decode(path), read_image(path)) for path in paths)
        pixels = "" if equal else ", other pixels"
        found[f"{kind}, {name} (ms an image{pixels})"] = 1e3 * statistics.median(times) / len(paths)
    return found


def _rate(folder: Path, workers: int, cache_bytes: int, rounds: int, device: str) -> float:
    """Measure images a second over epochs after the first, in which processes start and memory fills."""
    transform = Transform(Augmentation(horizontal_flip=0.5), SIZE[1], SIZE[0])
    dataset = DetectionDataset(load_index(folder / "jpg.json"), folder, transform, cache_bytes=cache_bytes)
    order = TrainBatches(len(dataset), 8)
    loader = build_loader(dataset, order, workers, Accelerator(cpu=device == "cpu"))
    seconds = []
    for epoch in range(rounds):
        order.set_epoch(epoch)
        began = time.perf_counter()
        for _ in loader:
            pass
        seconds.append(time.perf_counter() - began)
    return len(order) * 8 / statistics.median(seconds[1:])
