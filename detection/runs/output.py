"""Folders that evaluations write to: never where a run keeps what it measured itself."""

from pathlib import Path

from detection.errors import UserError

_OWN = ("last", "test")
_RUN_FILES = ("config.json", "environment.json")


def require_no_run(output: Path, run: Path | None = None) -> None:
    """Check that an evaluation would not replace the metrics and results of a run, which others read as its own.

    Args:
        output: where the evaluation is to be written.
        run: the run that is evaluated; any other folder with a run's files counts as a run, too.

    Raises:
        UserError: it is a run's folder, or its `last` or `test`, also behind a link.
    """
    place = output.resolve()
    for folder in (place, place.parent) if place.name in _OWN else (place,):
        is_evaluated = run is not None and folder == run.resolve()
        if is_evaluated or all((folder / name).is_file() for name in _RUN_FILES):
            raise UserError(
                f"{output}: is where {run if is_evaluated else folder} keeps its own metrics and results, which an "
                "evaluation does not replace; choose another --output."
            )
