"""A run type that takes no time (`coin_run.py`), in place of image classifiers."""

import json
import runpy
import time
from dataclasses import dataclass

import numpy as np

from detection.ablation.run_types import ChangedImages, CorruptRun, RunType, Workload
from detection.ablation.workload import Effort
from detection.config.serialization import set_key
from detection.errors import UserError
from detection.reports.document import Figure
from tests.ablation import coin_run
from tests.ablation.coin_run import CoinConfig

__all__ = ["COINS", "CoinConfig"]


@dataclass(frozen=True)
class CoinResults:
    """Whether each image was classified rightly, (N,)."""

    correct: np.ndarray
    images_key: str

    @property
    def num_images(self):
        return len(self.correct)

    def resampled(self, counts):
        return {"accuracy": counts @ self.correct / counts.sum(axis=1)}


class CoinRuns(RunType):
    command = (coin_run.__file__,)
    evaluate_command = (coin_run.__file__, "--evaluate")
    columns = metrics = ("accuracy",)
    widths = ("width",)
    epochs_key = "epochs"

    def __init__(self):
        self.prepared = []

    def load(self, path):
        return runpy.run_path(str(path))["config"]

    def override(self, config, overrides):
        for item in overrides:
            key, _, text = item.partition("=")
            config = set_key(config, key, text)
        return config

    def plain(self, config):
        return config.plain()

    def architecture(self, config):
        return {"width": config.width, "widths": list(config.widths)}

    def size(self, config, what):
        return config.width * sum(config.widths) * (1 if what == "parameters" else 3)

    def prepare(self, config):
        self.prepared.append(config.data)

    def read(self, folder):
        try:
            return {"accuracy": float(json.loads((folder / "metrics.json").read_text())["accuracy"])}
        except (OSError, ValueError, KeyError) as error:
            raise CorruptRun(f"metrics.json cannot be read ({error!r})") from None

    def per_image_results(self, folder):
        try:
            correct = np.array(json.loads((folder / "correct.json").read_text()))
        except (OSError, ValueError) as error:
            raise CorruptRun(f"correct.json cannot be read ({error!r})") from None
        return CoinResults(correct, json.loads((folder / "config.json").read_text())["data"])

    def evaluate_arguments(self, run, output, config):
        return [str(run), "--output", str(output)]

    def read_evaluation(self, output):
        return self.read(output)

    def per_image_evaluation(self, output):
        correct = np.array(json.loads((output / "correct.json").read_text()))
        return CoinResults(correct, json.loads((output / "evaluation.json").read_text())["config"]["data"])

    def workload(self, config):
        step = 0.001 * config.width
        return Workload(self.size(config, "parameters"), 3, lambda: time.sleep(step), lambda: time.sleep(step / 2))

    def effort(self, config):
        if config.images == 13:
            raise UserError("13 coins: bring another one.")
        return Effort(config.epochs, 4000 * config.epochs, config.images, 10, 0.0)

    def data_remarks(self, config):
        return [f"{config.images} coins"]

    def overlap(self, config):
        return (30, 1000) if config.data == "crowded" else (1, 1000)

    def changed_images(self, pairs, names, most):
        return ChangedImages([Figure("saved-1.png", "saved, 1", b"\x89PNG")], [], f"{len(pairs)} pairs of {names}")

    def progress(self, folder):
        return "tossing" if (folder / "config.json").exists() else ""

    def can_resume(self, folder):
        return (folder / "halted").exists()


COINS = CoinRuns()
