"""Frozen norms folded into convolutions: equal features and gradients, and only where nothing else reads them."""

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import FrozenBatchNorm2d

from detection.backbones import VGG16, GoogLeNet, ResNet, Timm
from detection.backbones.folding import FoldedNorm, FoldingConv, fold_frozen_norms
from detection.backbones.timm_folding import FoldedNormAct, FoldingConvSame, ReLU6InPlace

NORMS = (FoldedNorm, FoldedNormAct)


def drawn(module, seed=0):
    """The module with drawn statistics, which a fresh frozen norm lacks."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if hasattr(part, "running_var"):
            for name in ("weight", "running_var"):
                getattr(part, name).data = torch.rand(part.weight.shape, generator=generator) + 0.5
            for name in ("bias", "running_mean"):
                getattr(part, name).data = torch.randn(part.weight.shape, generator=generator)
    return module


def pair(bias=False, **settings):
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=bias, **settings), FrozenBatchNorm2d(4), nn.ReLU())


@pytest.mark.parametrize("bias", [False, True])
def test_a_folded_pair_computes_the_norm_of_the_convolution(bias):
    network = drawn(pair(bias, stride=2, padding=1)).double()
    plain = copy.deepcopy(network)
    names = list(network.state_dict())
    assert fold_frozen_norms(network.float()) == 1 and list(network.state_dict()) == names
    network.double()
    assert isinstance(network[0], FoldingConv) and isinstance(network[1], FoldedNorm)
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    convolution, norm = plain[0], plain[1]
    y = nn.functional.conv2d(x, convolution.weight, convolution.bias, stride=2, padding=1)
    std = (norm.running_var + norm.eps).sqrt()
    by_hand = [(y[:, k] - norm.running_mean[k]) / std[k] * norm.weight[k] + norm.bias[k] for k in range(4)]
    torch.testing.assert_close(network(x), torch.stack(by_hand, 1).relu())
    weights = list(network.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: network(x).square(), (x.requires_grad_(), *weights))


def test_training_alone_leaves_inference_equal_to_the_bit_and_follows_the_mode_of_the_convolution():
    network = drawn(pair())
    plain = copy.deepcopy(network).eval()
    fold_frozen_norms(network, only_in_training=True)
    x = torch.randn(2, 3, 8, 8)
    expected = plain(x)
    assert torch.equal(network.eval()(x), expected)
    for mode in [(True, True), (False, True), (True, False)]:  # a convolution or a norm may be frozen by itself
        network[0].training, network[1].training = mode
        torch.testing.assert_close(network(x), expected)
        assert torch.equal(network[0](x), plain[0](x)) != mode[0]


class Shared(nn.Module):
    """A convolution whose output something beside its norm reads."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.net = kind, pair()

    def forward(self, x):
        convolution, norm, _ = self.net
        y = convolution(x)
        if self.kind == "added":
            return [norm(y) + y]
        if self.kind == "output":
            return [norm(y), y]
        if self.kind == "convolution twice":
            return [norm(y), convolution(x + 1).relu()]
        if self.kind == "norm twice":
            return [norm(y), norm(x.repeat(1, 2, 1, 1)[:, :4])]
        if self.kind == "changed before":
            return [norm(y * 2)]
        return [norm(y)]


@pytest.mark.parametrize(
    ("kind", "folded"),
    [("alone", 1)] + [(k, 0) for k in ("added", "output", "convolution twice", "norm twice", "changed before")],
)
def test_only_a_norm_that_alone_reads_a_convolution_is_folded(kind, folded):
    network = drawn(Shared(kind))
    x = torch.randn(1, 3, 8, 8)
    before = network(x)
    assert fold_frozen_norms(network) == folded
    for a, b in zip(network(x), before, strict=True):
        torch.testing.assert_close(a, b)


def test_live_norms_and_what_cannot_read_a_small_image_are_left():
    live = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert fold_frozen_norms(live) == 0 and type(live[0]) is nn.Conv2d and live[1].num_batches_tracked == 0
    large = nn.Sequential(*pair(), nn.Conv2d(4, 4, 99))
    assert fold_frozen_norms(large) == 0 and type(large[0]) is nn.Conv2d and not large[0]._forward_hooks


def test_the_look_changes_no_mode_and_draws_nothing():
    network = nn.Sequential(*pair(), nn.Dropout())
    network[0].eval()
    state = torch.get_rng_state()
    assert fold_frozen_norms(network) == 1
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in network] == [False, True, True, True] and network.training
    assert network[0].weight.grad is None


def test_a_copy_is_its_own():
    network = drawn(pair())
    fold_frozen_norms(network)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert twin[0].norm[0] is twin[1] and twin[1].convolution[0] is twin[0]
        drawn(twin, seed=1)
        x = torch.randn(1, 3, 8, 8)
        assert not torch.allclose(twin(x), network(x))


def unfolded(build, monkeypatch):
    with monkeypatch.context() as patch:
        for name in ("resnet", "googlenet", "vgg"):
            patch.setattr(f"detection.backbones.{name}.fold_frozen_norms", lambda *_, **__: 0)
        patch.setattr("detection.backbones.timm.fold_frozen_norms", lambda *_, **__: 0)
        return build()


@pytest.mark.parametrize(
    ("build", "norms"),
    [
        (partial(Timm, "tf_efficientnet_lite0", "detector"), 48),
        (partial(Timm, "mobilenetv3_small_100", "detector"), 34),
        (partial(Timm, "efficientnet_b0", "detector"), 48),
        (partial(Timm, "resnet18", "detector"), 20),
        (partial(ResNet, 18, "detector"), 20),
        (partial(ResNet, 50, "detector"), 53),
        (partial(GoogLeNet, "detector"), 57),
        (partial(VGG16, "detector", batch_norm=True), 13),
    ],
    ids=str,
)
def test_backbones_give_equal_features_and_gradients(build, norms, monkeypatch):
    torch.manual_seed(0)
    ours, plain = build(), unfolded(build, monkeypatch)
    frozen = [m for m in plain.modules() if type(m).__name__.startswith("FrozenBatchNorm")]
    assert sum(isinstance(m, NORMS) for m in ours.modules()) == len(frozen) == norms
    drawn(plain, seed=1)
    ours.load_state_dict(plain.state_dict())
    images = torch.rand(2, 3, 64, 96)
    results = []
    for backbone in (ours.double(), plain.double()):
        backbone.train()
        features = backbone(images.double())
        sum(x.square().mean() for x in features.values()).backward()
        results.append((features, [p.grad for p in backbone.parameters()]))
    (features, gradients), (expected, expected_gradients) = results
    for name, x in expected.items():
        torch.testing.assert_close(features[name], x)
    for a, b in zip(gradients, expected_gradients, strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, rtol=1e-6, atol=1e-9 * b.abs().max())
    with torch.no_grad():
        a, b = ours.eval()(images.double()), plain.eval()(images.double())
    for name in b:
        torch.testing.assert_close(a[name], b[name])
        assert torch.equal(a[name], b[name]) or not isinstance(ours, ResNet)


class Counted(TorchDispatchMode):
    """Counts operations that give maps, which are larger than weights."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        if isinstance(result, torch.Tensor) and result.dim() == 4 and result.shape[-1] > 5:
            self.names.append(function.overloadpacket.__name__)
        return result


@pytest.mark.parametrize(
    ("name", "residuals", "gates"),
    [("tf_efficientnet_lite0", 9, 0), ("mobilenetv2_100", 10, 0), ("efficientnet_b0", 9, 16)],
)
def test_a_norm_costs_no_pass_over_a_map(name, residuals, gates):
    backbone = Timm(name, "detector").train()
    images = torch.rand(1, 3, 256, 256)
    with Counted() as counted:
        features = backbone(images)
    assert counted.names.count("mul") == gates and counted.names.count("add") == residuals
    assert "clone" not in counted.names  # of what an activation overwrites
    loss = sum(x.sum() for x in features.values())
    with Counted() as counted:
        loss.backward()
    assert counted.names.count("mul") == 2 * gates


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_relu6_in_place_has_the_gradient_of_relu6(dtype):
    x = torch.tensor([-1.0, -0.0, 0.0, 0.5, 5.5, 6.0, 7.0], dtype=dtype).requires_grad_()
    grad = torch.arange(1.0, 8.0, dtype=dtype)
    found, expected = ReLU6InPlace.apply(x * 1), nn.functional.relu6(x)
    assert torch.equal(found, expected)
    (a,), (b,) = (torch.autograd.grad(y, x, grad) for y in (found, expected))
    assert torch.equal(a, b) and a.tolist() == [0, 0, 0, 4, 5, 0, 0]


def test_relu6_in_place_writes_where_it_reads_and_can_be_differentiated_twice():
    x = torch.randn(5, requires_grad=True)
    y = x * 3
    assert ReLU6InPlace.apply(y).data_ptr() == y.data_ptr()
    x = torch.tensor([-2.0, -1.0, 0.5, 1.5, 3.0], dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: ReLU6InPlace.apply(x.square()), (x,))


def test_classes_of_timm_compute_apart_where_training_alone_is_folded():
    backbone = Timm("tf_efficientnet_lite0", "detector")
    drawn(backbone)
    plain = copy.deepcopy(backbone).eval()
    for module in backbone.modules():
        if isinstance(module, FoldingConv):
            module.only_in_training = True
    assert any(isinstance(module, FoldingConvSame) for module in backbone.modules())
    x = torch.rand(1, 3, 64, 64)
    for name, expected in plain(x).items():
        torch.testing.assert_close(backbone.eval()(x)[name], expected, rtol=1e-4, atol=1e-4)
