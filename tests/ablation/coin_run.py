"""A run that takes no time: a coin decides whether an image is classified rightly. Nothing here needs torch.

`coin_run.py CONFIG --output RUN key=value …` makes a run; every ablation of coins has the default settings as its base.
"""

import ast
import dataclasses
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class CoinConfig:
    """A coin for each of some images, and how its run behaves: `fine`, `crash`, `refuse`, `hang` or `halt` once.

    With `kill` it is killed while it opens its data, and with `litter` it leaves something that no run leaves.
    With the seeds in `stuck` the coin stays at 1/3, whatever `p` is.
    """

    p: float = 0.5
    width: int = 8
    widths: tuple[int, ...] = (4, 8)
    images: int = 40
    behavior: str = "fine"
    data: str = "coins"
    seed: int = 0
    stuck: tuple[int, ...] = ()
    epochs: int = 4

    def plain(self):
        return dataclasses.asdict(self) | {"widths": list(self.widths), "stuck": list(self.stuck)}


def parse(overrides):
    """The config of overrides that have been checked before."""
    values = dict(item.split("=", 1) for item in overrides)
    words = ("behavior", "data")
    return CoinConfig(**{key: text if key in words else ast.literal_eval(text) for key, text in values.items()})


def toss(config, folder):
    """Write results: coins fall alike for equal seeds, so that runs are paired."""
    p = 1 / 3 if config.seed in config.stuck else config.p
    correct = np.random.default_rng(config.seed).random(config.images) < p
    (folder / "correct.json").write_text(json.dumps(correct.astype(int).tolist()))
    (folder / "log.jsonl").write_text('{"step": 376, "epoch": 3}\n')
    (folder / "metrics.json").write_text(json.dumps({"accuracy": float(correct.mean())}))


def evaluate(folder, output, overrides):
    """Toss the coins of a run again with changes."""
    plain = json.loads((folder / "config.json").read_text())
    words = dict(item.split("=", 1) for item in overrides)
    changed = plain | {key: text if key == "data" else ast.literal_eval(text) for key, text in words.items()}
    config = CoinConfig(**changed | {key: tuple(changed[key]) for key in ("widths", "stuck")})
    if config.images == 13:
        raise RuntimeError("thirteen \x1b[1mcoins")
    output.mkdir(exist_ok=True)
    toss(config, output)
    (output / "evaluation.json").write_text(json.dumps({"config": config.plain()}))


def main(argv):
    if argv[0] == "--evaluate":
        return evaluate(Path(argv[1]), Path(argv[3]), argv[4:])
    if "--resume" in argv:
        folder = Path(argv[argv.index("--output") + 1])
        plain = json.loads((folder / "config.json").read_text())
        print("resumed")
        return toss(CoinConfig(**plain | {key: tuple(plain[key]) for key in ("widths", "stuck")}), folder)
    _, _, folder, *overrides = argv
    config, folder = parse(overrides), Path(folder)
    if config.behavior == "refuse":
        print("error: this is refused.", file=sys.stderr)
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    if config.behavior == "kill":
        (folder / ".lock").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if config.behavior == "litter":
        (folder / "thesis.txt").touch()
        return 1
    (folder / "config.json").write_text(json.dumps(config.plain()))
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
