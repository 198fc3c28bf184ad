"""RCNN-96 on MNIST (Liang, Hu 2015), error 0.31 % in the paper.

    detection train_classifier rcnn96_mnist data.root=DIR

DIR holds MNIST/raw as torchvision leaves it. From the paper: the network, T = 3, its norm. Recalled from it: dropout
0.5; SGD with momentum 0.9; images without augmentation; a rate that falls to a tenth when the validation error stops
falling. The times of that, the rate, weight decay and batch are ours; so is one mean and deviation for all pixels,
where the paper takes off the mean of each pixel (recalled).
"""

from functools import partial

from detection.backbones import RCNN
from detection.classification import Classifier, ClassifierConfig, ImageData
from detection.config import OptimizerConfig, ScheduleConfig

config = ClassifierConfig(
    network=partial(Classifier, backbone=partial(RCNN, channels=(96, 96), first_stride=1, dropout=0.5)),
    data=ImageData(kind="MNIST"),
    optimizer=OptimizerConfig(
        lr=0.01, reference_batch=128, momentum=0.9, weight_decay=1e-4, norm_weight_decay=0.0, clip_norm=5.0
    ),
    schedule=ScheduleConfig(epochs=60, milestones=(0.5, 0.75, 0.9), warmup=500),
    batch_size=128,
    evaluate_every=5,
)
