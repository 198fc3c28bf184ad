"""The engine is two functions: `train_one_epoch` and `evaluate`."""

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from detection.data.coco_index import Category
from detection.data.dataset import item_seed
from detection.detector import Detector
from detection.errors import UserError
from detection.training.device_batches import Batch, to_device
from detection.training.optim import WeightAverage, learning_rates
from detection.training.random_state import kept_random_state


def seed_epoch(seed: int, epoch: int, rank: int) -> None:
    """Set the random state of an epoch; it depends on nothing before, so that a resumed run repeats an unbroken one."""
    # Mixed, because neighboring integers as seeds need not give independent streams.
    number = int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1, np.uint32)[0])
    random.seed(number)
    np.random.seed(number)
    _seed(number)


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    # The loader once drew the first number of a pass; it is passed over, so that results stay what they were.
    torch.empty((), dtype=torch.int64).random_()


def train_one_epoch(
    model: nn.Module,
    batches: Sequence[Batch] | Iterable[Batch],
    num_batches: int,
    optimizer: torch.optim.Optimizer,
    scheduler: LRScheduler,
    accelerator: Accelerator,
    *,
    gradient_accumulation_steps: int = 1,
    clip_norm: float | None = None,
    average: WeightAverage | None = None,
    log: Callable[[dict[str, float]], None] = lambda line: None,
    failures: Path | None = None,
) -> None:
    """Train on every batch once. The model must be in training mode, frozen parts apart (`freezing.freeze`).

    Args:
        model: the detector as `accelerator.prepare` returned it.
        batches: images (3, H, W) and targets, as `collate` puts them together.
        num_batches: their number.
        optimizer: prepared too.
        scheduler: stepped after every update.
        accelerator: device, precision and processes.
        gradient_accumulation_steps: batches an update.
        clip_norm: largest gradient norm, None for no clipping.
        average: moving average of the weights to keep up.
        log: gets a line an update: losses by name and their sum `loss`, `learning_rates`, `grad_norm`,
            `images_per_s`.
        failures: folder where the batch of a non-finite loss is saved.

    Raises:
        UserError: a loss or gradient that is not finite, or losses of other names within an update; weights are as they
            were before that update.
    """
    detector = accelerator.unwrap_model(model)
    parameters = [p for p in detector.parameters() if p.requires_grad]
    rest = num_batches % gradient_accumulation_steps
    began, images_seen, summed, group, names = time.perf_counter(), 0, None, list[Batch](), list[str]()
    for index, (images, targets) in enumerate(batches, start=1):
        images, targets = to_device(images, targets, accelerator.device)
        group.append((images, targets))
        update = index % gradient_accumulation_steps == 0 or index == num_batches
        # The last group of an epoch may be smaller, and its gradient is the mean over the batches that it has.
        in_group = gradient_accumulation_steps if index <= num_batches - rest else rest
        # Gradients are averaged over the processes once an update, at its last batch.
        with nullcontext() if update else accelerator.no_sync(model):
            losses = model(images, targets)
            total = torch.stack(list(losses.values())).sum()
            accelerator.backward(total / in_group)
        names = list(losses) if summed is None else names
        if losses.keys() != set(names):
            raise UserError(
                f"the losses of a batch are {', '.join(losses)}, and of another of the same update {', '.join(names)}: "
                "a part must give all of its losses every time, 0 where there is nothing to learn."
            )
        values = torch.stack([total.detach(), *(losses[name].detach() for name in names)]).float()
        summed = summed + values if summed is not None else values
        images_seen += len(images)
        if not update:
            continue
        # fp16 computes with scaled gradients; the norm is logged, and clipped at, without that scale.
        accelerator.unscale_gradients(optimizer)
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        # The one wait for the device in a step: everything that is logged or checked, at once.
        values = torch.cat([summed / len(group), norm.float()[None]]).tolist()
        line = dict(zip(["loss", *names, "grad_norm"], values, strict=True))
        _stop_if_not_finite(line, accelerator, group, failures)
        if clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
        line |= learning_rates(optimizer)
        optimizer.step()
        # fp16's gradient scaler skips an update whose gradients overflow: the schedule does not count it.
        if not accelerator.optimizer_step_was_skipped:
            scheduler.step()
            if average is not None:
                average.update_parameters(detector)
        optimizer.zero_grad()
        now = time.perf_counter()
        line["images_per_s"] = images_seen * accelerator.num_processes / (now - began)
        log(_mean_over_processes(line, accelerator))
        began, images_seen, summed, group = now, 0, None, []


@torch.no_grad()
def evaluate(
    detector: Detector,
    batches: Iterable[Batch],
    accelerator: Accelerator,
    categories: Sequence[Category],
    on_batch: Callable[[int], None] = lambda images: None,
) -> list[dict[str, Any]]:
    """Detect on every batch, on all processes together.

    Args:
        detector: the bare detector, not a distributed wrapper; left in the mode that it came in.
        batches: this process's share of the images.
        accelerator: device, precision and processes.
        categories: whose ids the results carry; label k is `categories[k - 1]`.
        on_batch: called with the number of images of each finished batch.

    Returns:
        COCO results of all images, on every process: `image_id`, `category_id`, `bbox` xywh in pixels and `score`,
        by image id and falling score.
    """
    # Kept by module: frozen ones are in evaluation mode in training, too.
    was_training = [m for m in detector.modules() if m.training]
    detector.eval()
    _equal_buffers(detector, accelerator)
    results: list[dict[str, Any]] = []
    for images, targets in batches:
        images, _ = to_device(images, [], accelerator.device)
        with accelerator.autocast():
            detections = detector(images)
        for detection, target in zip(detections, targets, strict=True):
            results += coco_results(detection, int(target["image_id"]), categories)
        on_batch(len(images))
    for module in was_training:
        module.training = True
    if accelerator.num_processes > 1:
        results = gather_object(results)
    # They come process by process: sorted, the file is the same for any number of processes.
    return sorted(results, key=lambda r: (r["image_id"], -r["score"]))


@torch.no_grad()
def validation_loss(detector: Detector, batches: Iterable[Batch], accelerator: Accelerator, seed: int = 0) -> float:
    """Compute the mean over images of the training loss; statistics, weights and random state stay as they are.

    Each image goes through the detector alone, with a random stream of `seed` and its id: its loss depends neither on
    the images of its batch nor on the number of processes, and samples the same regions in every epoch.
    """
    image_ids, losses = [], []
    with kept_random_state(accelerator.device), _loss_mode(detector):
        for images, targets in batches:
            images, targets = to_device(images, targets, accelerator.device)
            for image, target in zip(images, targets, strict=True):
                image_ids.append(int(target["image_id"]))
                torch.manual_seed(item_seed(seed, 0, image_ids[-1]))
                with accelerator.autocast():
                    terms = detector([image], [target])
                losses.append(torch.stack(list(terms.values())).sum())
    of_images = list(zip(image_ids, torch.stack(losses).tolist() if losses else [], strict=True))
    if accelerator.num_processes > 1:
        of_images = gather_object(of_images)
    # `fsum` is exact, so that the order in which processes give their images does not matter.
    return math.fsum(loss for _, loss in of_images) / max(len(of_images), 1)


def coco_results(detection: dict[str, Tensor], image_id: int, categories: Sequence[Category]) -> list[dict[str, Any]]:
    """Convert one image's detections to COCO results.

    Boxes xywh are rounded to a thousandth of a pixel; scores are the shortest decimals that give the same float32, so
    that two detections have equal scores in a file only if they have in the detector.

    Raises:
        UserError: a label that is none of the categories'.
    """
    scores = detection["scores"].float().cpu().numpy().astype(str).astype(float)
    boxes = detection["boxes"].cpu().to(torch.float64, copy=True)
    boxes[:, 2:] -= boxes[:, :2]
    labels = detection["labels"].tolist()
    if wrong := [label for label in labels if not 1 <= label <= len(categories)]:
        raise UserError(f"detector.head: returned the label {wrong[0]}; labels are 1 … {len(categories)}, without 0.")
    rows = zip(boxes.tolist(), labels, scores.tolist(), strict=True)
    return [
        {
            "image_id": image_id,
            "category_id": categories[label - 1].id,
            "bbox": [round(x, 3) for x in box],
            "score": score,
        }
        for box, label, score in rows
    ]


@contextmanager
def _loss_mode(detector: Detector) -> Iterator[None]:
    """Set training mode where losses are made, and evaluation mode for features, norms, dropout and the resize."""
    modes = {module: module.training for module in detector.modules()}
    detector.train()
    for part in (detector.backbone, detector.context):  # which make no losses
        if part is not None:
            part.eval()
    for module in detector.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd):
            module.eval()
    detector.transform.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _equal_buffers(detector: nn.Module, accelerator: Accelerator) -> None:
    """Give every process the first one's batch statistics, so that all evaluate the same detector."""
    # DDP makes buffers equal before each forward pass in training, and the last one has changed them since.
    if accelerator.num_processes > 1:
        for buffer in detector.buffers():
            buffer.copy_(broadcast(buffer))


def _mean_over_processes(line: dict[str, float], accelerator: Accelerator) -> dict[str, float]:
    if accelerator.num_processes == 1:
        return line
    values = torch.tensor(list(line.values()), dtype=torch.float32, device=accelerator.device)
    return dict(zip(line, _over_processes(values, "mean", accelerator), strict=True))


def _over_processes(values: Tensor, reduction: str, accelerator: Accelerator) -> list[float]:
    return accelerator.reduce(values, reduction).tolist()  # type: ignore[union-attr]


def _stop_if_not_finite(
    line: dict[str, float], accelerator: Accelerator, group: list[Batch], failures: Path | None
) -> None:
    # In fp16 the gradient scaler skips updates whose gradients overflow and tries a smaller scale.
    watched = [k for k in line if k.startswith("loss") or (k == "grad_norm" and accelerator.mixed_precision != "fp16")]
    bad = [k for k in watched if not math.isfinite(line[k])]
    if not bad:
        return
    # Their sum, `loss`, and the gradient norm are not finite because a term is not: name the term.
    terms = [k for k in bad if k.startswith("loss_")] or bad
    ids = ", ".join(str(t["image_id"]) for _, targets in group for t in targets)
    saved = ""
    if failures is not None:
        path = failures / f"non_finite_batch_{accelerator.process_index}.pt"
        on_cpu = [to_device(*batch, torch.device("cpu")) for batch in group]
        torch.save([{"images": images, "targets": targets} for images, targets in on_cpu], path)
        saved = f" The batch is saved in {path}."
    raise UserError(
        f"training stopped: {' and '.join(f'{k} is {line[k]}' for k in terms)} on the images {ids}; "
        f"lower optimizer.lr, set optimizer.clip_norm, or check these images' boxes.{saved}"
    )
