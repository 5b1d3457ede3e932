"""What the benchmarks share: pairs of figures taken in turns, and a line that reports them.

A machine whose speed drifts slows both of a pair alike; the ratio is the median over the pairs.
"""

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

import vggish_keras as vk


def arguments(what: str | None, **options: Any) -> argparse.Namespace:
    """The command line of a benchmark: --weights, and `options` with their defaults. Prints the machine."""
    parser = argparse.ArgumentParser(description=what, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--weights", help="a TF-Slim checkpoint or Keras weights file; random ones are as fast")
    for name, default in options.items():
        parser.add_argument(f"--{name}", default=default, type=type(default))
    parsed = parser.parse_args()
    print(f"{os.cpu_count()} cores of {_processor()}, TensorFlow {tf.__version__}, NumPy {np.__version__}")
    return parsed


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return "an unknown processor"


def seconds(work: Callable[[], Any]) -> float:
    """How long `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turns(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int) -> tuple[float, float, float]:
    """Median seconds of each, and the median of theirs over ours, after a warm-up."""
    ours(), theirs()
    pairs = np.array([(seconds(ours), seconds(theirs)) for _ in range(rounds)])
    return (*np.median(pairs, axis=0), float(np.median(pairs[:, 1] / pairs[:, 0])))


def network_alone(weights: str | None, dtype: str | None = None) -> Callable[[], Any]:
    """A call of the network on a ready batch of 32 examples."""
    model = vk.VGGish(weights, dtype=dtype)
    network = tf.function(tf.keras.Model(model.get_layer("conv1").input, model.get_layer("fc2").output))
    examples = tf.constant(np.random.default_rng(0).normal(-1, 2, (32, 96, 64, 1)), tf.float32)
    return lambda: network(examples).numpy()


def report(what: str, ours: str, theirs: str, ratio: str, bound: str) -> None:
    """Prints a line."""
    print(f"{what:<48} {ours:>16} {theirs:>16} {ratio:>9}   {bound}", flush=True)
