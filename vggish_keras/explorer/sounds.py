"""What a page shows of the recordings themselves: thumbnails of spectrograms, silence, clipping, and their sound."""

import base64
import contextlib
import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vggish_keras import params
from vggish_keras._errors import error_message
from vggish_keras._reader_process import MAX_READERS, ReaderProcesses
from vggish_keras.audio import Channels
from vggish_keras.resample import read_waveform
from vggish_keras.spectrogram_overview import SpectrogramOverview

_SILENT_PEAK = 10 ** (-60 / 20)
"""A recording whose samples stay below -60 dB of full scale is silent."""
_FULL_SCALE = 0.999
_CLIPPED_SHARE = 1e-3
"""A recording is clipped if more than this share of its samples is at its peak, at full scale."""
_LOG_MEL_RANGE = (-4.6, 2.5)
_THUMBNAILS_PER_IMAGE = 2_500
_LARGE = (48, 32)
_SMALL = (32, 16)
_MANY = 20_000
"""Recordings from which on thumbnails are small."""
_OPUS_BIT_RATE = 24_000
_MAX_EMBEDDED_SECONDS = 30


class Sound(NamedTuple):
    """What is known of a recording.

    Attributes:
        thumbnail: uint8 [height, width], low frequencies at the bottom; None if it cannot be read.
        is_silent: Whether no sample reaches -60 dB of full scale.
        is_clipped: Whether many samples are at full scale.
        error: Why it cannot be read.
    """

    thumbnail: NDArray[np.uint8] | None = None
    is_silent: bool = False
    is_clipped: bool = False
    error: str | None = None


def listen(paths: Sequence[Path], channels: Channels = "mix") -> Iterator[Sound]:
    """Reads recordings in child processes, in bounded memory, and yields what is known of each, in order."""
    width, height = thumbnail_size(len(paths))
    readers = ReaderProcesses()
    # The processes end first: a thread may wait for one that never answers.
    with ThreadPoolExecutor(MAX_READERS) as threads, contextlib.closing(readers):
        yield from threads.map(lambda path: _listen(readers.read(path, channels), width, height), paths)


def thumbnail_size(count: int) -> tuple[int, int]:
    """Width and height of the thumbnails of so many recordings."""
    return _LARGE if count < _MANY else _SMALL


def _listen(blocks: Iterator[NDArray[np.float32]], width: int, height: int) -> Sound:
    overview = SpectrogramOverview(2 * width)
    total = loud = 0
    peak = 0.0
    try:
        for block in blocks:
            overview.add(block)
            magnitudes = np.abs(block)
            peak = max(peak, float(magnitudes.max(initial=0)))
            total += len(block)
            loud += int((magnitudes >= _FULL_SCALE).sum())
    except (OSError, ValueError) as error:
        return Sound(error=error_message(error))
    thumbnail = _thumbnail(overview.columns.log_mel, width, height)
    return Sound(thumbnail, peak < _SILENT_PEAK, loud > max(_CLIPPED_SHARE * total, 2))


def _thumbnail(log_mel: NDArray[np.float32], width: int, height: int) -> NDArray[np.uint8]:
    edges = np.linspace(0, len(log_mel), width + 1).astype(int)
    if len(log_mel) < width:
        columns = log_mel[edges[:-1]]
    else:
        columns = np.add.reduceat(log_mel, edges[:-1]) / np.diff(edges)[:, np.newaxis]
    bands = columns.reshape(width, height, -1).mean(axis=2)
    low, high = _LOG_MEL_RANGE
    levels = ((bands - low) / (high - low)).clip(0, 1) * 255
    thumbnail: NDArray[np.uint8] = levels.astype(np.uint8).T[::-1]
    return thumbnail


def join_thumbnails(sounds: list[Sound]) -> dict[str, Any]:
    """Joins thumbnails into few WebP images, each a grid, as the page expects them."""
    from PIL import Image

    width, height = thumbnail_size(len(sounds))
    columns = 50
    images = []
    for start in range(0, len(sounds), _THUMBNAILS_PER_IMAGE):
        part = sounds[start : start + _THUMBNAILS_PER_IMAGE]
        grid = np.zeros((-(-len(part) // columns) * height, columns * width), np.uint8)
        for index, sound in enumerate(part):
            if sound.thumbnail is not None:
                top, left = index // columns * height, index % columns * width
                grid[top : top + height, left : left + width] = sound.thumbnail
        file = io.BytesIO()
        Image.fromarray(grid).save(file, "WEBP", quality=50, method=4)
        images.append("data:image/webp;base64," + base64.b64encode(file.getvalue()).decode())
    return {"width": width, "height": height, "columns": columns, "perImage": _THUMBNAILS_PER_IMAGE, "images": images}


def as_opus(path: Path, channels: Channels = "mix") -> str:
    """Encodes the first 30 s of a recording as a data URL of Ogg Opus, at 16 kHz and 24 kbit/s."""
    import av

    samples = _first_samples(read_waveform(path, channels), _MAX_EMBEDDED_SECONDS * params.SAMPLE_RATE)
    file = io.BytesIO()
    with av.open(file, "w", format="ogg") as container:
        stream = container.add_stream("libopus", params.SAMPLE_RATE, {"vbr": "constrained"}, layout="mono")
        stream.bit_rate = _OPUS_BIT_RATE
        levels = (samples.clip(-1, 1) * 32_767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(levels[np.newaxis], format="s16", layout="mono")
        frame.sample_rate = params.SAMPLE_RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return "data:audio/ogg;base64," + base64.b64encode(file.getvalue()).decode()


def _first_samples(blocks: Iterable[NDArray[np.float32]], count: int) -> NDArray[np.float32]:
    kept: list[NDArray[np.float32]] = []
    for block in blocks:
        kept.append(block)
        if sum(map(len, kept)) >= count:
            break
    return np.concatenate(kept or [np.zeros(1, np.float32)])[:count]
