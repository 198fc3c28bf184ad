"""Indexing of an annotation file of COCO's size: the first time, again, and the memory of a loading process."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from detection.analysis.timing import Measurements
from detection.data.coco_index import load_index

_WORKER_MEMORY = """
import os, re
from pathlib import Path
from detection.data.coco_index import load_index

def private():
    text = Path("/proc/self/smaps_rollup").read_text()
    return sum(int(n) for n in re.findall(r"Private_(?:Clean|Dirty): +([0-9]+) kB", text)) / 1024

index = load_index({path!r}, cache_dir=Path({cache!r}))
reader, writer = os.pipe()
if os.fork() == 0:  # as a DataLoader worker is made on Linux
    for i in range(len(index)):
        index.file_name(i), index.boxes[index.box_offsets[i] : index.box_offsets[i + 1]]
    os.write(writer, str(private()).encode())
    os._exit(0)
os.wait()
print(os.read(reader, 100).decode())
"""


def benchmark_index(device: str) -> Measurements:
    """Measure 118 000 images and 860 000 boxes of 80 categories, 115 MB of JSON."""
    with tempfile.TemporaryDirectory() as folder:
        path, cache = Path(folder) / "synthetic.json", Path(folder) / "cache"
        synthetic_coco(path)
        seconds = []
        for _ in range(2):
            began = time.perf_counter()
            load_index(path, cache_dir=cache)
            seconds.append(time.perf_counter() - began)
        code = _WORKER_MEMORY.format(path=str(path), cache=str(cache))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {
        "first indexing (s)": seconds[0],
        "opening again, with hashing (s)": seconds[1],
        "private memory of a loading process (MB)": float(done.stdout),
    }


def synthetic_coco(path: Path, images: int = 118_000, boxes: int = 860_000, categories: int = 80) -> None:
    """Write an annotation file of COCO's size, without masks."""
    rng = np.random.default_rng(0)
    owners = rng.integers(1, images + 1, boxes).tolist()
    labels = rng.integers(1, categories + 1, boxes).tolist()
    corners = rng.uniform(0, 400, (boxes, 2)).round(2).tolist()
    sides = rng.uniform(2, 80, (boxes, 2)).round(2).tolist()
    rows = enumerate(zip(owners, labels, corners, sides, strict=True), start=1)
    data = {
        "images": [{"id": i, "file_name": f"{i:012d}.jpg", "width": 640, "height": 480} for i in range(1, images + 1)],
        "annotations": [
            {"id": i, "image_id": o, "category_id": c, "bbox": p + s, "area": s[0] * s[1], "iscrowd": 0}
            for i, (o, c, p, s) in rows
        ],
        "categories": [{"id": k, "name": f"class {k}"} for k in range(1, categories + 1)],
    }
    path.write_text(json.dumps(data))
