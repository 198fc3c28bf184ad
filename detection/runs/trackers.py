"""Experiment trackers through accelerate: Weights & Biases and MLflow, as `trackers=("wandb",)` names them.

Where they send what they are given is their own setting, by environment variables: `WANDB_MODE=offline`,
`WANDB_PROJECT`, `MLFLOW_TRACKING_URI`, `MLFLOW_EXPERIMENT_NAME`.
"""

import importlib.util
import json
import os
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from detection.atomic_write import write_json
from detection.errors import UserError
from detection.names import short_name

TrackerName = Literal["wandb", "mlflow"]
PROJECT = "context-detection"
_FOLDER = "folder"


def require_trackers(names: Sequence[TrackerName]) -> None:
    """Check that each tracker's package is installed.

    Raises:
        UserError: naming the one that is not.
    """
    for name in names:
        if not importlib.util.find_spec(name):
            raise UserError(f"trackers={name}: its package is not installed: pip install {name}, or leave it out.")


class Trackers:
    """Hands a run's config, losses, metrics and sample images to trackers; a resumed run goes on in the same entry.

    The entry of each is in `RUN/trackers.json`, with the folder that it is of: a copy gets another entry, as long as
    the original is where it was. A tracker that fails is left out from then on with a warning: no training ends because
    a server does not answer.

    Args:
        names: the trackers.
        folder: the run folder, whose name the entry gets.
        config: all settings as plain data.
    """

    def __init__(self, names: Sequence[TrackerName], folder: Path, config: Mapping[str, Any]) -> None:
        self._trackers: dict[str, Any] = {}
        path = folder / "trackers.json"
        entries = _entries(folder) if names else {}
        for name in names:
            self._try(name, lambda name=name: self._start(name, folder, entries, config))
        if names:
            write_json(path, {**entries, _FOLDER: str(folder.resolve())})

    def _start(self, name: str, folder: Path, entries: dict[str, str], config: Mapping[str, Any]) -> None:
        from accelerate.tracking import MLflowTracker, WandBTracker

        title, known = folder.resolve().name, entries.get(name)
        settings = _flat(config)
        if name == "wandb":
            entry = known or uuid.uuid4().hex[:12]
            project = os.environ.get("WANDB_PROJECT", PROJECT)
            tracker: Any = WandBTracker(project, id=entry, name=title, resume="allow", dir=str(folder))
            tracker.start()
            tracker.store_init_configuration(settings)
        else:
            tracker = MLflowTracker(PROJECT, run_id=known, run_name=title)
            tracker.start()
            entry = tracker.active_run.info.run_id
            if known is None:  # its settings cannot be changed afterwards
                tracker.store_init_configuration(settings)
        entries[name] = entry
        self._trackers[name] = tracker

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers by name, at a number of updates."""
        for name, tracker in list(self._trackers.items()):
            self._try(name, lambda tracker=tracker: tracker.log(dict(values), step=step))

    def image(self, title: str, image: np.ndarray, step: int) -> None:
        """Log an image (H, W, 3) uint8."""
        for name, tracker in list(self._trackers.items()):
            self._try(name, lambda name=name, tracker=tracker: _log_image(name, tracker, title, image, step))

    def close(self) -> None:
        """End all entries."""
        for name, tracker in list(self._trackers.items()):
            self._try(name, tracker.finish)
        self._trackers.clear()

    def _try(self, name: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # whatever a client of a server raises
            self._trackers.pop(name, None)
            reason = short_name(f"{type(error).__name__}: {error}", 200)
            print(f"warning: the tracker {name} is left out from here on ({reason})", file=sys.stderr)


def _entries(folder: Path) -> dict[str, str]:
    """The entries of a run's trackers, by name; none where it is a copy of a run that goes on in them."""
    path = folder / "trackers.json"
    try:
        entries: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        original = Path(entries.pop(_FOLDER, folder), path.name)
    except (ValueError, TypeError, AttributeError):
        print(f"warning: {path} cannot be read: the run gets new entries in its trackers", file=sys.stderr)
        return {}
    is_copy = original.exists() and not original.samefile(path)
    return {} if is_copy else entries


def _log_image(name: str, tracker: Any, title: str, image: np.ndarray, step: int) -> None:
    if name == "wandb":
        tracker.log_images({title: [image]}, step=step)
        return
    import mlflow

    mlflow.log_image(image, artifact_file=f"{title}-{step}.png")


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted keys; lists and None as text."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, bool | int | float | str) else json.dumps(value)
    return flat
