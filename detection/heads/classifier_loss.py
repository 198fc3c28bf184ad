"""Loss of a softmax classifier of regions: cross entropy, with weights of classes, or focal (Lin et al., ICCV 2017).

The focal loss is the paper's eq. 5 with the softmax's p_t in place of the sigmoid's, and class weights as its α_t: the
classifier keeps its background class, its inference and pretrained weights. It is averaged over the sampled regions
as cross entropy is, and equals it at γ = 0; the paper's sum over all anchors, by the positive ones, is for one stage.
"""

# R regions, K classes.

import difflib
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection.errors import UserError

BACKGROUND = "background"
NO_WEIGHTS: dict[str, float] = {}


class ClassifierLoss(nn.Module):
    """Mean loss of regions, each by the weight of its class.

    Args:
        num_classes: K, foreground classes.
        focal_gamma: γ; 0 for cross entropy.
        class_weights: by class name, and `background`; 1 for the others. They need `set_class_names`.
    """

    weights: Tensor | None

    def __init__(
        self, num_classes: int, focal_gamma: float = 0.0, class_weights: Mapping[str, float] = NO_WEIGHTS
    ) -> None:
        super().__init__()
        self.focal_gamma, self.class_weights, self.named = focal_gamma, dict(class_weights), not class_weights
        weights = torch.ones(1 + num_classes) if class_weights else None
        self.register_buffer("weights", weights, persistent=False)

    def set_class_names(self, names: Sequence[str]) -> None:
        """Take up the names of classes, label k being the (k − 1)-th, so that weights find theirs.

        Raises:
            UserError: a weight of a class that does not exist, or of a name that two classes share.
        """
        if self.weights is None:
            return
        rows = {BACKGROUND: [0]} if BACKGROUND not in names else {}
        for label, name in enumerate(names, start=1):
            rows.setdefault(name, []).append(label)
        self.weights.fill_(1)
        for name, weight in self.class_weights.items():
            key = f"head.class_weights.{name}"
            if name not in rows:
                near = difflib.get_close_matches(name, rows, n=1)
                known = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(list(rows)[:20])}."
                raise UserError(f"{key}: the data has no class of this name; {known}")
            if len(rows[name]) > 1:
                raise UserError(f"{key}: {len(rows[name])} classes have this name; give them different ones.")
            self.weights[rows[name][0]] = weight
        self.named = True

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of logits (R, 1 + K) by labels (R,), 0 the background; R is at least 1.

        Raises:
            UserError: weights of classes without `set_class_names`.
        """
        if self.weights is None:
            return self.each(logits, labels).mean() if self.focal_gamma else F.cross_entropy(logits, labels)
        loss = self.each(logits, labels)
        # All weights of a sample may be 0.
        return loss.sum() / self.weights[labels].sum().clamp(min=torch.finfo(loss.dtype).tiny)

    def each(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each region (R,) times the weight of its class.

        Raises:
            UserError: weights of classes without `set_class_names`.
        """
        self._require_names()
        if self.focal_gamma:
            loss = self._focal(logits.log_softmax(-1).gather(1, labels[:, None])[:, 0])
        else:
            loss = F.cross_entropy(logits, labels, reduction="none")
        return loss if self.weights is None else loss * self.weights[labels]

    def of_every_label(self, logits: Tensor) -> Tensor:
        """Return what `each` would be by every label: (…, 1 + K) of logits (…, 1 + K)."""
        self._require_names()
        log_p = logits.log_softmax(-1)
        loss = self._focal(log_p) if self.focal_gamma else -log_p
        return loss if self.weights is None else loss * self.weights

    def _focal(self, log_p: Tensor) -> Tensor:
        # 1 − p above 0, where the power with γ < 1 has an infinite slope.
        return -(-torch.expm1(log_p)).clamp(min=1e-12).pow(self.focal_gamma) * log_p

    def _require_names(self) -> None:
        if not self.named:
            raise UserError("head.class_weights: classes have no names yet; call detection.heads.name_classes first.")


CROSS_ENTROPY = ClassifierLoss(0)
"""Cross entropy, of any number of classes."""


def name_classes(model: nn.Module, names: Sequence[str]) -> None:
    """Hand the names of classes, in the order of labels, to the losses of a detector that have weights for them.

    Raises:
        UserError: a weight of a class that does not exist.
    """
    for module in model.modules():
        if isinstance(module, ClassifierLoss):
            module.set_class_names(names)
