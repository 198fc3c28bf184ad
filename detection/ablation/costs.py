"""Costs of each architecture: parameters, FLOPs, time and memory, measured together.

Times are medians over rounds, in each of which every architecture has its turn: other load on the machine then affects
all of them alike. An architecture that several variants or seeds share is measured once.
"""

import json
import platform
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from detection.ablation.plan import Plan, Run
from detection.ablation.workload import Workload
from detection.analysis.timing import times_in_turns
from detection.errors import UserError


@dataclass(frozen=True)
class ArchitectureCost:
    """Costs of one architecture.

    Attributes:
        parameters: their number, learned or frozen.
        flops: FLOPs of a forward pass on one image.
        train_step_s: seconds of a training step on one batch, median.
        inference_s: seconds of inference on one image, median.
        train_bytes: peak memory of a training step beyond what was allocated before it.
        inference_bytes: the same of inference.
    """

    parameters: int
    flops: int
    train_step_s: float
    inference_s: float
    train_bytes: int
    inference_bytes: int


@dataclass(frozen=True)
class MeasuredCosts:
    """Costs of the architectures of a plan by digest, or why one has none, of some rounds on a machine (in words)."""

    machine: str
    rounds: int
    architectures: Mapping[str, ArchitectureCost]
    failures: Mapping[str, str]


def architectures(plan: Plan) -> dict[str, Run]:
    """One run of each architecture of the plan, by digest."""
    return plan.distinct(plan.ablation.run_type.architecture)


def measure_costs(
    plan: Plan, rounds: int, settle: Callable[[], object], peak: Callable[[Callable], int]
) -> MeasuredCosts:
    """Build every architecture and measure all of them in turns.

    Args:
        plan: the runs, whose architectures are measured.
        rounds: turns of each, after two to warm up.
        settle: waits until the device is idle.
        peak: peak memory of a function's call in bytes, beyond what was allocated before.
    """
    built, failures = dict[str, Workload](), dict[str, str]()
    for digest, run in architectures(plan).items():
        try:
            built[digest] = plan.ablation.run_type.workload(run.config)
            # A step that does not fit in memory fails here, and not while the others are measured.
            built[digest].train_step()
        except (UserError, RuntimeError, ValueError) as error:
            built.pop(digest, None)
            failures[digest] = next(iter(str(error).splitlines()), type(error).__name__)
    memory = {d: (peak(w.train_step), peak(w.infer)) for d, w in built.items()}
    times = times_in_turns([f for w in built.values() for f in (w.train_step, w.infer)], rounds, settle)
    medians = [statistics.median(of_function) for of_function in times]
    costs = {
        digest: ArchitectureCost(work.parameters, work.flops, medians[2 * i], medians[2 * i + 1], *memory[digest])
        for i, (digest, work) in enumerate(built.items())
    }
    return MeasuredCosts(machine_name(), rounds, costs, failures)


def cost_of(plan: Plan, costs: MeasuredCosts | None, data: str, variant: str) -> ArchitectureCost | None:
    """Return the cost of a variant on a data set, None where it was not measured."""
    if costs is None or data not in plan.trained_data:
        return None
    run_type, run = plan.ablation.run_type, plan.of(data, variant)[0]
    return costs.architectures.get(run_type.digest(run_type.architecture(run.config)))


def read_costs(path: Path) -> MeasuredCosts | None:
    """Costs measured before; None where there are none, or they cannot be read."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        costs = {digest: ArchitectureCost(**cost) for digest, cost in plain["architectures"].items()}
        return MeasuredCosts(plain["machine"], plain["rounds"], costs, plain["failures"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def all_measured(costs: MeasuredCosts | None, plan: Plan) -> bool:
    """Return whether every architecture of a plan was measured; if not, all are measured again, together."""
    return costs is not None and set(architectures(plan)) <= set(costs.architectures)


def machine_name() -> str:
    """Describe what this process measures on: the device, its threads, and versions."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return f"{device}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, {platform.system()}"
