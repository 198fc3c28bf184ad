"""Image classifiers: any backbone, trained on images with the detectors' engine.

They repeat the evaluation of the recurrent convolution's paper: RCNN-K on small images.
"""

from detection.classification.augment import ImageAugmentation
from detection.classification.config import ClassifierConfig, ImageData
from detection.classification.network import Classifier

__all__ = ["Classifier", "ClassifierConfig", "ImageAugmentation", "ImageData"]
