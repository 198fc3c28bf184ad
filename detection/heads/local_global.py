"""AC-CNN's head (Li et al. 2017): classes from a region and from the whole image, boxes from the region alone.

    descriptors ───────► fc, fc ─┬─────────► box deltas
                                 └─► joined ─► class scores
    global descriptors ► fc, fc ────┘

That boxes do not see the global branch is recalled with doubt, as is what that branch is made of.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead

from detection.heads.fast_rcnn import FastRCNN, Samples
from detection.weights import LoadReport

# R boxes of all images, N of one, K classes.

FAST_RCNN = partial(FastRCNN)


class LocalGlobal(nn.Module):
    """A Fast R-CNN head whose classes are also read from a second descriptor of each region, without which it is that.

    The second is pooled by `detector.global_pool`: `CenterCell` on the map `context` when the context is equal at all
    cells, as `AttentionLSTM`'s is.

    Args:
        in_channels: channels of a descriptor.
        size: cells on its side.
        num_classes: foreground classes.
        fast_rcnn: the local branch, and what makes losses and detections of its numbers: a partial of `FastRCNN`.
        global_channels: of the two fully connected layers of the global branch.
        local: whether classes are read from the local branch too.
    """

    def __init__(
        self,
        in_channels: int,
        size: int,
        num_classes: int,
        *,
        fast_rcnn: partial = FAST_RCNN,
        global_channels: int = 1024,
        local: bool = True,
    ) -> None:
        super().__init__()
        self.fast_rcnn: FastRCNN = fast_rcnn(in_channels, size, num_classes)
        self.global_channels, self.local = global_channels, local
        self.global_branch: nn.Module | None = None

    @property
    def weights(self) -> str | None:
        """Of the local branch's layers at the start, see `FastRCNN`."""
        return self.fast_rcnn.weights

    def add_global(self, features: int) -> None:
        """Expect a global descriptor of `features` numbers of each region."""
        self.global_branch = TwoMLPHead(features, self.global_channels)
        scores = self.fast_rcnn.roi_heads.box_predictor.cls_score
        read = scores.in_features * self.local + self.global_channels
        self.fast_rcnn.roi_heads.box_predictor.cls_score = nn.Linear(read, scores.out_features)

    def sample(self, boxes: list[Tensor], targets: list[dict[str, Tensor]]) -> tuple[list[Tensor], Samples]:
        """See `FastRCNN`."""
        return self.fast_rcnn.sample(boxes, targets)

    def forward(
        self,
        descriptors: Tensor,
        boxes: list[Tensor],
        image_sizes: list[tuple[int, int]],
        samples: Samples | None,
        global_descriptors: Tensor | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Classify and refine, see `FastRCNN`.

        Args:
            descriptors: (R, C, h, w), R the boxes of all images in order.
            boxes: (N, 4) xyxy of each image.
            image_sizes: height and width of each image inside the batch.
            samples: what the boxes should become; needed in training.
            global_descriptors: (R, …), needed after `add_global`.
        """
        return self.fast_rcnn.answer(*self._read(descriptors, global_descriptors), boxes, image_sizes, samples)

    def _read(self, descriptors: Tensor, global_descriptors: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits (R, 1 + K) and deltas (R, 4 + 4·K) in float32."""
        heads = self.fast_rcnn.roi_heads
        local = heads.box_head(descriptors)
        seen = [local] if self.local else []
        if self.global_branch is not None:
            assert global_descriptors is not None, "after add_global the head needs global descriptors"
            seen.append(self.global_branch(global_descriptors))
        logits, deltas = heads.box_predictor.cls_score(torch.cat(seen, 1)), heads.box_predictor.bbox_pred(local)
        return logits.float(), deltas.float()

    def predict(self, descriptors: Tensor, global_descriptors: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Probabilities (R, 1 + K), the background first, and box deltas (R, 1 + K, 4)."""
        logits, deltas = self._read(descriptors, global_descriptors)
        return logits.softmax(-1), deltas.unflatten(1, (-1, 4))

    def decode(
        self, probabilities: Tensor, deltas: Tensor, boxes: list[Tensor], image_sizes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        """See `FastRCNN`."""
        return self.fast_rcnn.decode(probabilities, deltas, boxes, image_sizes)

    def select(self, candidates: list[dict[str, Tensor]], voting_iou: float | None = None) -> list[dict[str, Tensor]]:
        """See `FastRCNN`."""
        return self.fast_rcnn.select(candidates, voting_iou)

    def load_pretrained(self) -> LoadReport | None:
        """See `FastRCNN`; the global branch starts at random."""
        return self.fast_rcnn.load_pretrained()
