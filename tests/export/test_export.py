"""Exported detectors against the detectors they were made of, and what is refused."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from detection.data.coco_index import Category
from detection.errors import UserError
from detection.export import export as export_module
from detection.export import predict_onnx, verification
from detection.export.drawn_images import drawn_images
from detection.export.export import ExportSettings, default_size, export
from detection.export.network import DetectorGraph
from detection.export.onnx_file import require_onnx
from tests.export.kinds import (
    CELLS,
    CONTEXTS,
    SHIPPED,
    SMALL,
    UNROLLED,
    build,
    context,
    spatial_rnn,
)

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

ROOT = Path(__file__).parents[2]
CATEGORIES = tuple(Category(i, name) for i, name in enumerate(("cat", "dog", "hen"), start=1))
FEW = "detector.regions.post_nms_top_n=(20, 20)"


def write(detector, path, size=None, images=None):
    return export(detector, CATEGORIES, path, ExportSettings(size), images or drawn_images(2, 72, 96))


@pytest.fixture(scope="module")
def accumulator():
    return build("ion_beacon", [*SMALL, FEW])


@pytest.fixture(scope="module")
def exported(accumulator, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    return path, write(accumulator, path, images=drawn_images(3, 72, 96))


def test_an_accumulator_is_exported_for_batches_of_any_size(exported):
    path, found = exported
    assert found.compared > 20 and found.pixels < 1e-2 and found.score < 1e-4 and not found.lowered
    shapes = {shape[::2] for shape in found.batches}
    assert {batch for batch, _ in shapes} == {1, 2, 3} and len({shape[2:] for shape in found.batches}) > 1
    assert sorted(p.name for p in path.parent.iterdir()) == ["model.onnx", "predict_onnx.py"]
    inputs = {value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in
              onnx.load(path).graph.input}  # fmt: skip
    assert inputs == {"images": ["batch", 3, "height", "width"], "sizes": ["batch", 2]}


def test_the_script_without_torch_finds_what_the_detector_finds(exported, accumulator, tmp_path, monkeypatch, capsys):
    path, _ = exported
    image = drawn_images(1, 50, 90)[0]
    Image.fromarray(image).save(tmp_path / "a.png")
    expected = accumulator([torch.from_numpy(image).permute(2, 0, 1)])[0]
    monkeypatch.setattr("sys.argv", ["predict_onnx.py", str(path), str(tmp_path / "a.png")])
    runpy.run_path(str(path.with_name("predict_onnx.py")), run_name="__main__")
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    strong = expected["scores"] >= 0.5
    assert [row[1] for row in rows] == [CATEGORIES[k - 1].name for k in expected["labels"][strong].tolist()]
    boxes = np.array([[float(side) for side in row[3:]] for row in rows])
    assert len(boxes) and np.abs(boxes - expected["boxes"][strong].detach().numpy()).max() < 0.06
    text = path.with_name("predict_onnx.py").read_text()
    assert "torch" not in text.split('"""')[2] and len(text.splitlines()) < 65
    for arguments, sentence in (
        ([], "python predict_onnx.py MODEL.onnx IMAGE"),
        ([str(path), "b.png"], "error: .*b.png"),
    ):
        monkeypatch.setattr("sys.argv", ["predict_onnx.py", *arguments])
        with pytest.raises(SystemExit, match=sentence):
            runpy.run_path(str(path.with_name("predict_onnx.py")), run_name="__main__")


def test_an_lstm_is_exported_for_one_size(tmp_path):
    detector = build("ion_beacon", [*spatial_rnn("LSTM"), FEW])
    assert write(detector, tmp_path / "model.onnx", (64, 96)).compared > 10
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert session.get_inputs()[0].shape == [1, 3, 64, 96]
    meta = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    assert [c["name"] for c in meta["categories"]] == ["cat", "dog", "hen"] and meta["size"] == [64, 96]


@pytest.mark.parametrize("size", [(37, 91), (96, 20), (50, 50)])
def test_images_are_resized_as_the_detector_resizes(size):
    image = drawn_images(1, *size)[0]
    meta = {"min_size": 64, "max_size": 96, "size": None}
    scale = min(64 / min(size), 96 / max(size))
    x = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    expected = F.interpolate(x, scale_factor=scale, mode="bilinear", recompute_scale_factor=True)[0]
    found = predict_onnx.prepare(image, meta)
    assert found.shape == tuple(expected.shape) and np.abs(found - expected.numpy()).max() < 1e-5
    assert predict_onnx.prepare(image, {**meta, "size": [32, 32]}).shape[1:] == tuple(
        int(side * 32 / max(size)) for side in size
    )


def test_a_file_that_differs_is_not_kept(accumulator, tmp_path, monkeypatch):
    trace = export_module._trace

    def of_another(graph, *rest):
        other = build("ion_beacon", [*SMALL, FEW])
        other.backbone.stem[0].weight.data *= 1.1
        trace(DetectorGraph(other).eval(), *rest)

    monkeypatch.setattr(export_module, "_trace", of_another)
    with pytest.raises(UserError, match="differs from the detector.*no file was written"):
        write(accumulator, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_size_that_a_part_keeps_is_found(tmp_path):
    class Keeps(nn.Module):
        out_channels = 16

        def forward(self, x, valid):
            return x + 0.1 * int(x.shape[3]) * valid

    detector = build("ion_beacon", [*context("NoContext"), FEW])
    detector.context = Keeps()
    with pytest.raises(UserError, match="differs from the detector"):
        write(detector, tmp_path / "model.onnx")


def test_a_detector_that_is_unsure_is_compared_below_its_threshold(accumulator, tmp_path):
    detector = build("ion_beacon", [*SMALL, FEW, "detector.head.score_threshold=0.99999"])
    found = write(detector, tmp_path / "model.onnx")
    assert found.lowered and found.threshold < 0.99999 and found.compared
    assert detector.head.roi_heads.score_thresh == 0.99999


def test_nothing_to_compare_is_an_error(tmp_path):
    detector = build("ion_beacon", [*SMALL, FEW])
    detector.head.roi_heads.box_predictor.cls_score.bias.data[0] = 1e4
    with pytest.raises(UserError, match="finds nothing in these images at any score"):
        write(detector, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def compared(expected, found, candidates, detector):
    result = verification.Verification(0.05)
    verification._compare(expected, found, candidates, detector, result)
    return result.compared, result.undecided


def boxes(*rows):
    columns = torch.tensor(rows)
    return {"boxes": columns[:, :4], "scores": columns[:, 4], "labels": torch.ones(len(rows), dtype=torch.int64)}


def test_what_less_than_a_ten_thousandth_decides_is_left_out(accumulator):
    one, shifted, far = (5.0, 5.0, 25.0, 25.0), (6.0, 5.0, 26.0, 25.0), (50.0, 50.0, 70.0, 70.0)
    same = boxes((*one, 0.9))
    assert compared(same, same, same, accumulator) == (1, 0)
    tied = boxes((*one, 0.9), (*shifted, 0.89999))
    assert compared(same, boxes((*shifted, 0.89999)), tied, accumulator) == (0, 2)
    clear = boxes((*one, 0.9), (*shifted, 0.8))
    with pytest.raises(UserError, match="1 pixels and a score of 0.1 away"):
        compared(same, boxes((*shifted, 0.8)), clear, accumulator)
    assert compared(boxes((*one, 0.9), (*far, 0.05005)), same, clear, accumulator) == (1, 1)
    with pytest.raises(UserError, match="the file has .*which the other lacks"):
        compared(same, boxes((*one, 0.9), (*far, 0.3)), clear, accumulator)


def test_parts_without_a_form_are_refused(tmp_path):
    with pytest.raises(UserError, match="Stitch .*postprocess=detection.heads.stitching.NMS"):
        DetectorGraph(build("reinspect_crowd", []))
    for part in ("pool", "regions", "head"):
        detector = build("ion_beacon", [*SMALL, FEW])
        setattr(detector, part, nn.Identity())
        with pytest.raises(UserError, match="Identity: only"):
            write(detector, tmp_path / "model.onnx")
        assert not list(tmp_path.iterdir())


def test_weights_that_fit_into_no_file_are_refused(accumulator, tmp_path, monkeypatch):
    monkeypatch.setattr("detection.export.onnx_file.MAX_BYTES", 1000)
    with pytest.raises(UserError, match="the weights are .* GB and an ONNX file can hold"):
        write(accumulator, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_box_iterations_voting_and_mirrored_images_are_exported(tmp_path):
    more = ["flip=true", "num_box_iterations=2", "voting_iou=0.8"]
    detector = build("ion_beacon", [*SMALL, FEW, *(f"detector.inference.{text}" for text in more)])
    assert write(detector, tmp_path / "model.onnx").compared > 20


def test_a_library_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"onnxruntime is not installed: pip install 'context-detection\[onnx\]'"):
        require_onnx()


@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_a_plain_trace_of_a_sequence_head_repeats_its_example():
    detector = build("sequence_head_crowd", [])
    image = torch.from_numpy(drawn_images(1, 96, 96)[0]).permute(2, 0, 1) / 255

    class OfOne(nn.Module):
        def __init__(self):
            super().__init__()
            self.detector = detector

        def forward(self, image):
            return tuple(self.detector([image])[0].values())

    traced = torch.jit.trace(OfOne(), image, check_trace=False)
    for found, expected in zip(traced(image), OfOne()(image), strict=True):
        assert torch.equal(found, expected)


def _of_any_size(detector, path):
    try:
        return write(detector, path)
    except UserError as error:
        assert str(error).startswith("--dynamic: ")
        return None


MATRIX = {
    **{f"`SpatialRNN`, `{cell}`": ("ion_beacon", spatial_rnn(cell)) for cell in CELLS},
    **{f"`{name}`": ("ion_beacon", context(name)) for name in CONTEXTS},
    **{f"`{name}`": (name, overrides) for name, overrides in SHIPPED.items()},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MATRIX)
def test_the_table_of_the_docs_is_what_is_exported(name, tmp_path):
    detector = build(*MATRIX[name], pretrained=True)
    assert write(detector, tmp_path / "one.onnx", default_size(detector)).compared >= 10
    found = _of_any_size(detector, tmp_path / "any.onnx")
    cells = ["yes", "yes" if found else "no"]
    assert f"| {name} | {' | '.join(cells)} |" in (ROOT / "docs/export.md").read_text(encoding="utf-8")
    assert (found is None) == any(cell in name for cell in UNROLLED)
