"""`--device`: taken where torch has the device, refused in one sentence where not. No GPU of a Mac is needed here."""

from types import SimpleNamespace

import pytest
import torch

from detection.cells import LSTM, Accumulator
from detection.cli import evaluate, explain, predict, train
from detection.errors import UserError
from detection.ops.sweep.dispatch import _fastest
from detection.system_errors import explain as explain_error
from detection.training import device_batches, loaders, random_state
from detection.training.loaders import build_accelerator, inference_precision, require_device
from detection.training.random_state import kept_random_state, set_random_state
from detection.training.resuming import resume_command


@pytest.mark.parametrize("command", [train, predict, evaluate, explain])
def test_no_command_takes_the_gpu_of_a_mac_where_there_is_none(
    command, finished_run, shapes, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    run, image = str(finished_run), str(next((shapes / "val").iterdir()))
    arguments = {train: ["quickstart"], evaluate: [run]}.get(command, [run, image])
    assert command.main([*arguments, "--device=mps"]) == 2
    error = capsys.readouterr().err
    assert error == "error: --device mps: torch finds no GPU of a Mac here; use --device cpu.\n"
    assert not list(tmp_path.iterdir())


def test_other_devices_are_refused():
    with pytest.raises(UserError, match="--device tpu: must be cpu, cuda or mps"):
        require_device("tpu")


@pytest.mark.parametrize(
    ("device", "cuda", "cpu"), [(None, False, True), (None, True, False), ("cpu", True, True), ("mps", False, False)]
)
def test_the_gpu_of_a_mac_is_taken_only_if_it_is_named(device, cuda, cpu, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(loaders, "Accelerator", lambda **settings: settings)
    assert build_accelerator("no", device)["cpu"] is cpu


def test_mixed_precision_is_not_for_the_gpu_of_a_mac(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(loaders, "Accelerator", lambda **settings: settings)
    with pytest.raises(UserError, match="precision=bf16: is for CUDA and CPUs; use precision=no with --device mps"):
        build_accelerator("bf16", "mps")
    assert build_accelerator("bf16", "mps", inference=True)["mixed_precision"] == "no"


@pytest.mark.parametrize(
    ("precision", "found"), [("no", ("no",) * 3), ("bf16", ("bf16", "bf16", "no")), ("fp16", ("fp16", "no", "no"))]
)
def test_the_precision_of_inference_is_one_that_the_device_has(precision, found):
    assert tuple(inference_precision(precision, device) for device in ("cuda", "cpu", "mps")) == found


def test_one_process_builds_accelerators_of_several_precisions():
    precisions, dtypes, models, accelerators = ["bf16", "no", "bf16"], [], [], []
    for precision in precisions:
        accelerators.append(build_accelerator(precision, "cpu"))
        models.append(accelerators[-1].prepare(torch.nn.Sequential(torch.nn.Linear(2, 2))))
        models[-1][0].register_forward_hook(lambda *call: dtypes.append(call[-1].dtype))
    for accelerator, model in zip(accelerators, models, strict=True):
        with accelerator.autocast():
            model(torch.ones(1, 2))
    assert [accelerator.mixed_precision for accelerator in accelerators] == precisions
    assert dtypes == [torch.bfloat16, torch.float32, torch.bfloat16]


@pytest.mark.parametrize("cell", [Accumulator, LSTM])
def test_sweeps_there_are_steps_in_autograd(cell):
    cells = [cell(4)]
    x = {
        kind: SimpleNamespace(device=torch.device(kind), is_cuda=False, dtype=torch.float32) for kind in ("cpu", "mps")
    }
    assert [_fastest(cells, x[kind], None) for kind in ("cpu", "mps")] == ["ours", "lines"]


def test_the_random_state_of_the_gpu_of_a_mac_is_kept(monkeypatch):
    stream = [torch.tensor([1])]
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: stream[0])
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state: stream.__setitem__(0, state))
    device, expected = torch.device("mps"), None
    with kept_random_state(device):
        expected = torch.rand(1)
        stream[0] = torch.tensor([2])
    assert stream[0] == 1 and torch.rand(1) == expected
    older = random_state.random_state(device)
    del older["mps"]  # as a checkpoint from before it was kept
    set_random_state(older, device)


def test_a_run_is_resumed_on_the_device_that_it_was_on(tmp_path):
    accelerator = SimpleNamespace(device=torch.device("mps"), num_processes=1)
    command = resume_command(SimpleNamespace(accelerator=accelerator, folder=tmp_path, command="train"))
    assert command.endswith("--resume --device mps")


def test_an_operation_that_torch_lacks_there_is_one_sentence():
    text = (
        "The operator 'aten::_unique2' is not currently implemented for the MPS device. If you want this op to be added"
    )
    assert explain_error(NotImplementedError(text)) == (
        "--device mps: torch has no aten::_unique2 there; set PYTORCH_ENABLE_MPS_FALLBACK=1, or use --device cpu."
    )
    assert explain_error(NotImplementedError("elsewhere")) is None


@pytest.mark.parametrize(("device", "waits"), [("cpu", True), ("meta", False)])
def test_only_copies_to_the_host_are_waited_for(device, waits, monkeypatch):
    """A copy from a GPU that nobody waits for would be read before it is complete."""
    seen, to = [], torch.Tensor.to
    monkeypatch.setattr(
        torch.Tensor, "to", lambda x, *args, **kwargs: seen.append(kwargs["non_blocking"]) or to(x, *args, **kwargs)
    )
    device_batches.to_device(
        [torch.zeros(3, 2, 2)], [{"boxes": torch.zeros(1, 4), "image_id": 1}], torch.device(device)
    )
    assert seen == [not waits] * 2
