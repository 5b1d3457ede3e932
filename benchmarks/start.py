"""Measure how long a new process takes until its first embedding, after importing TensorFlow.

python -m benchmarks.start --weights CHECKPOINT [--starts 5]
"""

import subprocess
import sys

import numpy as np

from benchmarks import measure

_START = (
    "import sys, time, numpy, tensorflow\n"
    "start = time.perf_counter()\n"
    "import vggish_keras as vk\n"
    "vk.Embedder(sys.argv[1]).embed(numpy.zeros(44_100), 44_100)\n"
    "print(time.perf_counter() - start)"
)


def main() -> None:
    arguments = measure.arguments(__doc__, starts=5)
    command = [sys.executable, "-c", _START, arguments.weights or sys.exit("--weights is required")]
    runs = [subprocess.run(command, capture_output=True, check=True) for _ in range(arguments.starts)]
    seconds = [float(run.stdout) for run in runs]
    print(f"median {np.median(seconds):.2f} s, worst of {len(seconds)} {max(seconds):.2f} s (at most 3 s)")


if __name__ == "__main__":
    main()
