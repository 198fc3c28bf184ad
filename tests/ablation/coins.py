"""A run type that takes no time, in place of image classifiers: a coin decides whether an image is classified rightly.

Run as a script it trains one: `coins.py CONFIG --output RUN key=value …`.
"""

import dataclasses
import json
import runpy
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detection.ablation.run_types import CorruptRun, RunType, Workload
from detection.config.serialization import set_key


@dataclass(frozen=True)
class CoinConfig:
    """A coin for each of some images, and how its run behaves: `fine`, `crash`, `refuse`, `hang` or `halt` once."""

    p: float = 0.5
    width: int = 8
    widths: tuple[int, ...] = (4, 8)
    images: int = 40
    behavior: str = "fine"
    data: str = "coins"
    seed: int = 0


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
    command = (__file__,)
    columns = metrics = ("accuracy",)
    widths = ("width",)

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
        return dataclasses.asdict(config) | {"widths": list(config.widths)}

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

    def workload(self, config):
        step = 0.001 * config.width
        return Workload(self.size(config, "parameters"), 3, lambda: time.sleep(step), lambda: time.sleep(step / 2))

    def progress(self, folder):
        return "tossing" if (folder / "config.json").exists() else ""

    def can_resume(self, folder):
        return (folder / "halted").exists()


COINS = CoinRuns()


def toss(config, folder):
    """Draw the results: coins fall alike for equal seeds, so that runs are paired."""
    correct = np.random.default_rng(config.seed).random(config.images) < config.p
    (folder / "correct.json").write_text(json.dumps(correct.astype(int).tolist()))
    (folder / "metrics.json").write_text(json.dumps({"accuracy": float(correct.mean())}))


def main(argv):
    if "--resume" in argv:
        folder = Path(argv[argv.index("--output") + 1])
        plain = json.loads((folder / "config.json").read_text())
        print("resumed")
        return toss(CoinConfig(**plain | {"widths": tuple(plain["widths"])}), folder)
    path, _, folder, *overrides = argv
    config, folder = COINS.override(COINS.load(path), overrides), Path(folder)
    if config.behavior == "refuse":
        print("error: this is refused.", file=sys.stderr)
        return 2
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(COINS.plain(config)))
    if config.behavior == "halt":
        (folder / "halted").touch()
    if config.behavior == "hang":
        print("hanging", flush=True)
        time.sleep(600)
    if config.behavior in ("crash", "halt"):
        raise RuntimeError("the coin rolled away")
    toss(config, folder)
    print("tossed")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
