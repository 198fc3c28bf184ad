"""ReInspect (Stewart, Andriluka, Ng 2016): people in crowds, by GoogLeNet and an LSTM, end to end.

    detection train reinspect_googlenet \
        data.train.annotations=TRAIN.json data.train.images=DIR data.val.annotations=VAL.json data.val.images=DIR

Images of 640x480, a grid of 20x15 windows of 64 pixels, 250 units, five steps, L1 in pixels times 0.03; SGD with
momentum 0.5 and gradients clipped at 0.1; flips, scales 0.9 to 1.1 and shifts (up to a tenth of each side; the paper's
are of 16 pixels). The rate and its length are ours: the paper's are not recalled. The tied cell is recalled (its last
tanh is missing in the authors' code). torchvision's GoogLeNet has batch norm, the paper's has none. Not run here: the
ImageNet weights are downloaded. TensorBox's JSON becomes COCO's by `detection convert --from tensorbox`.
"""

from functools import partial

from detection.backbones import GoogLeNet
from detection.cells import TiedLSTM
from detection.config import Augmentation, Config, DataConfig, DetectorConfig, OptimizerConfig, ScheduleConfig
from detection.heads import SequenceHead
from detection.heads.box_codes import PixelOffsets
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
            # The paper's overlap at inference, and the passes and the exchange of the authors' code.
            postprocess=partial(
                Stitch,
                iou=None,
                center_offset=1.0,
                replace_iou=0.7,
                passes=(0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05),
            ),
            box_weight=0.03,
            batch_size_per_image=None,
            add_ground_truth=False,
        ),
        min_size=480,
        max_size=640,
    ),
    data=DataConfig(augmentation=Augmentation(horizontal_flip=0.5, jitter=1.0)),
    optimizer=OptimizerConfig(kind="sgd", lr=0.2, reference_batch=1, momentum=0.5, clip_norm=0.1),
    schedule=ScheduleConfig(epochs=12, kind="step", milestones=(0.5, 0.8)),
    batch_size=1,
)
