"""An update of the quick start on 32 images that are in memory."""

import torch

from detection.analysis.timing import Measurements, settle_on, times_in_turns
from detection.benchmarks.dispatch import noise_batch, small_detector
from detection.channels_last import to_channels_last
from detection.config import load_config
from detection.config.files import find_config
from detection.training.device_batches import DeviceBatches
from detection.training.engine import train_one_epoch
from detection.training.loaders import build_accelerator
from detection.training.optim import build_optimizer

IMAGES, ROUNDS = 32, 15


def benchmark_quickstart_step(device: str) -> Measurements:
    """Measure one update of the quick start by our loop, images in memory as a loader hands them over."""
    config = load_config(find_config("quickstart"))
    accelerator = build_accelerator("no", device)  # stated, for a benchmark before may have been in another precision
    detector = to_channels_last(small_detector(device, "quickstart"))
    optimizer = build_optimizer(config.optimizer, detector, IMAGES)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, 1e-6)  # weights and proposals stay what they are
    model, optimizer = accelerator.prepare(detector, optimizer)
    images, targets = noise_batch(IMAGES, "cpu")
    targets = [{**target, "image_id": number} for number, target in enumerate(targets)]
    if device == "cuda":
        images = [image.pin_memory() for image in images]
    batches = DeviceBatches([(images, targets)], accelerator.device)
    clip_norm = config.optimizer.clip_norm

    def step() -> None:
        torch.manual_seed(1)
        train_one_epoch(model, batches, 1, optimizer, scheduler, accelerator, clip_norm=clip_norm)

    (seconds,) = times_in_turns([step], ROUNDS, settle_on(device))
    seconds.sort()
    return {
        f"an update of {IMAGES} images (s, median of {ROUNDS})": seconds[len(seconds) // 2],
        "the fastest (s)": seconds[0],
        "images a second": IMAGES / seconds[len(seconds) // 2],
    }
