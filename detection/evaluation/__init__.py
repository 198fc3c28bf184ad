"""Evaluation of detections: COCO's and VOC's metrics, curves, tables and plots. Nothing here needs torch."""

from detection.evaluation.coco import METRICS, coco_metrics
from detection.evaluation.report import (
    evaluate_detections,
    is_defined,
    metric_text,
    metrics_table,
    write_evaluation,
    write_metrics,
)
from detection.evaluation.results import read_ground_truth, read_results
from detection.evaluation.voc import voc_metrics

__all__ = [
    "METRICS",
    "coco_metrics",
    "evaluate_detections",
    "is_defined",
    "metric_text",
    "metrics_table",
    "read_results",
    "read_ground_truth",
    "voc_metrics",
    "write_evaluation",
    "write_metrics",
]
