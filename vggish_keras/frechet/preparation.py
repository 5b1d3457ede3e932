"""Prepare recordings as other tools do before they are embedded: level, offset and length."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from vggish_keras import params

Level = Literal["peak", "centered"]
LEVELS: tuple[Level | None, ...] = (None, *get_args(Level))
Blocks = Iterable[NDArray[np.float32]]

_LEAST_PEAK = 1e-9
"""Recordings below it are silent, and keep their level."""


class Preparation(NamedTuple):
    """What happens to the samples of a recording at 16 kHz.

    Attributes:
        level: "peak" scales a recording so that its largest sample is 1; "centered" subtracts its mean.
        min_samples: Shorter recordings are padded with zeros.
        window_samples: If not 0, the end after the last whole window of this length is removed.
        hop_samples: Distance between these windows.
    """

    level: Level | None = None
    min_samples: int = 0
    window_samples: int = 0
    hop_samples: int = 1

    def apply(self, read: Callable[[], Blocks]) -> Iterator[NDArray[np.float32]]:
        """Yields the prepared blocks of a recording, which is read twice."""
        count, peak, total = 0, 0.0, 0.0
        for block in read():
            count += len(block)
            peak = max(peak, float(block.max(initial=0)))
            total += float(block.sum(dtype=np.float64))
        gain = 1 / peak if self.level == "peak" and peak > _LEAST_PEAK else 1.0
        offset = total / count if self.level == "centered" and count else 0.0
        left = self._kept(count)
        for block in read():
            yield ((block[:left] - np.float32(offset)) * np.float32(gain)).astype(np.float32)
            left -= min(left, len(block))
        if count < self.min_samples:
            yield np.zeros(self.min_samples - count, np.float32)

    def _kept(self, samples: int) -> int:
        if not self.window_samples:
            return samples
        windows = (samples - self.window_samples) // self.hop_samples + 1
        return self.window_samples + (windows - 1) * self.hop_samples if windows > 0 else 0


class Tool(NamedTuple):
    """How another tool embeds recordings: arguments of `Embedder`, and what it does to their samples before."""

    embedder_options: dict[str, Any]
    preparation: Preparation = Preparation()


TOOLS = {
    "google": Tool(
        {"hop_seconds": 0.5, "padding": "valid"},
        Preparation("peak", window_samples=params.SAMPLE_RATE, hop_samples=params.SAMPLE_RATE // 2),
    ),
    "frechet-audio-distance": Tool({"hop_seconds": 0.96, "padding": "valid"}),
    "fadtk": Tool({"hop_seconds": 0.96, "padding": "short"}),
    "audioldm": Tool(
        {"hop_seconds": 0.96, "padding": "valid", "channels": 0},
        Preparation("centered", min_samples=2 * params.SAMPLE_RATE),
    ),
}
"""google-research's frechet_audio_distance, frechet-audio-distance, fadtk and audioldm_eval."""
