"""The amplitude of skip pooling: measured on training images, once, and the same everywhere."""

import dataclasses
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import nn
from torchvision.ops import roi_align

from detection.detector import build_detector
from detection.errors import UserError
from detection.pooling import SkipPool, Source
from detection.runs.folder import open_run
from detection.training import amplitudes
from detection.training.amplitudes import measure_amplitude, start_amplitude
from detection.training.data import open_data
from detection.training.run import prepare, train
from tests.tiny_runs import DETECTOR, tiny_config

POOL = partial(
    SkipPool,
    sources=(Source(("c2",)), Source(("c3",), norm="channels")),
    out_channels=8,
    output_size=3,
    reference=("c3",),
)
pytestmark = pytest.mark.usefixtures("blank_plots")
CPU = SimpleNamespace(is_main_process=True, num_processes=1, process_index=0, device=torch.device("cpu"))


def skip_config(shapes, *overrides, pool=POOL):
    config = tiny_config(shapes, *overrides)
    return dataclasses.replace(config, detector=dataclasses.replace(config.detector, pool=pool))


@pytest.fixture
def detector():
    torch.manual_seed(0)
    return build_detector(dataclasses.replace(DETECTOR, pool=POOL), 3, resize_in_training=False)


def make_batches():
    """One image a batch, of 64x64 and 48x64 pixels, with two boxes and one."""
    generator = torch.Generator().manual_seed(0)
    boxes = [[[4.0, 4, 30, 40], [20, 20, 60, 60]], [[10.0, 0, 50, 48]]]
    return [
        (
            [torch.randint(0, 256, (3, height, 64), dtype=torch.uint8, generator=generator)],
            [{"boxes": torch.tensor(found), "labels": torch.ones(len(found), dtype=torch.int64)}],
        )
        for height, found in zip((64, 48), boxes, strict=True)
    ]


def test_it_is_the_mean_over_boxes_of_the_descriptors_root_mean_square(detector):
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (detector.backbone.image_mean, detector.backbone.image_std))
    detector.eval()
    found = []
    for (image,), (target,) in make_batches():
        padded = torch.zeros(1, 3, 64, 64)
        padded[0, :, : image.shape[1]] = (image / 255 - mean) / std
        with torch.no_grad():
            c3 = detector.backbone(padded)["c3"]
        found += [d.square().mean().sqrt().item() for d in roi_align(c3, [target["boxes"]], 3, 1 / 8, 2)]
    assert len(found) == 3
    assert measure_amplitude(detector.train(), make_batches(), ("c3",)) == pytest.approx(sum(found) / 3, rel=1e-5)


def test_images_have_the_size_that_is_trained_on(detector):
    sizes = []
    detector.backbone.register_forward_hook(lambda m, args, out: sizes.append(tuple(args[0].shape[-2:])))
    batch = [([torch.rand(3, 30, 32)], [{"boxes": torch.tensor([[1.0, 1, 20, 20]])}])]
    measure_amplitude(detector, batch, ("c3",))
    resizing = build_detector(dataclasses.replace(DETECTOR, pool=POOL), 3, resize_in_training=True)
    resizing.backbone.register_forward_hook(lambda m, args, out: sizes.append(tuple(args[0].shape[-2:])))
    measure_amplitude(resizing, batch, ("c3",))
    assert sizes == [(32, 32), (64, 64)]


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_the_detector_and_the_random_state_as_they_were(detector, training):
    detector.train(training)
    detector.backbone.eval()
    modes = {n: m.training for n, m in detector.named_modules()}
    state, random, graphs = {n: t.clone() for n, t in detector.state_dict().items()}, torch.get_rng_state(), []
    detector.backbone.register_forward_hook(lambda m, args, out: graphs.append(out["c3"].requires_grad))
    measure_amplitude(detector, make_batches(), ("c3",))
    assert graphs == [False, False] and all(p.requires_grad for p in detector.parameters())
    assert {n: m.training for n, m in detector.named_modules()} == modes
    assert all(torch.equal(t, state[n]) for n, t in detector.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_normalized_sources_get_the_amplitude_of_the_reference(shapes, detector):
    dataset = open_data(skip_config(shapes), CPU).train
    amplitude = start_amplitude(detector, dataset, CPU)
    assert amplitude is not None and amplitude > 0 and amplitude != 1
    assert torch.equal(detector.pool.parts[1].amplitude, torch.full((16,), amplitude))
    pool = SkipPool(
        {"c3": 16}, {"c3": 8}, sources=(Source(("c3",), norm="channels"),), amplitude=amplitude, output_size=3
    )
    nn.init.eye_(pool.reduce.weight.data[:, :, 0, 0])
    found = pool({"c3": torch.rand(1, 16, 8, 8)}, [torch.tensor([[0.0, 0, 40, 40]])], [(64, 64)])
    assert found.square().mean().sqrt().item() == pytest.approx(amplitude, rel=1e-5)


class Images:
    """Twenty images, those with odd numbers without boxes."""

    def __init__(self, seed):
        self.seed = seed

    def __len__(self):
        return 20

    def __getitem__(self, position):
        return torch.zeros(3, 8, 8), {"boxes": torch.zeros(1 - position % 2, 4), "image_id": position}


def test_images_are_drawn_by_the_seed_and_those_without_boxes_passed_over(detector, monkeypatch):
    seen = []

    def record(detector, batches, reference):
        seen.append([target["image_id"] for _, (target,) in batches])
        return 1.0

    monkeypatch.setattr(amplitudes, "measure_amplitude", record)
    for seed, images in ((0, 4), (0, 100), (1, 4)):
        start_amplitude(detector, Images(seed), CPU, images=images)
    first, every, other = seen
    assert len(first) == 4 and first == every[:4] and other != first
    assert sorted(every) == list(range(0, 20, 2)) != every


@pytest.mark.parametrize("pool", [DETECTOR.pool, partial(SkipPool, **{**POOL.keywords, "reference": None})])
def test_nothing_is_measured_where_no_reference_is_named(shapes, pool):
    plain = build_detector(dataclasses.replace(DETECTOR, pool=pool), 3)
    before = {n: t.clone() for n, t in plain.state_dict().items()}
    assert start_amplitude(plain, open_data(tiny_config(shapes), CPU).train, CPU) is None
    assert all(torch.equal(t, before[n]) for n, t in plain.state_dict().items())


def test_other_processes_take_what_the_first_measured(shapes, detector, monkeypatch):
    monkeypatch.setattr(amplitudes, "measure_amplitude", lambda *args: pytest.fail("measured twice"))
    monkeypatch.setattr(amplitudes, "broadcast_object_list", lambda shared: shared.__setitem__(0, 4.5))
    second = SimpleNamespace(is_main_process=False, num_processes=2)
    assert start_amplitude(detector, open_data(tiny_config(shapes), CPU).train, second) == 4.5
    assert torch.equal(detector.pool.parts[1].amplitude, torch.full((16,), 4.5))


def test_a_run_measures_once_and_its_amplitudes_are_in_the_checkpoint(shapes, tmp_path, capsys, monkeypatch):
    config = skip_config(shapes, "schedule.epochs=1", "ema=0.5")
    train(config, tmp_path / "run", Accelerator(cpu=True))
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("amplitude ")]
    assert len(said) == 1 and float(said[0].split()[1].rstrip(",")) > 0
    monkeypatch.setattr(amplitudes, "measure_amplitude", lambda *args: pytest.fail("measured again"))
    saved = {
        name: load_file(tmp_path / f"run/checkpoints/last/{name}.safetensors")["pool.parts.1.amplitude"]
        for name in ("model", "training")
    }
    # Both the weights and their average started from what was measured, not from 1.
    assert all(
        t.mean().item() == pytest.approx(float(said[0].split()[1].rstrip(",")), rel=0.05) for t in saved.values()
    )
    reopened, _, _ = open_run(tmp_path / "run", checkpoint="last")
    assert torch.equal(reopened.pool.parts[1].amplitude, saved["model"])
    longer = dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, epochs=2))
    run = prepare(longer, tmp_path / "run", Accelerator(cpu=True), True)
    assert torch.equal(run.model.pool.parts[1].amplitude, saved["training"])


def test_trained_amplitudes_that_come_with_the_weights_stay(shapes, tmp_path, detector, monkeypatch):
    monkeypatch.setattr(amplitudes, "measure_amplitude", lambda *args: pytest.fail("measured"))
    detector.pool.set_amplitude(3.25)
    weights = tmp_path / "weights.pth"
    torch.save(detector.state_dict(), weights)
    run = prepare(skip_config(shapes, f"detector.weights={weights}"), tmp_path / "run", Accelerator(cpu=True), False)
    assert torch.equal(run.model.pool.parts[1].amplitude, torch.full((16,), 3.25))


@pytest.mark.parametrize(
    ("reference", "boxes", "weight", "sentence"),
    [
        (("context",), [[1.0, 1, 9, 9]], 1.0, "pool.reference: there is no feature map 'context'"),
        (("c3",), [], 1.0, r"pool.reference=\('c3',\): descriptors of 0 boxes have no usable amplitude"),
        (("c3",), [[1.0, 1, 9, 9]], 0.0, "descriptors of 1 boxes have no usable amplitude"),
        (("c3",), [[1.0, 1, 9, 9]], float("nan"), "descriptors of 1 boxes have no usable amplitude"),
    ],
)
def test_what_cannot_be_measured_gets_one_sentence(detector, reference, boxes, weight, sentence):
    for p in detector.backbone.parameters():
        nn.init.constant_(p, weight)
    batch = ([torch.rand(3, 64, 64)], [{"boxes": torch.tensor(boxes).view(-1, 4)}])
    with pytest.raises(UserError, match=sentence) as error:
        measure_amplitude(detector.train(), [batch], reference)
    assert "\n" not in str(error.value) and detector.backbone.training
