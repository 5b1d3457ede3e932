"""Synthesize a recording for the demo."""

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 44_100
"""Hz: different from VGGish's own rate, so that the demo includes resampling."""

_NOTES_HZ = (262, 330, 392, 523, 392, 330, 262, 196)
_NOTE_SECONDS = 0.5
_SYLLABLES = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480)) * 3
"""Formants, in Hz, of the vowels in "father", "heed", "who'd" and "head"."""
_SYLLABLE_SECONDS = 0.3


def synthesize() -> NDArray[np.float32]:
    """Synthesizes about 11 s of audio: a melody, speech-like syllables, and noise that swells like surf.

    Returns:
        float32 [samples] in [-1, 1] at `SAMPLE_RATE`, identical in every call.
    """
    melody = np.concatenate([_note(hz) for hz in _NOTES_HZ])
    voice = np.concatenate([_syllable(formants, index) for index, formants in enumerate(_SYLLABLES)])
    return np.concatenate([melody, voice, _surf(3.5)]).astype(np.float32)


def _time(seconds: float) -> NDArray[np.float64]:
    return np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE


def _note(hz: float) -> NDArray[np.float64]:
    time = _time(_NOTE_SECONDS)
    partials = np.zeros_like(time)
    for k in range(1, 7):
        partials += np.sin(2 * np.pi * hz * k * time) / k**1.5
    return 0.35 * partials * np.exp(-5 * time) * np.minimum(1, time / 0.005)


def _syllable(formants_hz: tuple[int, ...], index: int) -> NDArray[np.float64]:
    time = _time(_SYLLABLE_SECONDS)
    pitch = 130 - 3 * index + 15 * np.sin(2 * np.pi * 3 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    voice = np.zeros_like(time)
    for harmonic in range(1, 30):
        gain = sum(1 / (1 + ((harmonic * pitch - formant) / 90) ** 2) for formant in formants_hz)
        voice += gain * np.sin(harmonic * phase) / np.sqrt(harmonic)
    return 0.3 * voice * np.sin(np.pi * time / _SYLLABLE_SECONDS) ** 0.7


def _surf(seconds: float) -> NDArray[np.float64]:
    time = _time(seconds)
    noise = np.random.default_rng(0).standard_normal(len(time))
    return 0.12 * noise * (0.1 + np.sin(np.pi * time / seconds * 2) ** 2)
