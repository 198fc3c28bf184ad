"""Kinds of detectors that are exported, with random weights that detect: small ones, and the shipped configs."""

from functools import partial

import torch
from torch import Tensor, nn

from detection.config import base_config, override
from detection.detector import Detector, build_detector
from detection.export.drawn_images import drawn_images
from detection.heads import SequenceHead

SMALL = [
    "detector.backbone.channels=(8, 16)",
    "detector.backbone.stem_channels=8",
    "detector.context.hidden_channels=8",
    "detector.head.hidden_channels=32",
    "detector.min_size=64",
    "detector.max_size=96",
]
CELLS = (
    "TanhRNN", "IRNN", "IndRNN", "Accumulator", "LSTM", "PeepholeLSTM", "TiedLSTM", "GRU", "MUT1", "MUT2", "MUT3",
    "MinGRU", "MinLSTM", "GatedLinear", "RGLRU", "S6", "SSD", "MLSTM", "SLSTM",
)  # fmt: skip
UNROLLED = ("TiedLSTM", "MUT1", "MUT2", "MUT3", "GridLSTM", "LinePropagation", "SLSTM")
CONTEXTS = {
    "NoContext": [],
    "ConvStack": ["hidden_channels=8"],
    "GlobalAverage": ["hidden_channels=8"],
    "NonLocal": ["hidden_channels=8"],
    "LargeKernel": ["hidden_channels=8", "kernel_size=7"],
    "SelfAttention": ["num_heads=2"],
    "RecurrentConv": ["norm=lrn"],
    "GridLSTM": ["hidden_channels=8"],
    "CrossScan": ["hidden_channels=8"],
    "CrossScan`, `SSD": ["hidden_channels=8", "cell=detection.cells.SSD"],
    "CrossScan`, `MLSTM": ["hidden_channels=8", "cell=detection.cells.MLSTM"],
    "LinePropagation": ["hidden_channels=8"],
    "ScanBlock": ["mixer.hidden_channels=8"],
    "AttentionLSTM": ["hidden_channels=8", "size=6"],
}

LITE0 = ["detector.min_size=96", "detector.max_size=128", "detector.regions.post_nms_top_n=(100, 100)"]
SHIPPED = {
    "faster_rcnn_crowd": [],
    "sequence_head_crowd": [],
    "reinspect_crowd": ["detector.head.postprocess=detection.heads.stitching.NMS"],
    "recurrent_surround": [],
    "quickstart": [],
    **dict.fromkeys(("finetune", "context_lite0_finetune", "ion_lite0_finetune", "accnn_lite0_finetune",
                     "recurrent_lite0_finetune", "sequence_head_lite0_finetune"), LITE0),
}  # fmt: skip


def spatial_rnn(cell: str) -> list[str]:
    """A small ION with another cell; without the norm, float32 is not exact enough for two layers of an mLSTM."""
    norm = [f"detector.context.rms_norm={cell == 'MLSTM'}".lower()]
    return [*SMALL, f"detector.context.cell=detection.cells.{cell}", *norm]


def context(name: str) -> list[str]:
    """A small ION with another context, of the cell that a name may have after it."""
    rest = [text for text in SMALL if "context" not in text]
    settings = [f"detector.context.{text}" for text in CONTEXTS[name]]
    return [*rest, f"detector.context=detection.context.{name.split('`')[0]}", *settings]


def build(config: str, overrides: list[str], pretrained: bool = False) -> Detector:
    """Build a detector of a shipped config, in evaluation mode, whose random weights find different things."""
    torch.manual_seed(0)
    settings = override(base_config(config), overrides)
    detector = build_detector(settings.detector, 3, resize_in_training=False)
    if pretrained:
        detector.backbone.load_pretrained()
    return lively(detector.eval())


@torch.no_grad()
def lively(detector: Detector) -> Detector:
    """Scale predictions to a spread of about 2, and fit batch norms to what they see."""
    images = [torch.from_numpy(image).permute(2, 0, 1) for image in drawn_images(4, 72, 96)]
    norms = [m for m in detector.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.train()
        norm.momentum = None
    detector(images)
    for norm in norms:
        norm.eval()
    for module, spread in _predictions(detector):
        handle = module.register_forward_hook(partial(_spread, spread))
        detector(images)
        handle.remove()
    if isinstance(detector.head, SequenceHead):
        detector.head.decoder.weight *= 4
        detector.head.decoder.weight[:, 4:] *= 6
    return detector


def _predictions(detector: Detector) -> list[tuple[nn.Module, float]]:
    spreads = {"cls_logits": 2.0, "bbox_pred": 0.3, "cls_score": 1.5}
    return [(m, spreads[n.split(".")[-1]]) for n, m in detector.named_modules() if n.split(".")[-1] in spreads]


def _spread(spread: float, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    if output.std() > 0:
        module.weight *= spread / output.std()
        module.bias -= output.mean() if spread > 1 and module.bias.ndim == 1 else 0
