"""Whenever the power is cut, the last announced checkpoint is found and loads, and the log leads up to it.

The disk of the model keeps what was synchronized: a file's content by its fsync, a folder's names by the folder's.
Names change in order, those of each folder by themselves; what was written later is there, in part, or lost.
"""

import os
from itertools import product

import torch
from torch import nn

from detection.data.coco_index import Category
from detection.runs.checkpoint import load_meta, load_training_state, load_weights, newest_complete, save_checkpoint
from detection.runs.logs import RunLog, _complete_lines

CATEGORIES = (Category(3, "cat"),)
LOST = {"empty": lambda data: b"", "half": lambda data: data[: len(data) // 2], "all": lambda data: data}


class RecordedDisk:
    """Records a folder before each operation that changes names or synchronizes, and what a power cut leaves then."""

    def __init__(self, root, monkeypatch):
        self.root, self.data, self.content, self.count = root, {}, {}, 0
        self.names = {}  # of each folder: its entries at every operation since the last fsync
        self.numbers, self.next = {}, 0  # of inodes, which are used again
        for name in ("fsync", "rename", "replace", "unlink", "mkdir", "rmdir"):
            monkeypatch.setattr(os, name, self.recorded(getattr(os, name), name))
        self.cuts = []

    def recorded(self, operation, name):
        def run(*args, **kwargs):
            self.record()
            result = operation(*args, **kwargs)
            if name == "fsync":
                self.synchronize(os.fstat(args[0]).st_ino)
            self.record()
            return result

        return run

    def record(self):
        """Keep the present names, and every state that a cut now would leave."""
        found = {os.stat(os.path.join(f, n)).st_ino for f, d, n_ in os.walk(self.root) for n in (*d, *n_)}
        self.numbers = {i: n for i, n in self.numbers.items() if i in found or i == os.stat(self.root).st_ino}
        for folder, folders, files in os.walk(self.root):
            folders[:] = [name for name in folders if name != "tensorboard"]
            entries = {n: self.number(os.path.join(folder, n)) for n in (*folders, *files)}
            versions = self.names.setdefault(self.number(folder), [{}])
            if versions[-1] != entries:
                versions.append(entries)
            for name in files:
                with open(os.path.join(folder, name), "rb") as file:
                    self.content[entries[name]] = file.read()
        self.cuts.append((self.count, list(self.states())))

    def number(self, path):
        if (inode := os.stat(path).st_ino) not in self.numbers:
            self.numbers[inode] = self.next = self.next + 1
        return self.numbers[inode]

    def synchronize(self, inode):
        self.record()
        inode = self.numbers.get(inode)
        if inode in self.names:
            self.names[inode] = self.names[inode][-1:]
        elif inode in self.content:
            self.data[inode] = self.content[inode]

    def states(self):
        top = self.number(self.root)
        checkpoints = next((n["checkpoints"] for n in self.names[top] if "checkpoints" in n), None)
        for own, at, others, lost in product(
            range(len(self.names[top])), range(len(self.names.get(checkpoints, [0]))), (0, -1), LOST
        ):
            chosen = {top: own, checkpoints: at}
            yield dict(self.files(top, lambda inode, c=chosen, o=others: c.get(inode, o), LOST[lost]))

    def files(self, folder, version, lost, prefix=""):
        for name, inode in self.names[folder][version(folder)].items():
            if inode in self.names:
                yield prefix + name + "/", b""
                yield from self.files(inode, version, lost, f"{prefix}{name}/")
            elif inode in self.data:
                yield prefix + name, self.data[inode] if lost is LOST["empty"] else self.content[inode]
            else:
                yield prefix + name, lost(self.content[inode])


def restore(state, folder):
    for name, data in state.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(exist_ok=True) if name.endswith("/") else path.write_bytes(data)
    return folder


def train(run, modules, disk):
    log = RunLog(run)
    for epoch, module in enumerate(modules, start=1):
        log.update(epoch - 1, {"loss": 1.0, "lr": 0.1})
        log.synchronize()
        save_checkpoint(
            run / "checkpoints" / "last", module, CATEGORIES, {"epoch": epoch}, trained=module, state={"epoch": epoch}
        )
        disk.count = epoch
    log.close()


def test_a_power_cut_leaves_the_last_announced_checkpoint(tmp_path, monkeypatch):
    run, modules = tmp_path / "run", [nn.Linear(2, 1) for _ in range(3)]
    run.mkdir()
    with monkeypatch.context() as patched:
        disk = RecordedDisk(run, patched)
        train(run, modules, disk)
    tried = {}
    for announced, states in disk.cuts:
        for state in states:
            key = frozenset(state.items())
            tried[key] = max(announced, tried.get(key, 0))
    assert len(tried) > 60
    for number, (key, announced) in enumerate(tried.items()):
        folder = restore(dict(key), tmp_path / str(number))
        found = newest_complete(folder / "checkpoints" / "last")
        if announced:
            epoch, loaded = load_meta(found)["epoch"], nn.Linear(2, 1)
            assert epoch >= announced
            for name in ("model", "training"):
                load_weights(found, loaded, name)
                assert torch.equal(loaded.weight, modules[epoch - 1].weight)
            assert load_training_state(found) == {"epoch": epoch}
            assert [line["epoch"] for line in _complete_lines(folder / "log.jsonl")][:epoch] == list(range(epoch))
