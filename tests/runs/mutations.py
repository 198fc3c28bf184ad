"""Mutations of a run folder, as damage or a stranger's malice would leave it."""

import hashlib
import json
import os
import random
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

JSONS = ("config.json", "environment.json", "metrics.json", "checkpoints/best/meta.json", "checkpoints/last/meta.json")
WEIGHTS = ("checkpoints/best/model.safetensors", "checkpoints/last/model.safetensors")
FILES = (*JSONS, *WEIGHTS, "log.jsonl", "checkpoints/last/training.safetensors", "checkpoints/last/state.pt")
FOLDERS = ("checkpoints", "checkpoints/best", "checkpoints/last", "tensorboard")
CLASSES = ("os.system", "builtins.eval", "detection.context.Missing", "detection", "", "detection.errors.UserError")
ODD = (None, True, -1, 0, 3, 10**12, 10**400, 1e308, float("nan"), float("inf"), "", "a", "../..", [], {}, [[]], [None])


class Payload:
    """What makes a file when it is unpickled."""

    def __init__(self, made: Path) -> None:
        self.made = str(made)

    def __reduce__(self):
        return os.mkdir, (self.made,)


def truncate(run: Path, draw: random.Random, made: Path) -> None:
    """Cut off a file."""
    path = run / draw.choice(FILES)
    path.write_bytes(path.read_bytes()[: draw.choice((0, 1, 7, path.stat().st_size // 2, path.stat().st_size - 1))])


def flip(run: Path, draw: random.Random, made: Path) -> None:
    """Change bytes of a file."""
    path = run / draw.choice(FILES)
    data = bytearray(path.read_bytes())
    for _ in range(draw.choice((1, 10))):
        data[draw.randrange(len(data))] = draw.randrange(256)
    path.write_bytes(data)


def swap(run: Path, draw: random.Random, made: Path) -> None:
    """Put another value, of any type, at a place of a JSON file."""
    edit(run / draw.choice(JSONS), draw, lambda parent, key: parent.__setitem__(key, draw.choice(ODD)))


def leave_out(run: Path, draw: random.Random, made: Path) -> None:
    """Leave out an entry of a JSON file."""
    edit(run / draw.choice(JSONS), draw, lambda parent, key: parent.__delitem__(key))


def magnify(run: Path, draw: random.Random, made: Path) -> None:
    """Make a number of the config or the checkpoint very large, or negative."""
    factor = draw.choice((10**3, 10**6, 10**9, 10**30, -1))
    edit(
        run / draw.choice(JSONS[:1] * 3 + JSONS[3:]),
        draw,
        lambda parent, key: parent.__setitem__(key, (parent[key] or 1) * factor),
        wanted=(int, float),
    )


def rename_class(run: Path, draw: random.Random, made: Path) -> None:
    """Name another class in the config."""
    edit(run / "config.json", draw, lambda parent, key: parent.__setitem__(key, draw.choice(CLASSES)), keys=("class",))


def nest(run: Path, draw: random.Random, made: Path) -> None:
    """Nest a JSON file, or a part of it, deeply."""
    path, depth = run / draw.choice((*JSONS, "log.jsonl")), draw.choice((70, 900, 100_000))
    opening, closing = draw.choice((("[", "]"), ('{"a":', "}")))
    text = opening * depth + "1" + closing * depth
    if path.name == "log.jsonl" or draw.random() < 0.5:
        path.write_text(text)
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"extra": "@"}).replace('"@"', text))


def encode(run: Path, draw: random.Random, made: Path) -> None:
    """Write bytes that are no UTF-8, or another encoding."""
    path = run / draw.choice((*JSONS, "log.jsonl"))
    text = path.read_text()
    path.write_bytes(
        draw.choice((b"\xff" + text.encode(), text.encode("utf-16"), b"\0" * 100, text.encode() + b"\xfe"))
    )


def link(run: Path, draw: random.Random, made: Path) -> None:
    """Put a link out of the run folder in place of a file or folder."""
    path = run / draw.choice((*FILES, *FOLDERS))
    target = run.parent / "outside" / path.name
    target.parent.mkdir(exist_ok=True)
    shutil.move(path, target)
    path.symlink_to(draw.choice((target, Path("/dev/zero"), path, run / "nothing")))


def replace(run: Path, draw: random.Random, made: Path) -> None:
    """Put something that is no file in place of one, or remove it."""
    path = run / draw.choice((*FILES, *FOLDERS))
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    draw.choice((lambda: None, path.mkdir, lambda: os.mkfifo(path), path.touch))()


def plant(run: Path, draw: random.Random, made: Path) -> None:
    """Put a pickle that runs code in place of the state, and perhaps of all weights, with its digest."""
    for name in ("checkpoints/last/state.pt", *WEIGHTS * (draw.random() < 0.5)):
        torch.save({"optimizer": Payload(made)}, run / name, _use_new_zipfile_serialization=draw.random() < 0.5)
        sign(run / name)


def forge_state(run: Path, draw: random.Random, made: Path) -> None:
    """Put another value, of any type, into the training state, with its digest."""
    path = run / "checkpoints/last/state.pt"
    state = torch.load(path, weights_only=True)
    parent, key = place(state, draw)
    parent[key] = draw.choice((*ODD, torch.ones(3), torch.ones(1) * float("nan")))
    torch.save(state, path)
    sign(path)


def forge_weights(run: Path, draw: random.Random, made: Path) -> None:
    """Change the weights' values, shapes or names, with their digest."""
    path = run / draw.choice(WEIGHTS)
    tensors = load_file(path)
    name = draw.choice(sorted(tensors))
    tensor = tensors.pop(name)
    changes = (
        tensor * float("nan"),
        tensor.double() * 1e300,
        tensor[..., :1] if tensor.ndim else tensor[None],
        tensor.to(torch.bool),
        torch.zeros(0),
    )
    if draw.random() < 0.8:
        tensors[name] = draw.choice(changes).contiguous()
    save_file(tensors, path)
    sign(path)


MUTATIONS = (
    truncate, flip, swap, leave_out, magnify, rename_class, nest, encode, link, replace, plant, forge_state,
    forge_weights,
)  # fmt: skip


def edit(path: Path, draw: random.Random, change, wanted=object, keys=None) -> None:
    """Change a place of a JSON file."""
    data = json.loads(path.read_text())
    found = [(p, k) for p, k in places(data) if isinstance(p[k], wanted) and (keys is None or k in keys)]
    parent, key = draw.choice(found or places(data))
    change(parent, key)
    path.write_text(json.dumps(data))


def places(data) -> list:
    """All pairs of a list or dictionary and a key in it."""
    found, rest = [], [data]
    while rest:
        parent = rest.pop()
        keys = list(parent) if isinstance(parent, dict) else range(len(parent)) if isinstance(parent, list) else ()
        found += [(parent, key) for key in keys]
        rest += [parent[key] for key in keys]
    return found


def place(data, draw: random.Random):
    """A place, each depth alike."""
    parent, key = data, draw.choice(list(data))
    while isinstance(parent[key], dict | list) and parent[key] and draw.random() < 0.7:
        parent = parent[key]
        key = draw.choice(list(parent)) if isinstance(parent, dict) else draw.randrange(len(parent))
    return parent, key


def sign(path: Path) -> None:
    """Write a file's digest into the checkpoint's meta.json."""
    meta = json.loads((path.parent / "meta.json").read_text())
    meta["sha256"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    (path.parent / "meta.json").write_text(json.dumps(meta))
