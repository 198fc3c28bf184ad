"""ReInspect (Stewart, Andriluka, Ng 2016): people in crowds, by GoogLeNet and an LSTM, end to end.

    detection train reinspect_googlenet \
        data.train.annotations=TRAIN.json data.train.images=DIR data.val.annotations=VAL.json data.val.images=DIR

As in the authors' code: images of 640x480, a grid of 20x15 windows of 64 pixels, 250 units without biases, h = o·c,
five steps; L1 in pixels times 0.03, the mean over steps of the classes' loss, matching by 100·off + step + L1 / 2000;
SGD with momentum 0.5 and gradients clipped at 0.1, a rate of 0.15 that falls by 0.8 in steps, four times that for
GoogLeNet; flips, scales 0.9 to 1.1; their overlap, passes and exchange of boxes in merging.

Not theirs: shifts are up to a tenth of each side (16 pixels), torchvision's GoogLeNet has batch norm, and the number of
epochs and of the rate's steps is a choice. Not run: the ImageNet weights are downloaded. TensorBox's JSON becomes
COCO's by `detection convert --from tensorbox`.
"""

from functools import partial

from detection.backbones import GoogLeNet
from detection.cells import TiedLSTM
from detection.config import Augmentation, Config, DataConfig, DetectorConfig, OptimizerConfig, ScheduleConfig
from detection.heads import SequenceHead
from detection.heads.box_codes import PixelOffsets
from detection.heads.costs import ReInspectCost
from detection.heads.lstm_decoder import LSTMDecoder
from detection.heads.sequence_head import Embed, MeetsWindow
from detection.heads.stitching import Stitch
from detection.pooling import CenterCell
from detection.regions import GridCells

config = Config(
    detector=DetectorConfig(
        backbone=partial(GoogLeNet),
        regions=partial(GridCells, window=64, stride=32),
        pool=partial(CenterCell, stage="c5"),
        head=partial(
            SequenceHead,
            embed=partial(Embed, features=1024, relu=False, std=0.005, scale=0.01),
            decoder=partial(LSTMDecoder, cell=partial(TiedLSTM, bias=False), init_range=0.1),
            box_coder=partial(PixelOffsets, scale=100.0),
            assigner=partial(MeetsWindow),
            cost=partial(ReInspectCost),
            postprocess=partial(
                Stitch,
                overlap="authors",
                replace_iou=0.7,
                passes=(0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05),
            ),
            classifier_weight=1 / 5,
            box_weight=0.03,
            batch_size_per_image=None,
            add_ground_truth=False,
        ),
        min_size=480,
        max_size=640,
    ),
    data=DataConfig(augmentation=Augmentation(horizontal_flip=0.5, jitter=1.0)),
    optimizer=OptimizerConfig(
        kind="sgd", lr=0.15, reference_batch=1, momentum=0.5, clip_norm=0.1, lr_multipliers={"backbone": 4.0}
    ),
    schedule=ScheduleConfig(
        epochs=12, kind="step", gamma=0.8, milestones=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    ),
    batch_size=1,
)
