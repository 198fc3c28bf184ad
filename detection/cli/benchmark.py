"""Measure what we claim about speed. Ratios come from interleaved runs in one process; read absolute times as hints.

detection benchmark [NAME ...] [--device cpu|cuda] [--output FILE.json]

  train-step   our training step against the plain torchvision loop of the same model (EfficientNet-Lite0 FPN, 240x320)
  sweep        four directions of recurrent cells against a plain loop and PyTorch's RNNs; memory; on CUDA bandwidth too
  matching     2400 regions with 5 steps matched at once, against SciPy in a loop; the decoder against its backbone
  ion-step, accnn-step, recurrent-step
               a training step of configs/{ion,accnn,recurrent}_lite0_finetune.py against one of configs/finetune.py
  local-response  local response normalization of RCNN-96 against PyTorch's
  roi-align    our RoIAlign against torchvision's, backward alone and with the forward, at two sizes
  index        a synthetic file of COCO's size: first indexing, opening again, memory of a loading process
  evaluation   200 000 detections on 2000 images: pycocotools against hotcoco
"""

import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from detection.analysis.timing import Figures, interleaved, settle_on
from detection.benchmarks.decoder import matching
from detection.benchmarks.sweep import sweep
from detection.cli import command_parser
from detection.errors import UserError, command_line


def train_step(device: str) -> Figures:
    """One update on two 240x320 images with 14 boxes each: ours, with logging and checks, against the bare loop."""
    import torch

    ours, our_step = our_train_step(device, "finetune")
    theirs = torchvision_twin(ours).to(device).train()
    optimizer = torch.optim.SGD(theirs.parameters(), lr=1e-9, momentum=0.9, weight_decay=1e-4)
    images, targets = two_images()
    floats = [image.float() / 255 for image in images]

    def plain_step() -> None:
        """The step of torchvision's reference script, its check of the loss included."""
        torch.manual_seed(1)
        batch = [image.to(device) for image in floats]
        ground_truth = [{k: v.to(device) for k, v in t.items() if k != "image_id"} for t in targets]
        loss = sum(theirs(batch, ground_truth).values())
        if not torch.isfinite(loss).item():
            raise FloatingPointError
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    settle = settle_on(device)
    return interleaved({"our step": our_step, "plain torchvision step": plain_step}, 25, settle)


def step_beside_plain(name: str, device: str) -> Figures:
    """One update on two 240x320 images with 14 boxes each: a config's detector against that of finetune.py."""
    steps = {config: our_train_step(device, config)[1] for config in (name, "finetune")}
    return interleaved(steps, 15, settle_on(device))


def our_train_step(device: str, name: str):
    """The detector of a config, from its own weights, and a function that updates it once on `two_images`."""
    import torch
    from accelerate import Accelerator

    from detection.config import load_config
    from detection.detector import build_detector
    from detection.pretrained import load_pretrained
    from detection.training.engine import train_one_epoch
    from detection.training.freezing import freeze

    config = load_config(Path(__file__).parents[1] / "configs" / f"{name}.py")
    torch.manual_seed(0)
    detector = build_detector(config.detector, 3, resize_in_training=False)
    load_pretrained(detector, None)
    freeze(detector, {}, 0)
    accelerator = Accelerator(cpu=device == "cpu")
    # So small a rate that the weights stay as they are, and the proposals with them, round after round.
    optimizer = torch.optim.SGD(detector.parameters(), lr=1e-9, momentum=0.9, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    model, optimizer = accelerator.prepare(detector, optimizer)
    images, targets = two_images()
    lines: list[dict[str, float]] = []

    def step() -> None:
        torch.manual_seed(1)
        train_one_epoch(model, [(images, targets)], 1, optimizer, scheduler, accelerator, log=lines.append)

    return detector, step


def two_images():
    """Two images (3, 240, 320) of noise and targets of 14 boxes each, always the same."""
    import torch

    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, 240, 320), dtype=torch.uint8, generator=generator) for _ in range(2)]
    corners = torch.rand(2, 14, 2, generator=generator) * torch.tensor([260.0, 180.0])
    boxes = torch.cat([corners, corners + 20 + torch.rand(2, 14, 2, generator=generator) * 40], dim=2)
    labels = torch.randint(1, 4, (2, 14), generator=generator)
    return images, [
        {"boxes": b, "labels": k, "image_id": i} for i, (b, k) in enumerate(zip(boxes, labels, strict=True))
    ]


def roi_align(device: str) -> Figures:
    """1024 boxes of 8 to 320 pixels on the pyramid of two 240x320 images; then 256 on one map of 64 channels."""
    big = roi_align_ratios(device, (4, 8, 16, 32), (2, 256, 240, 320), 1024, 2)
    small = roi_align_ratios(device, (4,), (8, 64, 128, 128), 256, 1)
    return {f"{size}, {k}": v for size, figures in (("pyramid", big), ("one map", small)) for k, v in figures.items()}


def roi_align_ratios(
    device: str, strides: tuple[int, ...], shape: tuple[int, ...], count: int, samples: int
) -> Figures:
    """Our pool and torchvision's on maps of images of `shape` (B, C, H, W), `count` boxes in all."""
    import torch

    from detection.pooling import RoIAlign

    torch.manual_seed(0)
    images, channels, height, width = shape
    features = {
        f"p{s}": torch.randn(images, channels, height // s, width // s, device=device, requires_grad=True)
        for s in strides
    }
    named = dict(zip(features, strides, strict=True))
    pool = RoIAlign(dict.fromkeys(features, channels), named, stages=tuple(features), sampling_ratio=samples)
    sides = 8 + (min(height, 320) - 8) * torch.rand(count, 2) ** 2
    centers = torch.rand(count, 2) * torch.tensor([width, height])
    limits = torch.tensor([width, height] * 2)
    corners = torch.cat([centers - sides / 2, centers + sides / 2], dim=1).clamp(min=0).minimum(limits)
    boxes, sizes = list(corners.to(device).chunk(images)), [(height, width)] * images
    pools = {"ours": pool, "torchvision's": pool.align}
    grad = torch.randn(count, channels, 7, 7, device=device)
    outputs = {name: p(features, boxes, sizes) for name, p in pools.items()}

    def backward(output):
        return lambda: torch.autograd.grad(output, list(features.values()), grad, retain_graph=True)

    def both(p):
        return lambda: torch.autograd.grad(p(features, boxes, sizes), list(features.values()), grad)

    settle = settle_on(device)
    back = interleaved({f"{n} backward": backward(o) for n, o in outputs.items()}, 9, settle)
    return {**back, **interleaved({f"{n} forward and backward": both(p) for n, p in pools.items()}, 9, settle)}


def torchvision_twin(detector):
    """The `FasterRCNN` of torchvision with the backbone, pyramid and weights of a `configs/finetune.py` detector."""
    import timm
    from torch import nn
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

    from detection.weights import load_state

    class Backbone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            network = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(1, 2, 3, 4))
            self.body = timm.layers.freeze_batch_norm_2d(network)
            channels = network.feature_info.channels()
            self.fpn = FeaturePyramidNetwork(channels, 256, LastLevelMaxPool(), norm_layer=nn.BatchNorm2d)
            self.out_channels = 256

        def forward(self, x):
            return self.fpn({str(i): y for i, y in enumerate(self.body(x))})

    anchors = AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    twin = FasterRCNN(
        Backbone(),
        num_classes=4,
        rpn_anchor_generator=anchors,
        min_size=240,
        max_size=320,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    names = (("backbone.body.body.", "backbone.body."), ("regions.rpn.", "rpn."), ("head.roi_heads.", "roi_heads."))
    state = detector.state_dict()
    for ours, theirs in names:
        state = {theirs + n[len(ours) :] if n.startswith(ours) else n: t for n, t in state.items()}
    load_state(twin, state, "our detector", at_least=1.0)
    return twin


def local_response(device: str) -> Figures:
    """LRN of RCNN-96 on two maps of 60x80 cells, forward and backward: ours against PyTorch's."""
    import torch
    from torch.nn.functional import local_response_norm

    from detection.context.local_response_norm import LocalResponseNorm

    ours = LocalResponseNorm(96, 13).to(device)
    x = torch.rand(2, 96, 60, 80, device=device, requires_grad=True)

    def both_ways(norm) -> None:
        torch.autograd.grad(norm(x).sum(), x)

    functions = {
        "our LRN": lambda: both_ways(ours),
        "PyTorch's LRN": lambda: both_ways(lambda x: local_response_norm(x, 13, alpha=0.001, beta=0.75, k=1.0)),
    }
    return interleaved(functions, 15, settle_on(device))


def index(device: str) -> Figures:
    """118 000 images and 860 000 boxes of 80 categories, 115 MB of JSON."""
    from detection.data.coco_index import load_index

    with tempfile.TemporaryDirectory() as folder:
        path, cache = Path(folder) / "synthetic.json", Path(folder) / "cache"
        synthetic_coco(path)
        began = time.perf_counter()
        load_index(path, cache_dir=cache)
        first = time.perf_counter() - began
        began = time.perf_counter()
        load_index(path, cache_dir=cache)
        again = time.perf_counter() - began
        code = _WORKER_MEMORY.format(path=str(path), cache=str(cache))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {
        "first indexing (s)": first,
        "opening again, with hashing (s)": again,
        "private memory of a loading process (MB)": float(done.stdout),
    }


_WORKER_MEMORY = """
import os, re
from pathlib import Path
from detection.data.coco_index import load_index

def private():
    text = Path("/proc/self/smaps_rollup").read_text()
    return sum(int(n) for n in re.findall(r"Private_(?:Clean|Dirty): +([0-9]+) kB", text)) / 1024

index = load_index({path!r}, cache_dir=Path({cache!r}))
reader, writer = os.pipe()
if os.fork() == 0:  # as a DataLoader worker is made on Linux
    for i in range(len(index)):
        index.file_name(i), index.boxes[index.box_offsets[i] : index.box_offsets[i + 1]]
    os.write(writer, str(private()).encode())
    os._exit(0)
os.wait()
print(os.read(reader, 100).decode())
"""


def synthetic_coco(path: Path, images: int = 118_000, boxes: int = 860_000, categories: int = 80) -> None:
    """Write an annotation file of COCO's size, without masks."""
    import numpy as np

    rng = np.random.default_rng(0)
    owners = rng.integers(1, images + 1, boxes).tolist()
    labels = rng.integers(1, categories + 1, boxes).tolist()
    corners = rng.uniform(0, 400, (boxes, 2)).round(2).tolist()
    sides = rng.uniform(2, 80, (boxes, 2)).round(2).tolist()
    rows = enumerate(zip(owners, labels, corners, sides, strict=True), start=1)
    data = {
        "images": [{"id": i, "file_name": f"{i:012d}.jpg", "width": 640, "height": 480} for i in range(1, images + 1)],
        "annotations": [
            {"id": i, "image_id": o, "category_id": c, "bbox": p + s, "area": s[0] * s[1], "iscrowd": 0}
            for i, (o, c, p, s) in rows
        ],
        "categories": [{"id": k, "name": f"class {k}"} for k in range(1, categories + 1)],
    }
    path.write_text(json.dumps(data))


def evaluation(device: str) -> Figures:
    """80 classes, 7 ground-truth boxes and 100 detections an image, a third of them near a ground truth."""
    import numpy as np

    from detection.evaluation.coco import coco_metrics

    rng = np.random.default_rng(0)
    images, targets, found = 2000, 14_000, 200_000
    boxes = np.concatenate([rng.uniform(0, 400, (targets, 2)), rng.uniform(10, 200, (targets, 2))], axis=1)
    owners, labels = rng.integers(1, images + 1, targets), rng.integers(1, 81, targets)
    near = rng.integers(0, targets, found)
    shift = np.where(rng.random(found) < 1 / 3, 5, 200)[:, None]
    guesses = np.abs(boxes[near] + rng.normal(0, 1, (found, 4)) * shift) + 1
    ground_truth = {
        "images": [{"id": i, "width": 640, "height": 640} for i in range(1, images + 1)],
        "categories": [{"id": k, "name": str(k)} for k in range(1, 81)],
        "annotations": [
            {"id": i, "image_id": int(o), "category_id": int(c), "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
            for i, (o, c, b) in enumerate(zip(owners, labels, boxes.tolist(), strict=True), start=1)
        ],
    }
    rows = zip(near, guesses.tolist(), rng.random(found).tolist(), strict=True)
    results = [{"image_id": int(owners[n]), "category_id": int(labels[n]), "bbox": b, "score": s} for n, b, s in rows]
    times, metrics = {}, {}
    for backend in ("pycocotools", "hotcoco"):
        began = time.perf_counter()
        metrics[backend] = coco_metrics(ground_truth, results, backend)
        times[backend] = time.perf_counter() - began
    equal = {k: v for k, v in metrics["hotcoco"].items() if k != "backend"} == {
        k: v for k, v in metrics["pycocotools"].items() if k != "backend"
    }
    figures: Figures = {f"{name} (s)": seconds for name, seconds in times.items()}
    return {**figures, "equal numbers": str(equal)}


BENCHMARKS = {
    "train-step": train_step,
    "sweep": sweep,
    "matching": matching,
    "ion-step": partial(step_beside_plain, "ion_lite0_finetune"),
    "accnn-step": partial(step_beside_plain, "accnn_lite0_finetune"),
    "recurrent-step": partial(step_beside_plain, "recurrent_lite0_finetune"),
    "local-response": local_response,
    "roi-align": roi_align,
    "index": index,
    "evaluation": evaluation,
}


def machine(device: str) -> dict[str, Any]:
    """What the figures were taken on."""
    from importlib.metadata import version

    import torch

    return {
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["python", *sys.argv]),
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("torch", "torchvision", "numpy", "pycocotools")},
    }


@command_line
def main(argv: list[str] | None = None) -> None:
    """Run the benchmarks that were named, all if none was."""
    parser = command_parser("benchmark", __doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)}; all if left out")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--output", type=Path, help="write the figures as JSON too")
    args = parser.parse_args(argv)
    unknown = [name for name in args.names if name not in BENCHMARKS]
    if unknown:
        raise UserError(f"{unknown[0]}: no such benchmark; known: {', '.join(BENCHMARKS)}.")
    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no CUDA device is available here; use --device cpu.")
    report: dict[str, Any] = {"machine": machine(args.device)}
    for name in args.names or BENCHMARKS:
        report[name] = BENCHMARKS[name](args.device)
        print(name)
        for what, figure in report[name].items():
            print(f"  {what:50} {figure if isinstance(figure, str) else format(figure, '.4g')}", flush=True)
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
