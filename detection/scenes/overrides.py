"""Data of an ablation: a task of ContextScenes, drawn where it is not there yet."""

import dataclasses

from detection.config import ScenesConfig
from detection.errors import UserError


def scenes(task: str, **settings: object) -> list[str]:
    """Changes of a config that ask this question: `scenes("distance", difficulty=6, train=1000)`.

    Args:
        task: of ContextScenes.
        settings: fields of `detection.config.ScenesConfig`; what is left out is as in the base. A number of `test`
            images makes them the test split.

    Returns:
        Overrides: the settings, and a folder below `datasets/` that is named after them.

    Raises:
        UserError: a setting that there is not.
    """
    known = [field.name for field in dataclasses.fields(ScenesConfig) if field.name != "task"]
    for key in settings:
        if key not in known:
            raise UserError(f"scenes({task!r}): no setting {key!r}; they are {', '.join(known)}.")
    folder = "-".join([f"datasets/{task}", *(f"{key}{value}" for key, value in settings.items())])
    splits = [
        f"data.{split}.{key}={folder}/{split}{ending}"
        for split in ("train", "val", *(("test",) if settings.get("test") else ()))
        for key, ending in (("annotations", ".json"), ("images", ""))
    ]
    asked = {"task": task, **settings}
    return [*splits, *(f"data.scenes.{key}={value}" for key, value in asked.items())]
