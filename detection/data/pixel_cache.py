"""Arrays of bytes that loading processes fill once for all of them, in memory that they share with their parent."""

import mmap
from collections.abc import Callable, Sequence

import numpy as np


class PixelCache:
    """Arrays of uint8 by number, each made the first time that any process asks for it.

    Processes that are forked share it. One that is started in another way goes without (`None` in its place). Memory is
    taken page by page as arrays are put in, never more than `nbytes`.

    Args:
        sizes: (n,) bytes of each array.
    """

    def __init__(self, sizes: np.ndarray) -> None:
        self._starts = len(sizes) + np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        # Not in /dev/shm, which is small in containers.
        self._bytes = np.frombuffer(mmap.mmap(-1, max(self.nbytes, 1)), np.uint8)
        self._filled = self._bytes[: len(sizes)]

    @property
    def nbytes(self) -> int:
        """Bytes that all arrays take together, with one each that marks them as filled."""
        return int(self._starts[-1])

    def get(self, number: int, shape: Sequence[int], make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return an array of this shape, by `make()` where it is not there yet; the caller must not change it."""
        own = self._bytes[self._starts[number] : self._starts[number + 1]].reshape(shape)
        if not self._filled[number]:
            # Two processes may fill it at once, with the same bytes; it is marked after the last of them.
            own[:] = make()
            self._filled[number] = 1
        return own

    def __reduce__(self) -> tuple:
        return type(None), ()
