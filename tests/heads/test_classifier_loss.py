"""The classifier's loss against loops over regions, and names of classes."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator

import detection.training.run as training
from detection.config import override
from detection.errors import UserError
from detection.heads import FastRCNN, LocalGlobal, SequenceHead, name_classes
from detection.heads.classifier_loss import ClassifierLoss
from detection.heads.hungarian import loss_cost, match, set_loss
from tests.heads.matching_cases import random_case
from tests.tiny_runs import tiny_config

NAMES = ["cat", "dog", "traffic light", "dog"]


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(20, 5, generator=generator), torch.randint(0, 5, (20,), generator=generator)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
@pytest.mark.parametrize("weights", [{}, {"cat": 3.0, "background": 0.25}])
def test_against_a_loop_over_regions(gamma, weights):
    logits, labels = batch()
    loss = ClassifierLoss(4, gamma, weights)
    loss.set_class_names(NAMES)
    row_weights = [weights.get(name, 1.0) for name in ["background", *NAMES]]
    total = norm = 0.0
    for row, label in zip(logits.double().softmax(1).tolist(), labels.tolist(), strict=True):
        total -= row_weights[label] * (1 - row[label]) ** gamma * math.log(row[label])
        norm += row_weights[label]
    assert loss(logits, labels).item() == pytest.approx(total / norm, rel=1e-5)


def test_without_settings_it_is_cross_entropy_to_the_bit_and_with_weights_torchs():
    logits, labels = batch(1)
    assert torch.equal(ClassifierLoss(4)(logits, labels), F.cross_entropy(logits, labels))
    loss = ClassifierLoss(4, class_weights={"traffic light": 4.0})
    loss.set_class_names(NAMES)
    expected = F.cross_entropy(logits, labels, weight=torch.tensor([1.0, 1, 1, 4, 1]))
    torch.testing.assert_close(loss(logits, labels), expected)


@pytest.mark.parametrize("gamma", [0.3, 2.0])
def test_gradients_are_finite_where_a_region_is_certain(gamma):
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0], [-200.0, 200.0]], requires_grad=True)
    loss = ClassifierLoss(1, gamma)(logits, torch.tensor([0, 0, 1]))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.isfinite() and gradient.isfinite().all() and gradient[1].abs().sum() > 0


def test_gradients_are_those_of_finite_differences():
    logits, labels = batch(2)
    loss = ClassifierLoss(4, 2.0, {"cat": 2.0})
    loss.set_class_names(NAMES)
    assert torch.autograd.gradcheck(lambda x: loss.double()(x, labels), logits.double().requires_grad_())


def test_regions_of_no_weight_give_no_loss():
    loss = ClassifierLoss(4, class_weights={"background": 0.0})
    loss.set_class_names(NAMES)
    assert loss(torch.randn(3, 5), torch.zeros(3, dtype=torch.int64)) == 0


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ({"cats": 2.0}, "head.class_weights.cats: the data has no class of this name; did you mean 'cat'?"),
        ({"dog": 2.0}, "head.class_weights.dog: 2 classes have this name"),
    ],
)
def test_names_that_are_no_class_get_one_sentence(weights, sentence):
    with pytest.raises(UserError, match=sentence.replace("?", r"\?")):
        name_classes(FastRCNN(1, 1, 4, hidden_channels=2, class_weights=weights), NAMES)


def test_weights_without_names_are_refused_in_training_and_a_class_may_be_called_background():
    loss = ClassifierLoss(2, class_weights={"background": 5.0})
    with pytest.raises(UserError, match="call detection.heads.name_classes first"):
        loss(torch.randn(3, 3), torch.tensor([0, 1, 2]))
    loss.set_class_names(["background", "cat"])
    assert loss.weights.tolist() == [1, 5, 1] and not loss.state_dict()


def test_a_detectors_config_weighs_its_classes(shapes, tmp_path):
    fast_rcnn = "{'class': 'FastRCNN', 'hidden_channels': 8, 'class_weights': {'circle': 3, 'square': 0.5}}"
    for head in ("head.class_weights.circle=3", f"head={{'class': 'LocalGlobal', 'fast_rcnn': {fast_rcnn}}}"):
        config = tiny_config(shapes, head, "data.augmentation=none")
        run = training.prepare(config, tmp_path / "run", Accelerator(cpu=True), resume=False)
        (loss,) = (m for m in run.model.modules() if isinstance(m, ClassifierLoss))
        names = [category.name for category in run.categories]
        assert loss.weights[1 + names.index("circle")] == 3 and loss.weights[0] == 1
    with pytest.raises(UserError, match="class_weights.circles: the data has no class"):
        config = tiny_config(shapes, "head.class_weights.circles=3")
        training.prepare(config, tmp_path / "run", Accelerator(cpu=True), resume=False)
    with pytest.raises(UserError, match="class_weights.circle=-1.0: must be at least 0"):
        override(config, ["head.class_weights.circle=-1"])


def test_the_local_and_global_head_has_the_same_loss():
    head = LocalGlobal(1, 1, 4, fast_rcnn=partial(FastRCNN, hidden_channels=2, class_weights={"cat": 2.0}))
    name_classes(head, NAMES)
    assert head.fast_rcnn.classifier_loss.weights.tolist() == [1, 2, 1, 1, 1]


@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("weights", [{}, {"cat": 3.0, "background": 0.25}])
def test_the_loss_of_a_matching_is_a_loop_over_steps(gamma, weights):
    _, codes, logits, targets = random_case(3, classes=4)
    loss = ClassifierLoss(4, gamma, weights)
    loss.set_class_names(NAMES)
    matched = match(loss_cost(codes, logits, targets, classifier_loss=loss), targets, "emd")
    row_weights, total = [weights.get(name, 1.0) for name in ["background", *NAMES]], 0.0
    for region, steps in enumerate(logits.softmax(-1).tolist()):
        for p, answer in zip(steps, matched[region].tolist(), strict=True):
            label = int(targets.labels[region, answer]) if answer >= 0 else 0
            background = 0.5 if answer < 0 else 1.0
            total -= background * row_weights[label] * (1 - p[label]) ** gamma * math.log(p[label])
    found = set_loss(codes, logits, matched, targets, background_weight=0.5, classifier_loss=loss)
    assert found["loss_classifier"].item() == pytest.approx(total / len(logits), rel=1e-5)


def test_the_matching_of_least_loss_knows_the_weights():
    """Step 1 would pay more for background, step 0 is surer of the class, which decides where that weighs more."""
    targets = random_case(0, regions=1, steps=1)[3]
    targets = type(targets)(targets.boxes, targets.codes, torch.tensor([[1]]), torch.tensor([[True]]))
    codes, logits = targets.codes[:, [0, 0]], torch.tensor([[[0.1, 0.5, 0.4], [0.01, 0.2, 0.79]]]).log()
    answers = []
    for weights in ({}, {"cat": 3.0}):
        loss = ClassifierLoss(2, class_weights=weights)
        loss.set_class_names(["cat", "dog"])
        answers.append(match(loss_cost(codes, logits, targets, classifier_loss=loss), targets, "emd").tolist())
    assert answers == [[[-1, 0]], [[0, -1]]]


def test_the_sequence_head_has_the_same_loss(shapes, tmp_path):
    head = "head={'class': 'SequenceHead', 'focal_gamma': 2, 'class_weights': {'circle': 3}}"
    run = training.prepare(tiny_config(shapes, head), tmp_path / "run", Accelerator(cpu=True), resume=False)
    assert isinstance(run.model.head, SequenceHead)
    loss = run.model.head.classifier_loss
    assert loss.focal_gamma == 2 and loss.weights.sort().values.tolist()[-2:] == [1, 3]
