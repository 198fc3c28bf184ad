"""Draw the ContextScenes set that a config names where it is not there yet."""

from pathlib import Path

from detection.config import DataConfig
from detection.errors import UserError
from detection.scenes.files import make, split_info
from detection.scenes.tasks import SPLITS


def ensure_scenes(data: DataConfig) -> None:
    """Draw `data.scenes` into the folder of `data.train.annotations`, unless this very set is there.

    Raises:
        UserError: settings that the task does not take, or a folder that holds something else.
    """
    scenes, annotations = data.scenes, Path(data.train.annotations)
    if scenes is None:
        return
    if not annotations.exists():
        count = f"{scenes.train} + {scenes.val}"
        print(f"drawing {count} images of ContextScenes {scenes.task!r} into {annotations.parent}", flush=True)
    settings = {name: getattr(scenes, name) for name in ("size", "seed", "cue", "difficulty", "canvas")}
    counts = {split: getattr(scenes, split) for split in SPLITS}
    infos = [split_info(scenes.task, split, count, **settings) for split, count in counts.items() if count]
    if not infos:
        raise UserError("data.scenes: nothing to draw; give data.scenes.train and data.scenes.val a number above 0.")
    make(annotations.parent, infos)
