"""Two processes on one machine (gloo): they train together, and evaluate to the numbers of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from detection.config import override, to_plain
from detection.evaluation.coco import METRICS
from detection.runs.folder import open_run
from detection.training.data import open_data
from detection.training.engine import validation_loss
from detection.training.run import prepare, train
from tests.tiny_runs import tiny_config, write_config
from tests.training.forked_runs import run_two

ROOT = Path(__file__).parents[2]


def torchrun(*arguments, cwd):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*command, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def two_process_run(shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    config = write_config(folder / "config.py", shapes)
    # The stem is let go after the first epoch: the wrapper must be made again.
    extra = ("freeze.stem=1", "validation_loss=true", "--output=run")
    out = torchrun(str(ROOT / "tools/train.py"), str(config), *extra, cwd=folder)
    return folder / "run", out


def test_two_processes_train_to_a_complete_run(two_process_run):
    run, out = two_process_run
    assert "2 process(es)" in out and "scaled to the real 4" in out
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "lr" in line] == [1, 2, 3, 4]  # 7 images, 4 an update, 2 epochs
    assert (run / "metrics.json").is_file()
    data = json.loads((run / "environment.json").read_text())["data"]
    assert {len(split["images_sha256"]) for split in data.values()} == {64}


IN_STEP = """
from pathlib import Path

from accelerate.utils import gather_object

from detection.config import Config, from_plain
from detection.training.loaders import build_accelerator
from detection.training.loop import run_epochs
from detection.training.run import after_epoch, prepare

accelerator = build_accelerator("no", "cpu")
run = prepare(from_plain({plain!r}, Config), Path("run"), accelerator, False)
run_epochs(run, after_epoch)
states = gather_object([{{n: t.double().abs().sum().item() for n, t in run.model.state_dict().items()}}])
differing = [n for n in states[0] if states[0][n] != states[1][n]]
assert not differing, differing
accelerator.end_training()
"""


@pytest.mark.parametrize(
    "extra",
    [("freeze.stem=1",), pytest.param(("detector.head=detection.heads.SequenceHead",), marks=pytest.mark.slow)],
)
def test_processes_stay_in_step(shapes, tmp_path, extra):
    """Weights, those of a stage that is let go after an epoch too, and batch statistics once they were evaluated."""
    plain = to_plain(tiny_config(shapes, *extra))
    (tmp_path / "in_step.py").write_text(IN_STEP.format(plain=plain))
    run_two(tmp_path, tmp_path / "in_step.py")


def test_processes_see_different_images(shapes):
    seen = []
    for rank in (0, 1):
        accelerator = SimpleNamespace(num_processes=2, process_index=rank, device=torch.device("cpu"))
        batches = open_data(tiny_config(shapes, "batch_size=1"), accelerator).train_batches
        seen.append([position for batch in batches for _, position, _ in batch])
    assert len(seen[0]) == len(seen[1]) == 4 and set(seen[0] + seen[1]) == set(range(7))


def test_both_processes_write_once(two_process_run):
    _, out = two_process_run
    assert out.count("classes   circle") == 1 and out.count("finished") == 1


def test_one_and_two_processes_evaluate_to_equal_numbers(two_process_run, tmp_path, blank_plots):
    """3 validation images, an odd number, in batches of 2."""
    run, _ = two_process_run
    run_two(tmp_path, ROOT / "tools/evaluate.py", str(run), f"--output={tmp_path / 'two'}", "--device=cpu")
    from detection.training.evaluate import evaluate_run

    evaluate_run(run, output=tmp_path / "one", device="cpu")
    one, two = ((tmp_path / n / "results.json").read_text() for n in ("one", "two"))
    assert one == two
    one, two = (json.loads((tmp_path / n / "metrics.json").read_text()) for n in ("one", "two"))
    assert {k: one[k] for k in METRICS} == {k: two[k] for k in METRICS}


def test_the_validation_loss_depends_on_neither_processes_nor_batches(two_process_run):
    run, _ = two_process_run
    logged = [json.loads(line).get("val_loss") for line in (run / "log.jsonl").read_text().splitlines()][-1]
    accelerator = Accelerator(cpu=True)
    detector, _, config = open_run(run, checkpoint="last")
    for batch_size in (1, 2, 3):
        loader = open_data(override(config, [f"eval_batch_size={batch_size}"]), accelerator).val_loader
        assert validation_loss(detector, loader, accelerator, config.seed) == logged > 0


@pytest.mark.slow
def test_two_processes_of_one_image_move_the_weights_like_one_process_of_two(shapes, tmp_path):
    """What differs is the sampling of anchors and the batch statistics on each process."""
    extra = ("schedule.epochs=1", "optimizer.lr=1e-4", "data.augmentation=none")
    untrained = prepare(tiny_config(shapes, *extra), tmp_path / "start", Accelerator(cpu=True), False).model
    start = {n: p.detach().clone() for n, p in untrained.named_parameters()}
    train(tiny_config(shapes, *extra), tmp_path / "one", Accelerator(cpu=True))
    config = write_config(tmp_path / "config.py", shapes)
    run_two(tmp_path, ROOT / "tools/train.py", str(config), *extra, "batch_size=1", "--output=two")
    first = [json.loads((tmp_path / n / "log.jsonl").read_text().splitlines()[0]) for n in ("one", "two")]
    assert first[1]["loss"] == pytest.approx(first[0]["loss"], rel=0.1)
    ends = (load_file(tmp_path / n / "checkpoints/last/model.safetensors") for n in ("one", "two"))
    one, two = (torch.cat([(end[n] - p).flatten() for n, p in start.items()]) for end in ends)
    # A sum over processes in place of a mean would double the way, gradients of other images turn it.
    assert two.norm().item() == pytest.approx(one.norm().item(), rel=0.1)
    assert torch.cosine_similarity(one, two, dim=0) > 0.9


ACCUMULATION = """
import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from detection.training.engine import train_one_epoch

accelerator = Accelerator(cpu=True)
synchronized = []


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, images, targets):
        return {"loss_a": self.weight * images[0].sum()}


model = Model()
optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
model, optimizer = accelerator.prepare(model, optimizer)


def counted(state, bucket):
    synchronized.append(1)
    return allreduce_hook(state, bucket)


model.register_comm_hook(None, counted)
rank = accelerator.process_index
batches = [([torch.tensor([1.0 + 10 * rank + n])], [{"image_id": n}]) for n in range(5)]
weights = []
train_one_epoch(
    model, batches, 5, optimizer, scheduler, accelerator, gradient_accumulation_steps=2,
    log=lambda line: weights.append(accelerator.unwrap_model(model).weight.item()),
)
# Means over processes of the sums over a group, divided by its batches: 5 + (1 + 2) / 2, 5 + (3 + 4) / 2, 5 + 5.
assert weights == [-6.5, -15.0, -25.0], weights
assert len(synchronized) == 3, synchronized
del model  # with the hook, before the interpreter ends
accelerator.end_training()
"""


def test_accumulated_gradients_are_exchanged_once_an_update(tmp_path):
    (tmp_path / "accumulation.py").write_text(ACCUMULATION)
    run_two(tmp_path, tmp_path / "accumulation.py")
