"""The counts of `confusion_counts` as a matrix."""

import numpy as np

from detection.evaluation.curves import Matching, confusion_counts


def confusion_matrix(matching: Matching, score: float) -> np.ndarray:
    """Return (K + 1, K + 1): true class by predicted class, the last one background."""
    size = len(matching.targets.names) + 1
    matrix = np.zeros((size, size), dtype=np.int64)
    true, predicted, number = confusion_counts(matching, score)
    matrix[true, predicted] = number
    return matrix
