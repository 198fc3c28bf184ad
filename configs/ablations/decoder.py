"""ReInspect's design questions (Stewart et al. 2016): matching strategy, number of steps, and recurrent cell.

    detection ablate decoder

The small ReInspect of `reinspect_crowd.py` on `crowd`, where people stand in groups; Faster R-CNN with NMS on the same
data is `faster_rcnn_crowd.py`. `detection crowd RUN RUN …` compares finished runs by metrics for crowds.
57 runs of five CPU minutes or more.

The paper's table has fixed, first-k and Hungarian matching; it uses five steps and an LSTM. `emd` and `by-iou` are the
matchings of CrowdDet (Chu et al. 2020).
"""

from detection.ablation import Ablation

CELLS = {
    "lstm": "LSTM",
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
        "emd": ["detector.head.strategy=emd", "detector.head.early_stop=false"],
        "by-iou": ["detector.head.strategy=by_iou"],
        "3-steps": ["detector.head.decoder.num_steps=3", f"detector.head.classifier_weight={1 / 3}"],
        "8-steps": ["detector.head.decoder.num_steps=8", f"detector.head.classifier_weight={1 / 8}"],
        "two-layers": ["detector.head.decoder.layers=2"],
        "shared-heads": ["detector.head.decoder.shared_heads=true"],
        "no-rezoom": ["detector.head.rezoom=none"],
        "first-come": ["detector.head.postprocess.passes=none"],
        **{name: [f"detector.head.decoder.cell=detection.cells.{cell}"] for name, cell in CELLS.items()},
    },
    data={"crowd": []},
    seeds=(0, 1, 2),
    reference="hungarian",
    metric="AP50",
)
