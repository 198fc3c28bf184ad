"""RCNN-160 on CIFAR-10 with augmentation (Liang, Hu 2015), error 7.09 % in the paper.

    detection train_classifier rcnn160_cifar10 data.root=DIR

DIR holds cifar-10-batches-py as torchvision leaves it. From the paper: the network, T = 3, its norm. Recalled from it:
crops of 24×24 at any place and mirror images in training; dropout 0.5; SGD with momentum 0.9; a rate that falls to a
tenth when the validation error stops falling. The times of that, the rate, weight decay and batch are ours. So is the
test on the middle 24×24 alone, where the paper averages over several crops and their mirror images (recalled), and one
mean and deviation for each channel, where it takes off the mean of each pixel (recalled).
"""

from functools import partial

from detection.backbones import RCNN
from detection.classification import Classifier, ClassifierConfig, ImageAugmentation, ImageData
from detection.config import OptimizerConfig, ScheduleConfig

config = ClassifierConfig(
    network=partial(Classifier, backbone=partial(RCNN, channels=(160, 160), first_stride=1, dropout=0.5)),
    data=ImageData(kind="CIFAR10", crop=24, augmentation=ImageAugmentation(shift=4, flip=True)),
    optimizer=OptimizerConfig(
        lr=0.01, reference_batch=128, momentum=0.9, weight_decay=1e-4, norm_weight_decay=0.0, clip_norm=5.0
    ),
    schedule=ScheduleConfig(epochs=240, milestones=(0.5, 0.75, 0.9), warmup=500),
    batch_size=128,
    evaluate_every=10,
)
