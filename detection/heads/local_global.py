"""AC-CNN's head (Li et al. 2017): classes from a region and from the global context, boxes from the region alone.

    descriptors ───────► fc, fc ─┬─────────► box deltas
                                 └─► joined ─► class scores
    global descriptors ► fc, fc ────┘

That boxes do not see the global branch is recalled with doubt, as is what that branch is made of.
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead

from detection.contracts import Detections, Pool, PooledRegions, RefinementHead, Targets, at_least_float32
from detection.errors import UserError
from detection.heads.fast_rcnn import FastRCNN, Samples, as_probabilities
from detection.ranges import Channels
from detection.weights import LoadReport

# R boxes of all images, K classes.


class LocalGlobal(RefinementHead):
    """A Fast R-CNN head whose classes are also read from a global descriptor of each region.

    Without `global_pool` it is that head alone.

    Args:
        in_channels: channels of a descriptor.
        size: bins on its side.
        num_classes: foreground classes.
        fast_rcnn: the local branch with its losses and post-processing.
        global_pool: pool of the global descriptor: `CenterCell` on the map `context` when the context is equal at all
            locations, as `AttentionLSTM`'s is; None for no global branch.
        global_channels: width of the two fully connected layers of the global branch.
        local: whether classes are read from the local branch too.

    Raises:
        UserError: classes that would be read from neither branch.
    """

    def __init__(
        self,
        in_channels: int,
        size: int,
        num_classes: int,
        *,
        fast_rcnn: partial[FastRCNN] = partial(FastRCNN),
        global_pool: partial[Pool] | None = None,
        global_channels: Channels = 1024,
        local: bool = True,
    ) -> None:
        super().__init__()
        if not local and global_pool is None:
            raise UserError(
                "head.local=false: without a head.global_pool classes are read from nothing; give one, such as "
                "detection.pooling.CenterCell with stage=context, or set local=true."
            )
        self.fast_rcnn: FastRCNN = fast_rcnn(in_channels, size, num_classes)
        self.weights = self.fast_rcnn.weights
        self.global_channels, self.local = global_channels, local
        self._global_pool = global_pool
        self.global_pool: Pool | None = None
        self.global_branch: nn.Module | None = None

    def connect(self, channels: Mapping[str, int], strides: Mapping[str, int]) -> None:
        """Build the global pool and branch, and a class predictor that reads both branches."""
        if self._global_pool is None:
            return
        self.global_pool = pool = self.build_pool("global_pool", self._global_pool, channels, strides)
        self.global_branch = TwoMLPHead(pool.out_channels * pool.output_size**2, self.global_channels)
        scores = self.fast_rcnn.roi_heads.box_predictor.cls_score
        read = scores.in_features * self.local + self.global_channels
        self.fast_rcnn.roi_heads.box_predictor.cls_score = nn.Linear(read, scores.out_features)

    def sample(self, boxes: list[Tensor], targets: Targets) -> tuple[list[Tensor], Samples]:
        """Choose boxes as `FastRCNN` does."""
        return self.fast_rcnn.sample(boxes, targets)

    def forward(self, regions: PooledRegions, samples: Samples | None = None) -> tuple[Detections, dict[str, Tensor]]:
        """Classify and refine as `FastRCNN` does, with both branches."""
        return self.fast_rcnn.losses_or_detections(*self.logits_and_deltas(regions), regions, samples)

    def logits_and_deltas(self, regions: PooledRegions) -> tuple[Tensor, Tensor]:
        """Return logits (R, 1 + K) and box deltas (R, 4 + 4·K), in float32 or wider."""
        heads = self.fast_rcnn.roi_heads
        local = heads.box_head(regions.descriptors)
        read = [local] if self.local else []
        if self.global_pool is not None and self.global_branch is not None:
            read.append(self.global_branch(regions.pooled_by(self.global_pool)))
        logits, deltas = heads.box_predictor.cls_score(torch.cat(read, 1)), heads.box_predictor.bbox_pred(local)
        return at_least_float32(logits), at_least_float32(deltas)

    def predict(self, regions: PooledRegions) -> tuple[Tensor, Tensor]:
        """Return probabilities (R, 1 + K), the background first, and box deltas (R, 1 + K, 4)."""
        return as_probabilities(*self.logits_and_deltas(regions))

    def decode(
        self, probabilities: Tensor, deltas: Tensor, boxes: list[Tensor], image_sizes: list[tuple[int, int]]
    ) -> Detections:
        """Return candidates as `FastRCNN` does."""
        return self.fast_rcnn.decode(probabilities, deltas, boxes, image_sizes)

    def select(self, candidates: Detections, voting_iou: float | None = None) -> Detections:
        """Return detections as `FastRCNN` does."""
        return self.fast_rcnn.select(candidates, voting_iou)

    def load_pretrained(self) -> LoadReport | None:
        """Fill in the local branch's weights, see `FastRCNN`; the global branch keeps its random ones."""
        return self.fast_rcnn.load_pretrained()
