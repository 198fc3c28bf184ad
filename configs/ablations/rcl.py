"""The recurrent convolution's controls (Liang, Hu 2015, section 4.1) on the digits: does recurrence help?

    detection ablate rcl

`rcnn-3` is RCNN-32 with T = 3, the base. Against it: fewer steps (`rcnn-0` is plain, with 48 % fewer
parameters); `wcnn`, that plain network widened to the same number of parameters (45 channels, 76 960 for 76 618);
`shared-T`, the paper's rCNN, whose layers read their input at the first step only, so that a layer is a cascade of
T + 1 convolutions, the last T of which share their weights; and other norms of each step. Settings were chosen for
`rcnn-3`.
"""

from detection.ablation import Ablation
from detection.ablation.classifiers import CLASSIFIERS

ablation = Ablation(
    base="../classifiers/rcnn32_digits.py",
    variants={
        "rcnn-3": [],
        "rcnn-2": ["network.backbone.num_steps=2"],
        "rcnn-1": ["network.backbone.num_steps=1"],
        "rcnn-0": ["network.backbone.num_steps=0"],
        "wcnn": ["network.backbone.num_steps=0", "network.backbone.channels=(45, 45)"],
        "shared-3": ["network.backbone.feed=first"],
        "shared-2": ["network.backbone.feed=first", "network.backbone.num_steps=2"],
        "shared-1": ["network.backbone.feed=first", "network.backbone.num_steps=1"],
        "batch-norm": ["network.backbone.norm=batch"],
        "group-norm": ["network.backbone.norm=group"],
        "no-norm": ["network.backbone.norm='none'"],
    },
    data={"digits": []},
    seeds=(0, 1, 2),
    reference="rcnn-3",
    run_type=CLASSIFIERS,
)
