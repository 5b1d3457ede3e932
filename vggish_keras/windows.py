"""The samples of each example, cut out of a recording as it is read."""

from collections.abc import Iterable, Iterator

import numpy as np

from vggish_keras import params


def cut_windows(blocks: Iterable[np.ndarray], hop_samples: int, padding: str) -> Iterator[np.ndarray]:
    """Cuts a stream at 16 kHz into examples.

    Args:
        blocks: float32 [samples] of any lengths.
        hop_samples: Distance of examples.
        padding: "same" or "valid", as in `VGGish`.

    Yields:
        float32 [15600], as many as `frontend.count_examples` says.
    """
    size, hop = params.EXAMPLE_SAMPLES, hop_samples
    buffer = np.zeros(0, np.float32)
    skip = 0  # samples until the next example, where the hop reaches beyond the buffer
    any_window = False
    for block in blocks:
        buffer = np.concatenate([buffer, block[skip:]])
        skip = max(0, skip - len(block))
        start = 0
        while len(buffer) - start >= size:
            yield buffer[start : start + size]
            any_window = True
            start += hop
        skip = max(skip, start - len(buffer))
        buffer = buffer[start:]
    # The last window overlaps the rest, of which only what comes after it is not covered.
    uncovered = len(buffer) - max(0, size - hop) if any_window else 1
    if padding == "same" and uncovered > 0:
        yield np.pad(buffer, (0, size - len(buffer)))


def start_times(count: int, hop_samples: int, first: int = 0) -> np.ndarray:
    """The starts of `count` examples from the one of index `first`: float64 [count] seconds."""
    return np.arange(first, first + count) * hop_samples / params.SAMPLE_RATE
