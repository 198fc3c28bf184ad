"""Batches of images, on one process or several, as a pure function of (seed, epoch).

A *global batch* is what all processes together train on in one step; process r gets its r-th slice.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from detection.data.repeat_factors import draw_repeats, epoch_length


class TrainBatches:
    """Shuffled batches of images of like orientation; a batch sampler of (epoch, position, repeat) keys.

    Every image appears in every epoch, and again as often as its repeat factor asks for. All batches have the same size
    on all processes, so the last global batch is filled up with images from the epoch's other batches, fewer than
    `batch_size * num_processes`. The number `repeat`, from 0, tells an image's appearances in the epoch apart.
    Wide and tall images go to separate batches (less padding), except for what remains of each group at the end.
    The global batches depend on `batch_size * num_processes` only, not on how it is divided.

    Args:
        num_images: Images in the data set.
        batch_size: Images a batch on one process.
        seed: Of the shuffling.
        aspect_ratios: (num_images,) width / height, to group wide (at least 1) and tall images; None: no groups.
        factors: (num_images,) by `repeat_factors`; None: each image once.
        image_ids: (num_images,), by which the fraction of a factor is drawn; None: the positions.
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
        factors: np.ndarray | None = None,
        image_ids: np.ndarray | None = None,
        num_processes: int = 1,
        rank: int = 0,
    ) -> None:
        _require_share(batch_size, num_processes, rank)
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self.wide = None if aspect_ratios is None else np.asarray(aspect_ratios) >= 1
        self.factors = factors
        self.image_ids = np.arange(num_images) if image_ids is None else image_ids
        for name, values in (("aspect ratios", self.wide), ("factors", factors), ("image ids", self.image_ids)):
            if values is not None and len(values) != num_images:
                raise ValueError(f"{len(values)} {name} for {num_images} images")
        self.epoch_images = num_images if factors is None else epoch_length(factors)
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
        formed = -(-self.epoch_images // self.formed_by) * self.formed_by
        return max(0, -(-formed // self.global_size) - self.skip)

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        start = self.rank * self.batch_size
        for batch in self._global_batches():
            own = batch[start : start + self.batch_size].tolist()
            yield [(self.epoch, position, repeat) for position, repeat in own]

    def _global_batches(self) -> np.ndarray:
        """Return (len(self), global_size, 2) positions and repeats of this epoch."""
        batches = self._formed_batches()
        if self.formed_by != self.global_size:
            batches = _filled(batches.reshape(-1, 2), self.global_size)
        return batches[self.skip :]

    def _formed_batches(self) -> np.ndarray:
        """Return positions and repeats of the complete epoch, (number of batches, formed_by, 2)."""
        size = self.formed_by
        if self.num_images == 0:
            return np.empty((0, size, 2), dtype=np.int64)
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(self._images())
        groups = [order] if self.wide is None else [order[self.wide[order]], order[~self.wide[order]]]
        splits = [np.split(group, [len(group) // size * size]) for group in groups]
        once = np.concatenate([full for full, _ in splits] + [rest for _, rest in splits])
        batches = _filled(np.stack([once, _occurrence(once)], axis=1), size, self.epoch_images)
        return batches[rng.permutation(len(batches))]

    def _images(self) -> np.ndarray:
        """Return the positions that an epoch has, each as often as it is seen."""
        every = np.arange(self.num_images)
        if self.factors is None:
            return every
        return np.repeat(every, draw_repeats(self.factors, self.image_ids, self.seed, self.epoch))


def _filled(entries: np.ndarray, size: int, at_least: int = 0) -> np.ndarray:
    """Fill (position, repeat) entries (M, 2) up to complete batches (…, size, 2), `at_least` so many entries.

    From the start, so that the last batch holds no image twice (unless images repeat, or are fewer than a batch).
    """
    total = -(-max(len(entries), at_least) // size) * size
    positions = np.resize(entries[:, 0], total)
    repeats = np.concatenate([entries[:, 1], _occurrence(positions)[len(entries) :]])
    return np.stack([positions, repeats], axis=1).reshape(-1, size, 2)


def _occurrence(positions: np.ndarray) -> np.ndarray:
    """Count for each of (M,) positions how often it has come before."""
    order = np.argsort(positions, kind="stable")
    ordered = positions[order]
    first = np.searchsorted(ordered, ordered)  # where the run of each begins
    counts = np.empty_like(order)
    counts[order] = np.arange(len(order)) - first
    return counts


def _require_share(batch_size: int, num_processes: int, rank: int) -> None:
    if batch_size < 1 or not 0 <= rank < num_processes:
        raise ValueError(f"bad batch_size {batch_size}, rank {rank} or num_processes {num_processes}")


class EvalBatches:
    """Every image once, in the data set's order or a given one; a batch sampler of positions.

    Complete batches are dealt to the processes in turn. They are formed before: what an image is padded to does not
    depend on the number of processes, and neither do its detections. The last batch may be short, and a process may
    have one batch fewer than another. The arguments are those of `TrainBatches`, and `order` is a permutation of the
    positions.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        *,
        num_processes: int = 1,
        rank: int = 0,
        order: Sequence[int] | None = None,
    ) -> None:
        _require_share(batch_size, num_processes, rank)
        self.order = range(num_images) if order is None else order
        self.batch_size = batch_size
        self.starts = range(rank * batch_size, num_images, num_processes * batch_size)

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[list[int]]:
        for start in self.starts:
            yield list(self.order[start : start + self.batch_size])
