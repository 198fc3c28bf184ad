"""The cores that a process may use: a container's may be fewer than the machine's."""

import os
from contextlib import suppress
from pathlib import Path


def usable_cores(root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> int:
    """Return the cores that this process may use by its affinity and the quotas of its control groups.

    Args:
        root: where control groups are mounted.
        groups: the system's list of those that this process is in; a quota of any group around them counts.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in [root, root / "cpu", *_own_groups(root, groups)]:
        for quota, period in (
            ("cpu.max", "cpu.max"),  # version 2, both in one file: "150000 100000", or "max 100000"
            ("cpu.cfs_quota_us", "cpu.cfs_period_us"),
        ):
            with suppress(OSError, ValueError, ZeroDivisionError, IndexError):
                limit = (folder / quota).read_text(encoding="utf-8").split()[0]
                length = (folder / period).read_text(encoding="utf-8").split()[-1]
                if limit != "max" and int(limit) > 0:
                    cores = min(cores, max(1, int(limit) // int(length)))
    return cores


def _own_groups(root: Path, groups: Path) -> list[Path]:
    """Folders of the groups that this process is in, and those around them; lines are `0::/a/b` or `4:cpu:/a`."""
    folders = []
    with suppress(OSError, ValueError):
        for line in groups.read_text(encoding="utf-8").splitlines():
            _, kinds, path = line.split(":", 2)
            if ".." not in path and (not kinds or "cpu" in kinds.split(",")):
                inner = Path(path.lstrip("/"))
                folders += [root / ("cpu" if kinds else "") / place for place in (inner, *inner.parents)]
    return folders
