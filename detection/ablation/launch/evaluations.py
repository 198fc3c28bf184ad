"""Evaluate the finished runs of an ablation again, those that are not evaluated yet."""

from detection.ablation.evaluations import with_evaluations
from detection.ablation.launch.launchers import Callbacks, Launcher, QueuedCommand, run_all
from detection.ablation.launch.run import inspect_all
from detection.ablation.launch.status import inspect_evaluation
from detection.ablation.plan import Plan
from detection.names import short_line


def run_evaluations(plan: Plan, launcher: Launcher) -> None:
    """Run every evaluation of a finished run that is missing or no longer valid, once; a line for each."""
    plan = with_evaluations(plan)
    statuses, metric = inspect_all(plan), plan.ablation.metric
    waiting = {
        run.name: run
        for run in plan.runs
        if run.trained is not None
        and statuses[run.name].state not in ("finished", "blocked")
        and statuses[run.trained.name].state == "finished"
    }

    def ended(name: str, code: int) -> None:
        run = waiting[name]
        assert run.trained is not None
        status = inspect_evaluation(run, plan.ablation.run_type, statuses[run.trained.name])
        found = f"{metric} {status.metrics[metric]:.3f}" if status.state == "finished" else f"failed: {status.reason}"
        log = f" (exit code {code}, {run.log})" if code else ""
        print(short_line(f"evaluate {name:40} {found}{log}"), flush=True)

    run_all([QueuedCommand(n, plan.command(r), r.log) for n, r in waiting.items()], launcher, Callbacks(ended=ended))
