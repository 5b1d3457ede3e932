"""Measure the speed of resampling to 16 kHz, against resampy.

python -m benchmarks.resampling
"""

import numpy as np
import resampy

from benchmarks import measure
from vggish_keras.resample import filter_bank, resample


def main() -> None:
    measure.arguments(__doc__)
    measure.report("what", "ours", "resampy", "speed", "bound")
    for rate, bound in ((44_100, "at least 40x"), (48_000, "at least 20x")):
        waveform = np.random.default_rng(0).uniform(-0.5, 0.5, 60 * rate).astype(np.float32)
        filter_bank.cache_clear()
        construction = measure.seconds(lambda: filter_bank(rate))  # noqa: B023
        ours, theirs, ratio = measure.interleaved(
            lambda: resample(waveform, rate),  # noqa: B023
            lambda: resampy.resample(waveform, rate, 16_000, filter="kaiser_best"),  # noqa: B023
            7,
        )
        what = f"60 s at {rate} Hz (filters: {1e3 * construction:.0f} ms)"
        measure.report(what, f"{1e3 * ours:.1f} ms", f"{1e3 * theirs:.0f} ms", f"{ratio:.0f}x", bound)


if __name__ == "__main__":
    main()
