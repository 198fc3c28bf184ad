"""Files of weights: nothing in one is executed, wherever it enters, and one that does not fit is an error."""

import os
import types
from functools import partial

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from detection.backbones import VGG16, GoogLeNet, ResNet, Timm
from detection.detector import build_detector
from detection.errors import UserError
from detection.pretrained import load_pretrained
from detection.runs.checkpoint import load_training_state, load_weights
from detection.weights import load_state, read_state
from tests.tiny_runs import DETECTOR

RESNET18_FILE = "resnet18-f37072fd.pth"


class MakesFolder:
    """What makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """Write a file whose unpickling is seen after the test; torch's and timm's places of downloads are here."""
    torch.hub.set_dir(str(tmp_path / "hub"))

    def write(name, legacy=False):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"state_dict": {"weight": torch.zeros(1), "x": MakesFolder(tmp_path / "executed")}}
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        return str(path)

    yield write
    torch.hub.set_dir(os.path.join(os.path.expanduser("~"), ".cache", "torch", "hub"))
    assert not (tmp_path / "executed").exists()


def test_the_file_is_evil(evil, tmp_path):
    path = evil("w.pth")
    torch.load(path, weights_only=False)
    (tmp_path / "executed").rmdir()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.bin", "w.safetensors"])
def test_detector_weights_are_not_executed(evil, name, legacy):
    with pytest.raises(UserError, match=name):
        load_pretrained(build_detector(DETECTOR, 2), evil(name, legacy))


@pytest.mark.parametrize(
    "build",
    [partial(ResNet, depth=18), partial(VGG16), partial(GoogLeNet), partial(Timm, "resnet10t"), partial(Timm)],
)
def test_backbone_weights_are_not_executed(evil, build):
    for name in ("w.pth", "w.safetensors", "w.bin"):
        with pytest.raises(UserError, match=name):
            build(weights=evil(name)).load_pretrained()


def test_what_torch_keeps_of_a_download_is_not_executed(evil):
    evil(f"hub/checkpoints/{RESNET18_FILE}")
    for build in (partial(ResNet, depth=18), partial(ResNet, depth=18, weights="ResNet18_Weights.IMAGENET1K_V1")):
        with pytest.raises(UserError, match=f"{RESNET18_FILE} holds more than tensors and is not opened"):
            build().load_pretrained()


@pytest.mark.parametrize("names", [["model.safetensors"], ["pytorch_model.bin"], ["model.safetensors", "x.bin"]])
def test_what_a_hub_keeps_of_a_download_is_not_executed(evil, monkeypatch, names):
    def download(repository, name):
        if name not in names:
            raise FileNotFoundError(name)
        return evil(f"kept/{name}")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(UserError, match=names[0]):
        Timm("resnet10t", weights="timm").load_pretrained()


@pytest.mark.parametrize("suffix", [".pth", ".tar", ".npz"])
def test_what_timm_has_elsewhere_is_not_executed(evil, monkeypatch, suffix):
    import timm

    evil(f"hub/checkpoints/w{suffix}")
    settings = types.SimpleNamespace(hf_hub_id=None, url=f"https://x.invalid/w{suffix}", mean=(0, 0, 0), std=(1, 1, 1))
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: settings)
    expected = "holds more than tensors" if suffix == ".pth" else "no weights of it that are tensors"
    with pytest.raises(UserError, match=expected):
        Timm("resnet10t", weights="timm").load_pretrained()


def test_a_run_is_not_executed(evil, tmp_path):
    for name in ("state.pt", "model.safetensors", "training.safetensors"):
        evil(name)
    with pytest.raises(UserError, match="state.pt"):
        load_training_state(tmp_path)
    for name in ("model", "training"):
        with pytest.raises(UserError, match=f"{name}.safetensors: the checkpoint is damaged"):
            load_weights(tmp_path, torch.nn.Linear(1, 1), name)


def test_timm_reads_no_file(monkeypatch, tmp_path):
    """Whatever version of timm is installed."""
    import timm

    torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "w.pth")
    monkeypatch.setattr("timm.models._builder.load_pretrained", None)
    load, flags = torch.load, []
    monkeypatch.setattr(torch, "load", lambda *a, **k: (flags.append(k.get("weights_only")), load(*a, **k))[1])
    Timm("resnet10t", weights=str(tmp_path / "w.pth")).load_pretrained()
    assert flags == [True]


def contents(state):
    """What training scripts make of a state dict."""
    prefixed = {f"module.{name}": tensor for name, tensor in state.items()}
    return {
        "plain": state,
        "state_dict": {"state_dict": state, "epoch": 3},
        "model": {"model": prefixed, "optimizer": {}, "args": None},
        "compiled": {"model": {f"_orig_mod.{name}": tensor for name, tensor in prefixed.items()}},
        "nested": {"model": {"state_dict": state}},
        "average": {"state_dict": {name: tensor + 1 for name, tensor in state.items()}, "state_dict_ema": state},
    }


@pytest.mark.parametrize("kind", contents({}))
def test_wrappers_and_prefixes_are_taken_off(tmp_path, kind):
    state = torchvision.models.resnet18().state_dict()
    torch.save(contents(state)[kind], tmp_path / "w.pth")
    backbone = ResNet(depth=18, weights=str(tmp_path / "w.pth"))
    report = backbone.load_pretrained()
    assert not report.missing and not report.resized and not report.unexpected
    assert torch.equal(backbone.body["layer4"][1].conv2.weight, state["layer4.1.conv2.weight"])
    detector = build_detector(DETECTOR, 2)
    torch.save(contents(detector.state_dict())[kind], tmp_path / "d.pth")
    (report,) = load_pretrained(detector, str(tmp_path / "d.pth"))
    assert len(report.loaded) == len(detector.state_dict())


TIMM = ["resnet10t", "convnext_atto", "regnetx_002", "efficientformer_l1"]


@pytest.mark.parametrize("name", TIMM)
def test_timms_names_are_found(tmp_path, name):
    """Of networks whose feature maps come from flattened and from wrapped ones."""
    import timm

    source = timm.create_model(name, pretrained=False)
    save_file({n: t.contiguous() for n, t in source.state_dict().items()}, tmp_path / "w.safetensors")
    backbone = Timm(name, weights=str(tmp_path / "w.safetensors"), norm="batch")
    report = backbone.load_pretrained()
    assert not report.missing and not report.resized and not report.unexpected and len(report.loaded) > 50
    if name == "regnetx_002":  # others have a norm or a convolution behind the last map
        images = torch.rand(1, 3, 64, 64)
        with torch.no_grad():
            assert torch.equal(backbone.eval()(images)["c5"], source.eval().forward_features(images))


def test_weights_of_others_are_renamed_by_timm(tmp_path):
    """Facebook's names of ConvNeXt."""
    import timm

    source = timm.create_model("convnext_atto", pretrained=False)
    names = {"stem.": "downsample_layers.0.", "conv_dw": "dwconv", "mlp.fc1": "pwconv1", "mlp.fc2": "pwconv2"}
    state = {}
    for name, tensor in source.state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        parts = name.split(".")
        if parts[0] == "stages" and parts[2] == "downsample":
            name = ".".join(["downsample_layers", parts[1], *parts[3:]])
        elif parts[0] == "stages":
            name = ".".join(["stages", parts[1], *parts[3:]])
        state[name.replace("head.norm.", "norm.").replace("head.fc.", "head.")] = tensor
    torch.save({"model": state}, tmp_path / "w.pth")
    backbone = Timm("convnext_atto", weights=str(tmp_path / "w.pth"))
    report = backbone.load_pretrained()
    assert not report.missing and torch.equal(backbone.body.stem_0.weight, source.stem[0].weight)


OTHERS = {
    "deeper": lambda state: torchvision.models.resnet34().state_dict(),
    "renamed": lambda state: {f"encoder.{name}": tensor for name, tensor in state.items()},
    "a tenth is missing": lambda state: dict(list(state.items())[:-14]),
    "a tenth has other shapes": lambda state: {
        n: t[None] if n.startswith("layer4.1") and t.dim() else t for n, t in state.items()
    },
    "a classifier alone": lambda state: {n: t for n, t in state.items() if n.startswith("fc.")},
}


@pytest.mark.parametrize("wrong", OTHERS)
def test_other_weights_are_an_error_that_names_some_and_change_nothing(tmp_path, wrong):
    torch.save(OTHERS[wrong](torchvision.models.resnet18().state_dict()), tmp_path / "w.pth")
    for build in (partial(ResNet, depth=18), partial(Timm, "resnet18")):
        backbone = build(weights=str(tmp_path / "w.pth"))
        before = {n: t.clone() for n, t in backbone.state_dict().items()}
        with pytest.raises(UserError, match=r"too little fits this model \(\d+ of \d+ tensors\)") as error:
            backbone.load_pretrained()
        assert any(part in str(error.value) for part in ("layer", "conv1"))
        assert all(torch.equal(t, before[n]) for n, t in backbone.state_dict().items())


def test_other_weights_of_a_detector_are_an_error(tmp_path):
    detector = build_detector(DETECTOR, 2)
    other = build_detector(DETECTOR, 2).state_dict()
    files = {
        "a backbone alone": {n.removeprefix("backbone."): t for n, t in other.items() if n.startswith("backbone.")},
        "a head alone": {n: t for n, t in other.items() if n.startswith("head.")},
        "a classifier": torchvision.models.resnet18().state_dict(),
    }
    for kind, state in files.items():
        torch.save(state, tmp_path / "w.pth")
        with pytest.raises(UserError, match="too little fits this model") as error:
            load_pretrained(detector, str(tmp_path / "w.pth"))
        assert "backbone." in str(error.value), kind


def test_a_file_without_one_common_tensor_is_an_error():
    """Though no tensor counts."""
    module = torch.nn.Linear(1, 1)
    with pytest.raises(UserError, match="loaded 0"):
        load_state(module, {"x": torch.zeros(1)}, "here", uncounted={"weight", "bias", "x"})


@pytest.mark.parametrize("content", [{}, {"model": {}}, {"model": 3, "x": None}, {"a": torch.zeros(1), "b": [1]}, []])
def test_no_tensors_are_an_error(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match="holds no plain dictionary of tensors"):
        read_state(str(tmp_path / "w.pth"))
