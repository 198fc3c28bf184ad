"""RCNN-192 on SVHN (Liang, Hu 2015), error 1.77 % in the paper (recalled).

    detection train_classifier rcnn192_svhn data.root=DIR

DIR holds train_32x32.mat, extra_32x32.mat and test_32x32.mat; the 604 388 training images take 1.9 GB of memory. From
the paper: the network, T = 3, its norm. Recalled from it: training on `train` and `extra` without augmentation; dropout
0.5; SGD with momentum 0.9; a rate that falls to a tenth when the validation error stops falling. The times of that, the
rate, weight decay and batch are ours; so is one mean and deviation for each channel, where the paper takes off the mean
of each pixel (recalled).
"""

from functools import partial

from detection.backbones import RCNN
from detection.classification import Classifier, ClassifierConfig, ImageData
from detection.config import OptimizerConfig, ScheduleConfig

config = ClassifierConfig(
    network=partial(Classifier, backbone=partial(RCNN, channels=(192, 192), first_stride=1, dropout=0.5)),
    data=ImageData(kind="SVHN_extra"),
    optimizer=OptimizerConfig(
        lr=0.01, reference_batch=128, momentum=0.9, weight_decay=1e-4, norm_weight_decay=0.0, clip_norm=5.0
    ),
    schedule=ScheduleConfig(epochs=20, milestones=(0.5, 0.75, 0.9), warmup=500),
    batch_size=128,
    evaluate_every=1,
)
