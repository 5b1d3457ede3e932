"""The published log-mel spectrogram: its window, its mel bands, and its computation in NumPy."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggish_keras import params


def hann_window() -> NDArray[np.float64]:
    """Returns the periodic Hann window, float64 [400]: computed in float32 it would leak into quiet mel bands."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(params.STFT_WINDOW_SAMPLES) / params.STFT_WINDOW_SAMPLES)


def hz_to_mel(hz: Any) -> Any:
    """Converts a frequency to the HTK mel scale."""
    return params.MEL_HIGH_FREQUENCY_Q * np.log1p(np.asarray(hz, np.float64) / params.MEL_BREAK_HZ)


def mel_matrix() -> NDArray[np.float64]:
    """Returns the weights that turn spectrogram bins into mel bands: triangles that are linear in mel.

    Returns:
        float64 [257, 64]. The DC bin has no weight.
    """
    bins = hz_to_mel(np.linspace(0, params.SAMPLE_RATE / 2, params.FFT_SIZE // 2 + 1))[:, np.newaxis]
    edges = np.linspace(hz_to_mel(params.MEL_MIN_HZ), hz_to_mel(params.MEL_MAX_HZ), params.NUM_MEL_BANDS + 2)
    lower, center, upper = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins - lower) / (center - lower)
    falling = (upper - bins) / (upper - center)
    weights: NDArray[np.float64] = np.maximum(0, np.minimum(rising, falling))
    return weights


def log_mel(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """Computes the spectrogram of at least one window: float32 [samples] -> [(samples - 240) // 160, 64]."""
    windows = np.lib.stride_tricks.sliding_window_view(waveform, params.STFT_WINDOW_SAMPLES)
    frames = windows[:: params.STFT_HOP_SAMPLES] * hann_window()
    magnitudes = np.abs(np.fft.rfft(frames, params.FFT_SIZE))
    return np.log(magnitudes @ mel_matrix() + params.LOG_OFFSET).astype(np.float32)
