"""Draw the ContextScenes set that a config names where it is not there yet."""

from collections.abc import Collection
from pathlib import Path

from detection.config import DataConfig
from detection.errors import UserError
from detection.scenes.files import make, missing_splits, split_info
from detection.scenes.tasks import SPLITS


def ensure_scenes(data: DataConfig, splits: Collection[str] = SPLITS) -> None:
    """Draw what is missing of `data.scenes` in the folder of its annotations.

    Args:
        data: the data of a config.
        splits: those that are needed; the others are not drawn. All are in the folder of the first.

    Raises:
        UserError: settings that the task does not take, or a folder that holds something else.
    """
    scenes, folder = data.scenes, Path(getattr(data, next(iter(splits))).annotations).parent
    if scenes is None:
        return
    settings = {name: getattr(scenes, name) for name in ("size", "seed", "cue", "difficulty", "canvas")}
    counts = {split: getattr(scenes, split) for split in splits}
    infos = [split_info(scenes.task, split, count, **settings) for split, count in counts.items() if count]
    if not infos:
        keys = " and ".join(f"data.scenes.{split}" for split in splits if split != "test" or len(splits) == 1)
        raise UserError(f"data.scenes: nothing to draw; give {keys} a number above 0.")
    if missing := missing_splits(folder, infos):
        count = " + ".join(str(info["images"]) for info in missing)
        print(f"drawing {count} images of ContextScenes {scenes.task!r} into {folder}", flush=True)
    keys = " and ".join(f"data.{info['split']}.annotations" for info in infos)
    make(
        folder,
        infos,
        elsewhere=f"name another folder in {keys}",
        replacing=f"replace it by `detection scenes {folder} --task {scenes.task} … --overwrite`",
    )
