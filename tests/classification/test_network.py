from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, max_pool2d

from detection.analysis.complexity import count_parameters
from detection.backbones import RCNN, Tiny
from detection.classification import Classifier
from detection.errors import UserError


def build(num_classes=10, **settings):
    torch.manual_seed(0)
    return Classifier(num_classes, partial(RCNN, **{"channels": (8, 8), "first_stride": 1, **settings}))


@pytest.mark.parametrize("k", [32, 64, 96, 128, 160, 192])
@pytest.mark.parametrize("feed", ["always", "first"])
def test_the_papers_parameters(k, feed):
    network = Classifier(10, partial(RCNN, channels=(k, k), first_stride=1, feed=feed))
    assert count_parameters(network) == 25 * 3 * k + k + 4 * (18 * k**2 + k) + 10 * k + 10


def naive_lrn(x):
    """x / (1 + 0.001/N · Σ x²)^0.75 over the N = K/8 + 1 channels around each."""
    count, size = x.shape[1], x.shape[1] // 8 + 1
    y = torch.empty_like(x)
    for channel in range(count):
        around = x[:, max(channel - size // 2, 0) : channel + (size - 1) // 2 + 1]
        y[:, channel] = x[:, channel] / (1 + 0.001 / size * around.square().sum(1)) ** 0.75
    return y


def naive_rcl(x, layer, steps, feed):
    forward, recurrent = layer.forward_conv, layer.recurrent_conv
    fed = conv2d(x, forward.weight, forward.bias, padding=1)
    state = naive_lrn(fed.clamp(min=0))
    for _ in range(steps):
        z = conv2d(state, recurrent.weight, padding=1) + (fed if feed == "always" else 0)
        state = naive_lrn(z.clamp(min=0))
    return state


@pytest.mark.parametrize(("feed", "steps"), [("always", 3), ("first", 2), ("always", 0)])
def test_scores_are_those_of_the_paper_written_out(feed, steps):
    network = build(feed=feed, num_steps=steps).eval()
    # Large images' values, so that the norm is felt.
    images = torch.rand(2, 3, 12, 20) * 60
    with torch.no_grad():
        conv = network.backbone.stem[0]
        x = conv2d((images - network.mean) / network.std, conv.weight, conv.bias, padding=2).clamp(min=0)
        for block in network.backbone.blocks.values():
            x = max_pool2d(x, 3, 2, 1)
            for layer in (block.layer1, block.layer2):
                x = naive_rcl(x, layer, steps, feed)
        assert x.shape == (2, 8, 3, 5)
        expected = x.amax((2, 3)) @ network.linear.weight.T + network.linear.bias
        torch.testing.assert_close(network(list(images)), expected, rtol=1e-4, atol=1e-4)


def test_the_loss_is_the_cross_entropy():
    network = build(num_classes=3)
    images = torch.rand(2, 3, 8, 8)
    scores = network(images)
    losses = network(images, [{"label": 2, "image_id": 5}, {"label": 0, "image_id": 6}])
    expected = -(scores.softmax(1)[[0, 1], [2, 0]]).log().mean()
    assert list(losses) == ["loss_class"]
    torch.testing.assert_close(losses["loss_class"], expected)
    losses["loss_class"].backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_it_normalizes_by_the_training_images():
    pixels = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    network = build()
    network.set_statistics(pixels)
    values = pixels.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(network.mean.flatten(), values.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(network.std.flatten(), values.std((0, 2, 3)), rtol=1e-5)
    network.set_statistics(pixels[:, :1])
    assert network.mean.unique().numel() == 1
    network.set_statistics(torch.zeros(2, 1, 4, 4, dtype=torch.uint8))
    assert network(torch.zeros(1, 3, 8, 8)).isfinite().all()
    assert {"mean", "std"} <= set(network.state_dict())


@pytest.mark.parametrize("norm", ["lrn", "group"])
def test_steps_can_be_others_in_the_test(norm):
    """The same weights with inference_steps=T are those of a network of T steps."""
    images = torch.rand(2, 3, 8, 8)
    trained = build(norm=norm).eval()
    outputs = []
    for steps in (1, 3, 5):
        network, other = build(norm=norm, inference_steps=steps), build(norm=norm, num_steps=steps)
        for n in (network, other):
            n.load_state_dict(trained.state_dict())
        torch.testing.assert_close(network.eval()(images), other.eval()(images))
        outputs.append(network(images))
    torch.testing.assert_close(outputs[1], trained(images))
    assert not torch.allclose(outputs[0], outputs[1]) and not torch.allclose(outputs[1], outputs[2])


def test_each_step_has_its_own_batch_statistics():
    network = build(norm="batch", num_steps=2)
    norms = network.backbone.blocks["c1"].layer1.norm.norms
    assert len(norms) == 3
    network(torch.rand(8, 3, 8, 8), None)
    assert all(int(n.norm.num_batches_tracked) == 1 for n in norms)
    means = [n.norm.running_mean for n in norms]
    assert not torch.allclose(means[0], means[1]) and not torch.allclose(means[1], means[2])
    with pytest.raises(UserError, match="inference_steps=3"):
        build(norm="batch", num_steps=2, inference_steps=3)


def test_any_backbone_classifies():
    network = Classifier(4, partial(Tiny, channels=(8, 12))).eval()
    assert network(torch.rand(2, 3, 16, 16)).shape == (2, 4)


def test_dropout_is_before_every_recurrent_layer_but_the_first():
    """Recalled from the paper: after each recurrent layer but the last, behind the pooling where there is one."""
    backbone = RCNN(channels=(8, 8), first_stride=1, dropout=0.5)
    first, second = backbone.blocks.values()
    assert [d.p for d in (first.dropout1, first.dropout2, second.dropout1, second.dropout2)] == [0, 0.5, 0.5, 0.5]
    order = []
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Dropout | nn.MaxPool2d) or name.rpartition(".")[2].startswith("layer"):
            module.register_forward_hook(lambda m, i, o, name=name: order.append(name.partition(".")[2]))
    backbone(torch.rand(1, 3, 8, 8))
    parts = ("pool", "dropout1", "layer1", "dropout2", "layer2")
    assert order == [f"{stage}.{part}" for stage in ("c1", "c2") for part in parts]


@pytest.mark.parametrize(("first_stride", "first"), [(1, 1), (2, 2), (4, 3)])
def test_the_first_stride_names_the_stages(first_stride, first):
    backbone = RCNN(channels=(4, 8, 12), first_stride=first_stride, num_steps=1)
    features = backbone(torch.rand(1, 3, 64, 32))
    assert list(features) == [f"c{k}" for k in range(first, first + 3)]
    assert list(backbone.out_channels.values()) == [4, 8, 12]
    for name, x in features.items():
        assert x.shape[2:] == (64 // backbone.strides[name], 32 // backbone.strides[name])
