"""An overview of a recording of any length in bounded memory: its log-mel spectrogram and waveform."""

import copy
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vggish_keras import params
from vggish_keras.mel import log_mel

_FRAMES_PER_BLOCK = 6_000
_BLOCK_SAMPLES = _FRAMES_PER_BLOCK * params.STFT_HOP_SAMPLES
_OVERLAP_SAMPLES = params.STFT_WINDOW_SAMPLES - params.STFT_HOP_SAMPLES


class Columns(NamedTuple):
    """The columns of an overview. Each covers the same number of spectrogram frames, except the last.

    Attributes:
        log_mel: float32 [n, 64], the mean log-mel spectrum of each column.
        lowest: float32 [n], the lowest sample of each column.
        highest: float32 [n], the highest sample of each column.
    """

    log_mel: NDArray[np.float32]
    lowest: NDArray[np.float32]
    highest: NDArray[np.float32]


class SpectrogramOverview:
    """Reduces a stream of samples to a limited number of columns.

    At first a column is one spectrogram frame of 10 ms. Whenever the columns exceed the maximum, pairs of neighbors are
    joined.

    Args:
        max_columns: The largest number of columns.
    """

    def __init__(self, max_columns: int = 4_000) -> None:
        self._max_columns = max_columns
        self._num_samples = 0
        self._samples = np.zeros(0, np.float32)  # not yet analyzed
        self._frames = _no_rows()  # too few for the next column
        self._columns = _no_rows()
        self._frames_per_column = 1

    def add(self, samples: NDArray[np.float32]) -> None:
        """Adds the next samples: float32 [samples] at 16 kHz, any number of them."""
        self._num_samples += len(samples)
        self._samples = np.concatenate([self._samples, samples])
        while len(self._samples) >= _BLOCK_SAMPLES + _OVERLAP_SAMPLES:
            self._add_frames(self._analyze(self._samples[: _BLOCK_SAMPLES + _OVERLAP_SAMPLES]))
            self._samples = self._samples[_BLOCK_SAMPLES:]

    @property
    def seconds(self) -> float:
        """Seconds that the columns cover: those of the samples so far, rounded up to whole frames, at least one."""
        frames = max(1, math.ceil(self._num_samples / params.STFT_HOP_SAMPLES))
        return frames * params.STFT_HOP_SAMPLES / params.SAMPLE_RATE

    @property
    def columns(self) -> Columns:
        """The overview of all samples so far; the last frames are padded with zeros."""
        complete = copy.copy(self)
        complete._add_frames(self._analyze(_pad_to_frames(self._samples)))
        rows, rest = complete._columns, complete._frames
        if len(rest):
            rows = np.concatenate([rows, _join_rows(rest, len(rest))])
        return Columns(rows[:, :-2], rows[:, -2], rows[:, -1])

    def _analyze(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Computes a row per frame: its log-mel spectrum, its lowest and its highest sample."""
        spectra = log_mel(samples)
        steps = samples[: len(spectra) * params.STFT_HOP_SAMPLES].reshape(-1, params.STFT_HOP_SAMPLES)
        return np.column_stack([spectra, steps.min(axis=1), steps.max(axis=1)])

    def _add_frames(self, frames: NDArray[np.float32]) -> None:
        frames = np.concatenate([self._frames, frames])
        whole = len(frames) // self._frames_per_column * self._frames_per_column
        self._columns = np.concatenate([self._columns, _join_rows(frames[:whole], self._frames_per_column)])
        self._frames = frames[whole:]
        while len(self._columns) > self._max_columns:
            self._halve()

    def _halve(self) -> None:
        """Joins pairs of columns; an unpaired last column is turned back into equal frames."""
        even = len(self._columns) // 2 * 2
        odd = np.repeat(self._columns[even:], self._frames_per_column, axis=0)
        self._frames = np.concatenate([odd, self._frames])
        self._columns = _join_rows(self._columns[:even], 2)
        self._frames_per_column *= 2


def _no_rows() -> NDArray[np.float32]:
    return np.zeros((0, params.NUM_MEL_BANDS + 2), np.float32)


def _pad_to_frames(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pads the end so that a frame starts every 10 ms, and at least once."""
    steps = max(1, math.ceil(len(samples) / params.STFT_HOP_SAMPLES))
    return np.pad(samples, (0, steps * params.STFT_HOP_SAMPLES + _OVERLAP_SAMPLES - len(samples)))


def _join_rows(rows: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Joins every `size` successive rows into one: the mean of their spectra, and the range of their samples."""
    groups = rows.reshape(-1, size, rows.shape[1])
    return np.column_stack([groups[..., :-2].mean(axis=1), groups[..., -2].min(axis=1), groups[..., -1].max(axis=1)])
