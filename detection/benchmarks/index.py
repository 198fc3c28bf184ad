"""Indexing of annotation files of COCO's size and of a tenth of Objects365: the first time, again, and the memory."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from detection.analysis.timing import Measurements

SIZES = {"COCO": (118_000, 860_000, 80), "a tenth of Objects365": (174_000, 2_500_000, 365)}
"""Images, boxes and categories."""

# A process of its own, as a rank of a training is, and a child of it as a DataLoader worker is on Linux.
_RANK = """
import os, re, resource, time
from pathlib import Path
from detection.data.coco_index import load_index

def private():
    text = Path("/proc/self/smaps_rollup").read_text()
    return sum(int(n) for n in re.findall(r"Private_(?:Clean|Dirty): +([0-9]+) kB", text)) / 1024

before, began = private(), time.perf_counter()
index = load_index({path!r}, cache_dir=Path({cache!r}))
seconds, rank = time.perf_counter() - began, private() - before
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
reader, writer = os.pipe()
if os.fork() == 0:
    for i in range(len(index)):
        index.file_name(i), index.boxes[index.box_offsets[i] : index.box_offsets[i + 1]]
    os.write(writer, str(private()).encode())
    os._exit(0)
os.wait()
print(seconds, peak, rank, os.read(reader, 100).decode())
"""


def benchmark_index(device: str) -> Measurements:
    """Measure files of 115 MB and 520 MB of JSON."""
    results: dict[str, float | str] = {}
    for name, sizes in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            path, cache = Path(folder) / "synthetic.json", Path(folder) / "cache"
            synthetic_coco(path, *sizes)
            code = _RANK.format(path=str(path), cache=str(cache))
            first, again = (_run(code) for _ in range(2))
        results |= {
            f"{name}: first indexing (s)": first[0],
            f"{name}: memory of the first process (MB, peak)": first[1],
            f"{name}: opening again, with hashing (s)": again[0],
            f"{name}: private memory that a further process takes (MB)": again[2],
            f"{name}: private memory of a loading process (MB)": again[3],
        }
    return results


# A process starts with the peak of the one that makes it, so a small one is between.
_BETWEEN = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.stdin.read()], check=True)"


def _run(code: str) -> list[float]:
    done = subprocess.run([sys.executable, "-c", _BETWEEN], input=code, capture_output=True, text=True, check=True)
    return [float(number) for number in done.stdout.split()]


def synthetic_coco(path: Path, images: int = 118_000, boxes: int = 860_000, categories: int = 80) -> None:
    """Write an annotation file without masks, as large as wanted."""
    rng = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        file.write('{"images": [')
        for i in range(1, images + 1):
            entry = {"id": i, "file_name": f"{i:012d}.jpg", "width": 640, "height": 480}
            file.write((", " if i > 1 else "") + json.dumps(entry))
        file.write('], "annotations": [')
        for start in range(1, boxes + 1, 100_000):
            n = min(100_000, boxes + 1 - start)
            owners, labels = (rng.integers(1, top + 1, n).tolist() for top in (images, categories))
            corners, sides = (rng.uniform(*span, (n, 2)).round(2).tolist() for span in ((0, 400), (2, 80)))
            rows = enumerate(zip(owners, labels, corners, sides, strict=True), start=start)
            entries = [
                {
                    "id": i,
                    "image_id": o,
                    "category_id": c,
                    "bbox": p + s,
                    "area": s[0] * s[1],
                    "iscrowd": 0,
                    "isfake": 0,
                }
                for i, (o, c, p, s) in rows
            ]
            file.write((", " if start > 1 else "") + json.dumps(entries)[1:-1])
        names = [{"id": k, "name": f"class {k}"} for k in range(1, categories + 1)]
        file.write('], "categories": ' + json.dumps(names) + "}")
