"""How a recording at 16 kHz is cut into examples: hops, counts, samples and start times."""

from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from vggish_keras import params

Padding = Literal["short", "valid", "same"]
PADDINGS: tuple[Padding, ...] = get_args(Padding)


def hop_to_frames(hop_seconds: float) -> int:
    """Converts the distance between examples to spectrogram frames.

    Args:
        hop_seconds: Distance between examples in seconds, a positive multiple of 10 ms.

    Returns:
        The distance in frames of 10 ms.

    Raises:
        ValueError: `hop_seconds` is not a positive multiple of 10 ms.
        TypeError: `hop_seconds` is not a number.
    """
    if isinstance(hop_seconds, (bool, str, bytes)):
        raise TypeError(f"hop_seconds must be a number of seconds, got {hop_seconds!r}")
    frames = float(hop_seconds) * params.SAMPLE_RATE / params.STFT_HOP_SAMPLES
    if not np.isfinite(frames) or round(frames) < 1 or abs(frames - round(frames)) > 1e-3:
        raise ValueError(f"the hop must be a positive multiple of 0.01 s (one spectrogram frame), got {hop_seconds} s")
    return round(frames)


def hop_to_samples(hop_seconds: float) -> int:
    """Converts the distance between examples to samples at 16 kHz; raises the errors of `hop_to_frames`."""
    return hop_to_frames(hop_seconds) * params.STFT_HOP_SAMPLES


def count_examples(num_samples: Any, hop_samples: int, padding: Padding) -> Any:
    """Counts the examples of a waveform.

    Args:
        num_samples: Length of the waveform at 16 kHz: an int or an integer tensor of any shape.
        hop_samples: Distance between examples in samples.
        padding: "short" counts whole examples, at least one; "valid" counts whole examples; "same" counts as many as it
            takes to cover every sample, at least one.

    Returns:
        The number of examples: an int or a tensor, like `num_samples`.
    """
    if padding == "valid":
        return _positive((num_samples - params.EXAMPLE_SAMPLES) // hop_samples + 1)
    if padding == "short":
        return 1 + _positive((num_samples - params.EXAMPLE_SAMPLES) // hop_samples)
    # If the hop is longer than an example, the samples in the gaps need no example of their own.
    beyond_first = num_samples - max(params.EXAMPLE_SAMPLES, hop_samples)
    return 1 + _positive(-(-beyond_first // hop_samples))


def _positive(number: Any) -> Any:
    """Replaces negative numbers by 0, in integers, arrays and tensors alike."""
    return (number + abs(number)) // 2


def cut_segments(
    blocks: Iterable[NDArray[np.float32]], hop_samples: int, padding: Padding
) -> Iterator[NDArray[np.float32]]:
    """Cuts a stream at 16 kHz into the segments of its examples.

    Args:
        blocks: float32 [samples] of any lengths.
        hop_samples: Distance between examples.
        padding: "short", "valid" or "same", as in `VGGish`.

    Yields:
        float32 [15600]; as many segments as `count_examples` counts examples.
    """
    size, hop = params.EXAMPLE_SAMPLES, hop_samples
    pending, waiting = [np.zeros(0, np.float32)], 0
    skip = 0  # samples until the next segment, if the hop reaches beyond the buffer
    any_segment = False
    for block in blocks:
        pending.append(block[skip:])
        waiting += len(pending[-1])
        skip = max(0, skip - len(block))
        if waiting < size:
            continue
        buffer, start = np.concatenate(pending), 0
        while len(buffer) - start >= size:
            yield buffer[start : start + size]
            any_segment = True
            start += hop
        skip = max(skip, start - len(buffer))
        pending = [buffer[start:]]
        waiting = len(pending[0])
    buffer = np.concatenate(pending)
    # The last segment already covers the start of the remainder; only the rest still needs padding.
    uncovered = len(buffer) - max(0, size - hop)
    if (padding != "valid" and not any_segment) or (padding == "same" and uncovered > 0):
        yield np.pad(buffer, (0, size - len(buffer)))


def start_times(count: int, hop_samples: int, first: int = 0) -> NDArray[np.float64]:
    """Returns the start times of `count` examples, from the example of index `first`: float64 [count] seconds."""
    return np.arange(first, first + count) * hop_samples / params.SAMPLE_RATE
