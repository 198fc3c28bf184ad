"""Confusions of classes as a table for a spreadsheet."""

import csv
import io
import math

from detection.evaluation.curves import Matching, confusion_counts
from detection.names import csv_name


def confusion_csv(matching: Matching, score: float) -> str:
    """Return a line for each pair of true and predicted class that occurs, with its number.

    Args:
        matching: detections and their matches at IoU 0.5.
        score: smallest score of a detection; -1 for all.
    """
    buffer = io.StringIO()
    table = csv.writer(buffer, lineterminator="\n")
    table.writerow(("ground_truth", "predicted", "number"))
    names = [*map(csv_name, matching.targets.names), "background"]
    counts = confusion_counts(matching, score if score != -1 else -math.inf)
    table.writerows((names[t], names[p], n) for t, p, n in zip(*(c.tolist() for c in counts), strict=True))
    return buffer.getvalue()
