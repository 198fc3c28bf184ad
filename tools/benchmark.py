"""Measure what we claim about speed. Ratios come from interleaved runs in one process; read absolute times as hints.

python tools/benchmark.py [NAME ...] [--device cpu|cuda] [--output FILE.json]

  train-step   our training step against the plain torchvision loop of the same model (EfficientNet-Lite0 FPN, 240x320)
  sweep        four directions of recurrent cells against a plain loop and PyTorch's RNNs; memory; on CUDA bandwidth too
  ion-step     a training step of configs/ion_lite0_finetune.py against one of configs/finetune.py
  roi-align    our RoIAlign against torchvision's, backward alone and with the forward, at two sizes
  index        a synthetic file of COCO's size: first indexing, opening again, memory of a loading process
  evaluation   200 000 detections on 2000 images: pycocotools against hotcoco
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from detection.errors import UserError, command_line

Figures = dict[str, float | str]


def interleaved(functions: dict[str, Callable[[], object]], rounds: int, settle: Callable[[], object]) -> Figures:
    """Median seconds of each function, called in turn, and the ratio of the first's to the second's, round by round."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for position in range(rounds + 2):
        for name, function in functions.items():
            settle()
            began = time.perf_counter()
            function()
            settle()
            if position >= 2:  # two rounds to warm up
                times[name].append(time.perf_counter() - began)
    first, second = times.values()
    ratios = [a / b for a, b in zip(first, second, strict=True)]
    figures: Figures = {f"{name} (s, median)": statistics.median(t) for name, t in times.items()}
    return {**figures, f"{' / '.join(times)} (median of {rounds} ratios)": statistics.median(ratios)}


def train_step(device: str) -> Figures:
    """One update on two 240x320 pictures with 14 boxes each: ours, with logging and checks, against the bare loop."""
    import torch

    ours, our_step = our_train_step(device, "finetune")
    theirs = torchvision_twin(ours).to(device).train()
    optimizer = torch.optim.SGD(theirs.parameters(), lr=1e-9, momentum=0.9, weight_decay=1e-4)
    images, targets = two_pictures()
    floats = [image.float() / 255 for image in images]

    def plain_step() -> None:
        """The step of torchvision's reference script, its check of the loss included."""
        torch.manual_seed(1)
        batch = [image.to(device) for image in floats]
        truth = [{k: v.to(device) for k, v in t.items() if k != "image_id"} for t in targets]
        loss = sum(theirs(batch, truth).values())
        if not torch.isfinite(loss).item():
            raise FloatingPointError
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    settle = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    return interleaved({"our step": our_step, "plain torchvision step": plain_step}, 25, settle)


def ion_step(device: str) -> Figures:
    """One update on two 240x320 pictures with 14 boxes each: the ION of ion_lite0_finetune.py against finetune.py."""
    import torch

    steps = {name: our_train_step(device, name)[1] for name in ("ion_lite0_finetune", "finetune")}
    return interleaved(steps, 15, torch.cuda.synchronize if device == "cuda" else (lambda: None))


def our_train_step(device: str, name: str):
    """The detector of a config, from its own weights, and a function that updates it once on `two_pictures`."""
    import torch
    from accelerate import Accelerator

    from detection.config import load_config
    from detection.detector import build_detector, load_pretrained
    from detection.engine import train_one_epoch
    from detection.freezing import freeze

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
    images, targets = two_pictures()
    lines: list[dict[str, float]] = []

    def step() -> None:
        torch.manual_seed(1)
        train_one_epoch(model, [(images, targets)], 1, optimizer, scheduler, accelerator, log=lines.append)

    return detector, step


def two_pictures():
    """Two pictures (3, 240, 320) of noise and targets of 14 boxes each, always the same."""
    import torch

    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, 240, 320), dtype=torch.uint8, generator=generator) for _ in range(2)]
    corners = torch.rand(2, 14, 2, generator=generator) * torch.tensor([260.0, 180.0])
    boxes = torch.cat([corners, corners + 20 + torch.rand(2, 14, 2, generator=generator) * 40], dim=2)
    labels = torch.randint(1, 4, (2, 14), generator=generator)
    return images, [
        {"boxes": b, "labels": k, "image_id": i} for i, (b, k) in enumerate(zip(boxes, labels, strict=True))
    ]


def sweep(device: str) -> Figures:
    """2x256x38x50 in float32 on a CPU, ION's 4x512x38x63 in bfloat16 (RNNs in float32) on CUDA; all maps channels last.

    The accumulator: all four directions, against `h = relu(h + x[..., t])` step by step, stacked; and against the same
    over `x.unbind()`, whose gradient is one stack instead of a map a step. The gradient that comes in lies channels
    last, as the 1x1 convolution that follows returns it; the loops are faster so, too. Memory is what a forward and
    backward pass hold at once; the map, 1, and the gradient that comes in, 4, not counted.
    IRNN, LSTM and GRU: ours is one 1x1 convolution and four sweeps, theirs two bidirectional `nn.RNN`, `nn.LSTM` and
    `nn.GRU` over rows and columns, with their own input sides and what it takes to bring the map to them and back.
    """
    import torch

    from detection.ops.accumulate import accumulate

    torch.manual_seed(0)
    cuda = device == "cuda"
    settle = torch.cuda.synchronize if cuda else (lambda: None)
    rounds = 31
    shape, dtype = ((4, 512, 38, 63), torch.bfloat16) if cuda else ((2, 256, 38, 50), torch.float32)
    x = channels_last(torch.randn(shape, device=device, dtype=dtype)).requires_grad_()
    grad = channels_last(torch.randn(shape[0], 4 * shape[1], *shape[2:], device=device, dtype=dtype))

    def ours(m):
        return accumulate(m, None, None, "right left down up")

    figures: Figures = {}
    for loop in ("select", "unbind"):
        ways = {f"loop by {loop}": partial(loop_accumulate, cut=loop), "ours": ours}
        forward = {f"accumulator {n}": lambda f=f: f(x.detach()) for n, f in ways.items()}
        both = {
            f"accumulator {n}, with backward": lambda f=f: torch.autograd.grad(f(x), x, grad) for n, f in ways.items()
        }
        figures |= interleaved(forward, rounds, settle) | interleaved(both, rounds, settle)
    peak = peak_bytes(lambda: torch.autograd.grad(ours(x), x, grad), device)
    figures["accumulator: peak memory / the input map's"] = peak / x.nbytes
    if cuda:
        out = ours(x.detach())
        copied = interleaved({"copy": lambda: out.copy_(grad), "sweep": lambda: ours(x.detach())}, rounds, settle)
        # A copy reads and writes four maps; the sweeps must read one and write four.
        figures["accumulator: part of the copy's bandwidth"] = copied["copy / sweep (median of 31 ratios)"] * 5 / 8
    for name in ("IRNN", "LSTM", "GRU"):
        figures |= rnn_ratios(name, device, x.detach().float().requires_grad_(), 9, settle)
    return figures


def channels_last(x):
    """The map in channels-last memory."""
    import torch

    return x.contiguous(memory_format=torch.channels_last)


def loop_accumulate(x, cut: str):
    """The accumulator in plain PyTorch; slices by `select`, as indexing does, or all at once by `unbind`."""
    import torch

    outputs = []
    for dim, backwards in ((3, False), (3, True), (2, False), (2, True)):
        steps = x.unbind(dim) if cut == "unbind" else [x.select(dim, t) for t in range(x.shape[dim])]
        h, states = None, []
        for x_t in reversed(steps) if backwards else steps:
            h = torch.relu(x_t if h is None else h + x_t)
            states.append(h)
        outputs.append(torch.stack(states[::-1] if backwards else states, dim))
    return torch.cat(outputs, 1)


def rnn_ratios(name: str, device: str, x, rounds: int, settle: Callable[[], object]) -> Figures:
    """Two bidirectional RNNs of PyTorch over rows and columns against our four sweeps."""
    import torch
    from torch import nn

    from detection import cells as kinds
    from detection.ops.directions import DIRECTIONS
    from detection.ops.sweep import sweep

    size = x.shape[1]
    kind = getattr(kinds, name)
    cells = nn.ModuleList(kind(size) for _ in DIRECTIONS).to(device)
    conv = nn.Conv2d(size, kind.gates * size, 1).to(device, memory_format=torch.channels_last)
    make = {"IRNN": lambda **k: nn.RNN(nonlinearity="relu", **k), "LSTM": nn.LSTM, "GRU": nn.GRU}[name]
    rnns = nn.ModuleList(make(input_size=size, hidden_size=size, bidirectional=True) for _ in range(2)).to(device)

    def theirs():
        outputs = []
        for rnn, to_lines, back in zip(rnns, ((3, 0, 2, 1), (2, 0, 3, 1)), ((1, 3, 2, 0), (1, 3, 0, 2)), strict=True):
            lines = x.permute(to_lines)
            outputs.append(rnn(lines.flatten(1, 2))[0].unflatten(1, lines.shape[1:3]).permute(back))
        return torch.cat(outputs, 1)

    def ours():
        return sweep(list(cells), conv(x), None, DIRECTIONS)  # type: ignore[arg-type]

    grad = channels_last(torch.randn_like(theirs()))
    learned = {theirs: [x, *rnns.parameters()], ours: [x, *conv.parameters(), *cells.parameters()]}
    ways = {f"{name} of nn": theirs, f"{name} ours": ours}

    def forward(way):
        with torch.no_grad():
            way()

    figures = interleaved({n: lambda w=w: forward(w) for n, w in ways.items()}, rounds, settle)
    both = {f"{n}, with backward": lambda w=w: torch.autograd.grad(w(), learned[w], grad) for n, w in ways.items()}
    return figures | interleaved(both, rounds, settle)


def peak_bytes(function: Callable[[], object], device: str) -> int:
    """The most memory that a call holds beyond what was there before."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    function()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


def roi_align(device: str) -> Figures:
    """1024 boxes of 8 to 320 pixels on the pyramid of two 240x320 pictures; then 256 on one map of 64 channels."""
    big = roi_align_ratios(device, (4, 8, 16, 32), (2, 256, 240, 320), 1024, 2)
    small = roi_align_ratios(device, (4,), (8, 64, 128, 128), 256, 1)
    return {f"{size}, {k}": v for size, figures in (("pyramid", big), ("one map", small)) for k, v in figures.items()}


def roi_align_ratios(
    device: str, strides: tuple[int, ...], shape: tuple[int, ...], count: int, samples: int
) -> Figures:
    """Our pool and torchvision's on maps of pictures of `shape` (B, C, H, W), `count` boxes in all."""
    import torch

    from detection.pooling import RoIAlign

    torch.manual_seed(0)
    images, channels, height, width = shape
    maps = {
        f"p{s}": torch.randn(images, channels, height // s, width // s, device=device, requires_grad=True)
        for s in strides
    }
    named = dict(zip(maps, strides, strict=True))
    pool = RoIAlign(dict.fromkeys(maps, channels), named, stages=tuple(maps), sampling_ratio=samples)
    sides = 8 + (min(height, 320) - 8) * torch.rand(count, 2) ** 2
    centres = torch.rand(count, 2) * torch.tensor([width, height])
    limits = torch.tensor([width, height] * 2)
    corners = torch.cat([centres - sides / 2, centres + sides / 2], dim=1).clamp(min=0).minimum(limits)
    boxes, sizes = list(corners.to(device).chunk(images)), [(height, width)] * images
    pools = {"ours": pool, "torchvision's": pool.align}
    grad = torch.randn(count, channels, 7, 7, device=device)
    outputs = {name: p(maps, boxes, sizes) for name, p in pools.items()}

    def backward(output):
        return lambda: torch.autograd.grad(output, list(maps.values()), grad, retain_graph=True)

    def both(p):
        return lambda: torch.autograd.grad(p(maps, boxes, sizes), list(maps.values()), grad)

    settle = torch.cuda.synchronize if device == "cuda" else (lambda: None)
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
    """80 classes, 7 truths and 100 detections an image, a third of them near a truth."""
    import numpy as np

    from detection.evaluation.coco import coco_metrics

    rng = np.random.default_rng(0)
    images, truths, found = 2000, 14_000, 200_000
    boxes = np.concatenate([rng.uniform(0, 400, (truths, 2)), rng.uniform(10, 200, (truths, 2))], axis=1)
    owners, labels = rng.integers(1, images + 1, truths), rng.integers(1, 81, truths)
    near = rng.integers(0, truths, found)
    shift = np.where(rng.random(found) < 1 / 3, 5, 200)[:, None]
    guesses = np.abs(boxes[near] + rng.normal(0, 1, (found, 4)) * shift) + 1
    truth = {
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
        metrics[backend] = coco_metrics(truth, results, backend)
        times[backend] = time.perf_counter() - began
    equal = {k: v for k, v in metrics["hotcoco"].items() if k != "backend"} == {
        k: v for k, v in metrics["pycocotools"].items() if k != "backend"
    }
    figures: Figures = {f"{name} (s)": seconds for name, seconds in times.items()}
    return {**figures, "equal numbers": str(equal)}


BENCHMARKS = {
    "train-step": train_step,
    "sweep": sweep,
    "ion-step": ion_step,
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
