"""What each architecture costs: parameters, operations, time and memory, measured beside each other.

Times are medians over rounds, in each of which every architecture has its turn: whatever else the machine does meets
all of them alike. An architecture that several variants or seeds share is measured once.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detection.ablation.plan import Cell, Plan
from detection.ablation.run_types import Kind, Workload
from detection.atomic_write import atomic_write
from detection.errors import UserError

WARM_UP = 2


@dataclass(frozen=True)
class Cost:
    """What one architecture costs.

    Attributes:
        parameters: how many numbers it has.
        flops: operations of a forward pass on one image.
        train_step_s: seconds of one update on one batch, median.
        inference_s: seconds of one look at one image, median.
        train_bytes: the most memory that an update holds beyond what was there before it.
        inference_bytes: the same of a look.
    """

    parameters: int
    flops: int
    train_step_s: float
    inference_s: float
    train_bytes: int
    inference_bytes: int


@dataclass(frozen=True)
class Costs:
    """What was measured, and where.

    Attributes:
        machine: what it was measured on, in words.
        rounds: turns of each architecture.
        architectures: by digest of the architecture.
        failures: why an architecture has no cost, by its digest.
    """

    machine: str
    rounds: int
    architectures: Mapping[str, Cost]
    failures: Mapping[str, str]


def architectures(plan: Plan) -> dict[str, Cell]:
    """One cell of each architecture of the plan, by digest."""
    kind = plan.ablation.kind
    found: dict[str, Cell] = {}
    for cell in plan.cells:
        found.setdefault(architecture_digest(kind, cell.config), cell)
    return found


def architecture_digest(kind: Kind, config: Any) -> str:
    """Equal for configs that cost the same."""
    return kind.digest(kind.architecture(config))


def measure(plan: Plan, rounds: int, settle: Callable[[], object], peak: Callable[[Callable], int]) -> Costs:
    """Build every architecture and measure all of them in turns.

    Args:
        plan: whose architectures they are.
        rounds: turns of each, after two to warm up.
        settle: waits until the device has done all that it was given.
        peak: the most bytes that a call of a function holds beyond what was there before.
    """
    kind, built, failures = plan.ablation.kind, dict[str, Workload](), dict[str, str]()
    for digest, cell in architectures(plan).items():
        try:
            built[digest] = kind.workload(cell.config)
            built[digest].train_step()
        except (UserError, RuntimeError, ValueError) as error:
            built.pop(digest, None)
            failures[digest] = str(error).splitlines()[0]
    memory = {d: (peak(w.train_step), peak(w.infer)) for d, w in built.items()}
    times = interleaved([f for w in built.values() for f in (w.train_step, w.infer)], rounds, settle)
    found = {
        digest: Cost(work.parameters, work.flops, times[2 * i], times[2 * i + 1], *memory[digest])
        for i, (digest, work) in enumerate(built.items())
    }
    return Costs(_machine(), rounds, found, failures)


def interleaved(functions: Sequence[Callable], rounds: int, settle: Callable[[], object]) -> list[float]:
    """Median seconds of each function, called in turns."""
    times: list[list[float]] = [[] for _ in functions]
    for number in range(rounds + WARM_UP):
        for function, of_function in zip(functions, times, strict=True):
            settle()
            began = time.perf_counter()
            function()
            settle()
            if number >= WARM_UP:
                of_function.append(time.perf_counter() - began)
    return [statistics.median(of_function) for of_function in times]


def write_costs(path: Path, costs: Costs) -> None:
    """Write what was measured, whole or not at all."""
    atomic_write(path, lambda file: file.write_text(json.dumps(asdict(costs), indent=2) + "\n"))


def read_costs(path: Path) -> Costs | None:
    """What was measured before; None where nothing was, or it cannot be read."""
    try:
        plain = json.loads(path.read_text())
        found = {digest: Cost(**cost) for digest, cost in plain["architectures"].items()}
        return Costs(plain["machine"], plain["rounds"], found, plain["failures"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def is_complete(costs: Costs | None, plan: Plan) -> bool:
    """Whether every architecture of a plan was measured; if one was not, all are to be, to stand beside each other."""
    return costs is not None and set(architectures(plan)) <= set(costs.architectures)


def _machine() -> str:
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return f"{device}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, {platform.system()}"
