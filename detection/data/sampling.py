"""Batches of images, on one process or several, as a pure function of (seed, epoch).

A *global batch* is what all processes together train on in one step; process r gets its r-th slice.
"""

from collections.abc import Iterator

import numpy as np


class TrainBatches:
    """Shuffled batches of images of like orientation; a batch sampler of (epoch, position) keys.

    Every image appears in every epoch. All batches have the same size on all processes, so the last global batch is
    filled up with images from the epoch's other batches: fewer than `batch_size * num_processes` are seen twice.
    Wide and tall images go to separate batches (less padding), except for what remains of each group at the end.
    The global batches depend on `batch_size * num_processes` only, not on how it is divided.

    Args:
        num_images: Images in the data set.
        batch_size: Images a batch on one process.
        seed: Of the shuffling.
        aspect_ratios: (num_images,) width / height, to group wide (at least 1) and tall images; None: no groups.
        num_processes: Processes that train together.
        rank: This process's number among them.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        *,
        seed: int = 0,
        aspect_ratios: np.ndarray | None = None,
        num_processes: int = 1,
        rank: int = 0,
    ) -> None:
        _require_share(batch_size, num_processes, rank)
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self.wide = None if aspect_ratios is None else np.asarray(aspect_ratios) >= 1
        if self.wide is not None and len(self.wide) != num_images:
            raise ValueError(f"{len(self.wide)} aspect ratios for {num_images} images")
        self.global_size = batch_size * num_processes
        self.rank = rank
        self.set_epoch(0)

    def set_epoch(self, epoch: int, skip: int = 0, formed_by: int | None = None) -> None:
        """Choose the epoch whose batches the next iteration yields.

        Args:
            epoch: its number, from 0.
            skip: batches of its start that are left out, as they were trained on before an interruption.
            formed_by: images of a global batch when the epoch began, where that was different; its images keep their
                order, in batches of the present size.
        """
        self.epoch, self.skip, self.formed_by = epoch, skip, formed_by or self.global_size

    def __len__(self) -> int:
        formed = -(-self.num_images // self.formed_by) * self.formed_by
        return max(0, -(-formed // self.global_size) - self.skip)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        start = self.rank * self.batch_size
        for batch in self._global_batches():
            yield [(self.epoch, position) for position in batch[start : start + self.batch_size].tolist()]

    def _global_batches(self) -> np.ndarray:
        """Return (len(self), global_size) positions of this epoch."""
        batches = self._formed_batches()
        if self.formed_by != self.global_size:
            order = batches.flatten()
            filled = np.resize(order, -len(order) % self.global_size)
            batches = np.concatenate([order, filled]).reshape(-1, self.global_size)
        return batches[self.skip :]

    def _formed_batches(self) -> np.ndarray:
        """Return the positions of the complete epoch, (number of batches, formed_by)."""
        size = self.formed_by
        if self.num_images == 0:
            return np.empty((0, size), dtype=np.int64)
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(self.num_images)
        groups = [order] if self.wide is None else [order[self.wide[order]], order[~self.wide[order]]]
        splits = [np.split(group, [len(group) // size * size]) for group in groups]
        once = np.concatenate([full for full, _ in splits] + [rest for _, rest in splits])
        # From the start, so that the last batch holds no image twice (unless the data set is smaller than a batch).
        filled = np.resize(once, -len(once) % size)
        batches = np.concatenate([once, filled]).reshape(-1, size)
        return batches[rng.permutation(len(batches))]


def _require_share(batch_size: int, num_processes: int, rank: int) -> None:
    if batch_size < 1 or not 0 <= rank < num_processes:
        raise ValueError(f"bad batch_size {batch_size}, rank {rank} or num_processes {num_processes}")


class EvalBatches:
    """Every image once, in order; complete batches dealt to processes in turn; a batch sampler of positions.

    Batches are formed before they are dealt: what an image is padded to does not depend on the number of processes,
    and neither do its detections. The last batch may be short, and a process may have one batch fewer than another.
    The arguments are those of `TrainBatches`.
    """

    def __init__(self, num_images: int, batch_size: int, *, num_processes: int = 1, rank: int = 0) -> None:
        _require_share(batch_size, num_processes, rank)
        self.num_images = num_images
        self.batch_size = batch_size
        self.starts = range(rank * batch_size, num_images, num_processes * batch_size)

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[list[int]]:
        for start in self.starts:
            yield list(range(start, min(start + self.batch_size, self.num_images)))
