"""Operations that a training forward of a small ION dispatches, and its time an image, at 2 and at 32 images."""

import statistics
import warnings
from collections import Counter
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from detection.analysis.timing import Measurements, settle_on, times_in_turns
from detection.config import load_config
from detection.config.files import find_config
from detection.detector import Detector, build_detector

FEW, MANY, ROUNDS = 2, 32, 9


def benchmark_dispatch(device: str) -> Measurements:
    """Count the operations of a training forward at 2 and at 32 images, and measure its time an image.

    Operations are those of PyTorch and torchvision that no other of theirs calls; of our own operators those inside.
    On a CPU NMS is one call an image, and a slice of what it keeps. On CUDA the waits of a complete step count, too.
    """
    detector = small_detector(device)
    batches = {count: noise_batch(count, device) for count in (FEW, MANY)}
    forwards = [lambda batch=batch: detector(*batch) for batch in batches.values()]
    few, many = (operations(forward) for forward in forwards)
    seconds = [statistics.median(t) for t in times_in_turns(forwards, ROUNDS, settle_on(device))]
    found: Measurements = {
        f"operations, {FEW} images": few.total(),
        f"operations, {MANY} images": many.total(),
        f"operations, {MANY} / {FEW} images": many.total() / few.total(),
        f"of these NMS, {MANY} images": many["torchvision::nms"],
        f"time an image, {FEW} images (ms, median)": 1e3 * seconds[0] / FEW,
        f"time an image, {MANY} images (ms, median)": 1e3 * seconds[1] / MANY,
        f"time an image, {MANY} / {FEW} images": seconds[1] / MANY / (seconds[0] / FEW),
    }
    if device == "cuda":
        found[f"waits for the device in a step, {MANY} images"] = waits(lambda: training_step(detector, batches[MANY]))
    return found


def small_detector(device: str, name: str = "ion_beacon") -> Detector:
    """Return the detector of a shipped config with three classes, in training mode, with random weights."""
    torch.manual_seed(0)
    config = load_config(find_config(name))
    return build_detector(config.detector, 3, resize_in_training=False).to(device).train()


def noise_batch(count: int, device: str) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Return images (3, 96, 96) uint8 of noise with three to five boxes each, always the same."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 96, 96), dtype=torch.uint8, generator=generator)
    targets = []
    for number in range(count):
        corners = torch.rand(3 + number % 3, 2, generator=generator) * 70
        boxes = torch.cat([corners, corners + 12 + 12 * torch.rand(corners.shape, generator=generator)], dim=1)
        semantic = torch.randint(0, 4, (96, 96), dtype=torch.uint8, generator=generator)
        labels = torch.randint(1, 4, (len(boxes),), generator=generator)
        targets.append({"boxes": boxes, "labels": labels, "semantic": semantic})
    return list(images.to(device)), [{key: t.to(device) for key, t in target.items()} for target in targets]


def training_step(detector: Detector, batch: tuple) -> None:
    """Run a forward and a backward pass and read the loss, as a training does once in a step."""
    total = torch.stack(list(detector(*batch).values())).sum()
    total.backward()
    total.tolist()
    detector.zero_grad()


def operations(function: Callable[[], object]) -> Counter[str]:
    """Count the operations that a call dispatches, by name, after one to warm up."""
    function()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        function()
    names = ("aten::", "torchvision::")
    counted: Counter[str] = Counter()
    for event in profiler.events() or ():
        parent = event.cpu_parent
        while parent is not None and not parent.name.startswith(names):
            parent = parent.cpu_parent
        if parent is None and event.name.startswith(names):
            counted[event.name] += 1
    return counted


def waits(function: Callable[[], object]) -> int:
    """Count how often a call waits for a CUDA device, after two to warm up."""
    function()
    function()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            function()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)
