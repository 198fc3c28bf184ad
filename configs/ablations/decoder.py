"""ReInspect's questions (Stewart et al. 2016): how ground-truth boxes are matched, how many steps, and which run
decodes.

    python tools/ablate.py configs/ablations/decoder.py

The small ReInspect of `reinspect_crowd.py` on `crowd`, where people stand in groups; Faster R-CNN with NMS on the same
data is `faster_rcnn_crowd.py`. `tools/crowd.py RUN RUN …` gives the measures of crowds of finished runs side by side.
48 runs of five CPU minutes or more.

The paper's table has fixed, first-k and Hungarian matching; five steps and an LSTM are its own.
"""

from detection.ablation import Ablation

CELLS = {
    "tanh": "TanhRNN",
    "irnn": "IRNN",
    "peephole": "PeepholeLSTM",
    "gru": "GRU",
    "mut1": "MUT1",
    "mingru": "MinGRU",
    "minlstm": "MinLSTM",
}

ablation = Ablation(
    base="../reinspect_crowd.py",
    variants={
        "hungarian": [],
        "first_k": ["detector.head.strategy=first_k"],
        "fixed": ["detector.head.strategy=fixed"],
        "3-steps": ["detector.head.decoder.num_steps=3"],
        "8-steps": ["detector.head.decoder.num_steps=8"],
        "two-layers": ["detector.head.decoder.layers=2"],
        "shared-heads": ["detector.head.decoder.shared_heads=true"],
        "no-rezoom": ["detector.head.rezoom=none"],
        "first-come": ["detector.head.postprocess.passes=none"],
        **{name: [f"detector.head.decoder.run=detection.cells.{run}"] for name, run in CELLS.items()},
    },
    data={"crowd": []},
    seeds=(0, 1, 2),
    reference="hungarian",
    metric="AP50",
)
