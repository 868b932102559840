"""Batch sizes that cost alike: captured sizes, or powers of two where the engine runs eagerly."""

from __future__ import annotations

from bisect import bisect_left


class BatchBuckets:
    """Maps a batch size to its bucket.

    `sizes` are the upper bounds, ascending; the last covers `max_running_requests`.
    Beyond the largest captured size an engine runs eagerly, so powers of two follow it.
    """

    def __init__(self, graph_batch_sizes: tuple[int, ...], max_running_requests: int) -> None:
        sizes = list(graph_batch_sizes)
        size = 1
        while not sizes or sizes[-1] < max_running_requests:
            if not sizes or size > sizes[-1]:
                sizes.append(size)
            size *= 2
        self.sizes = tuple(sizes)
        self._captured = len(graph_batch_sizes)

    def index(self, batch_size: int) -> int:
        """Index of the bucket that holds `batch_size`; the last one if it is beyond all."""
        return min(bisect_left(self.sizes, batch_size), len(self.sizes) - 1)

    def paid_size(self, batch_size: int) -> int:
        """The batch size the device works on: padded to the captured one, itself if eager."""
        index = self.index(batch_size)
        return max(self.sizes[index], batch_size) if index < self._captured else batch_size
