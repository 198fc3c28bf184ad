"""The tables of contexts in docs/context.md and the README say what docs/results/recurrences.csv holds, by seed."""

import csv
import re
from pathlib import Path
from statistics import mean, stdev

import pytest

ROOT = Path(__file__).parents[1]
T_975_OF_5_SEEDS = 2.776445  # Student's t with 4 degrees of freedom
NAMES = {
    "no context": "none",
    "no context, wider": "wider",
    "global average": "average",
    "self-attention": "selfattention",
    "large kernel, 31×31": "largekernel",
    "sweeps: accumulator": "accumulator",
    "sweeps: IRNN": "irnn",
    "sweeps: LSTM": "lstm",
    "sweeps: GRU": "gru",
    "sweeps: minLSTM": "minlstm",
    "sweeps: RG-LRU": "rglru",
    "sweeps: gated linear": "gatedlinear",
    "attention LSTM": "attention",
    "RCL, 3 steps": "rcl",
    "gated RCL, 3 steps": "gatedrcl",
    "sweeps: SSD": "ssd",
    "sweeps: mLSTM": "mlstm",
    "sweeps and diagonals: RG-LRU": "diagonals",
    "cross-scan: RG-LRU": "crossscan",
    "grid: pLSTM": "plstm",
    "sweeps: tanh RNN": "tanh",
    "grid: MDLSTM": "gridlstm",
    "line propagation": "linepropagation",
    "sweeps: S6": "s6",
    "scan block: RG-LRU": "scanblock",
    "sweeps: sLSTM": "slstm",
}
STARTS = {
    "as is": "as-is",
    "half the rate": "half-rate",
    "twice the rate": "twice-rate",
    "chrono": "other-start",
    "another start": "other-start",
}


@pytest.fixture(scope="module")
def measured():
    """AP50 of the five seeds by (task, variant), and the option that was chosen by variant."""
    with (ROOT / "docs/results/recurrences.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "AP50"]
    values = {(row["data"], row["variant"]): [float(row[f"seed {seed}"]) for seed in range(5)] for row in rows}
    return values, {row["variant"]: row["chosen"] for row in rows}


def tables(path):
    """The tables of a page, each with the cells of its header and those of its rows by their first cell."""
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", path.read_text(), re.MULTILINE):
        header, _, *rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()]
        found.append((header[1:], {name: cells for name, *cells in rows}))
    return found


def is_missing(cell, measured):
    """Whether a dash stands where nothing was measured, and nothing else does."""
    assert (cell == "–") == (measured is None), cell
    return measured is None


def plain(cell):
    return re.sub(r"\*\*|[†‡]", "", cell).strip()


def spread(seeds):
    return f"{mean(seeds):.2f} ± {stdev(seeds):.2f} ({sum(seed >= 0.9 for seed in seeds)})"


def signed(value):
    return f"{value:+.2f}".replace("-", "−")


@pytest.mark.parametrize(("table", "suffix"), [(0, ""), (2, "-2x")])
def test_spread_of_each_task(measured, table, suffix):
    values, chosen = measured
    header, rows = tables(ROOT / "docs/context.md")[table]
    assert {NAMES[name] for name in rows} == set(chosen)
    for name, cells in rows.items():
        for task, cell in zip(header, cells, strict=True):
            if task == "chosen":
                assert STARTS[cell] == chosen[NAMES[name]], name
            elif task != "published" and not is_missing(cell, values.get((task.strip("`") + suffix, NAMES[name]))):
                assert plain(cell) == spread(values[task.strip("`") + suffix, NAMES[name]]), (name, task)


def test_differences_to_the_accumulator(measured):
    values, chosen = measured
    header, rows = tables(ROOT / "docs/context.md")[1]
    assert {NAMES[name] for name in rows} == set(chosen) - {"accumulator"}
    for name, cells in rows.items():
        for task, cell in zip((task.strip("`") for task in header), cells, strict=True):
            if is_missing(cell, values.get((task, NAMES[name]))):
                continue
            others = values[task, "accumulator"]
            differences = [own - other for own, other in zip(values[task, NAMES[name]], others, strict=True)]
            half = T_975_OF_5_SEEDS * stdev(differences) / 5**0.5
            low, high = mean(differences) - half, mean(differences) + half
            assert plain(cell) == f"{signed(mean(differences))} [{signed(low)}, {signed(high)}]", (name, task)
            assert cell.startswith("**") == (low > 0), (name, task)


def test_means_in_the_readme(measured):
    values, chosen = measured
    header, rows = next(table for table in tables(ROOT / "README.md") if table[0][0] == "`row`")
    assert {NAMES[name] for name in rows} == set(chosen)
    for name, cells in rows.items():
        for task, cell in zip((task.replace("` 2×", "-2x").strip("`") for task in header), cells, strict=True):
            if is_missing(cell, values.get((task, NAMES[name]))):
                continue
            expected = f"{mean(values[task, NAMES[name]]):.2f}"
            assert cell == (f"**{expected}**" if float(expected) >= 0.9 else expected), (name, task)
