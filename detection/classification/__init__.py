"""Image classifiers: any backbone, trained on whole images with the detectors' engine.

They are here for the check that the recurrent convolution's paper did itself: RCNN-K on small images.
"""

from detection.classification.augment import ImageAugmentation
from detection.classification.config import ClassifierConfig, ImageData
from detection.classification.network import Classifier

__all__ = ["Classifier", "ClassifierConfig", "ImageAugmentation", "ImageData"]
