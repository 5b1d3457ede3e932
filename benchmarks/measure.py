"""Interleaved measurements and a table of results, shared by the benchmarks.

Interleaving cancels drifts of the machine's speed: both measurements of a pair slow down alike. The ratio is the median
over the pairs.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

import vggish_keras as vk
from vggish_keras.engines import Dtype

BATCH_SIZE = 64
"""Examples per call of `network_only`."""


def arguments(description: str | None, **options: Any) -> argparse.Namespace:
    """Parses --weights and `options`, which maps names to defaults, and prints a description of the machine."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--weights", help="a TF-Slim checkpoint or Keras weights file; random weights are as fast")
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
    """The duration of `work`."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interleaved(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int) -> tuple[float, float, float]:
    """The median seconds of each, and the median of theirs divided by ours, after a warm-up."""
    ours(), theirs()
    pairs = np.array([(seconds(ours), seconds(theirs)) for _ in range(rounds)])
    our_seconds, their_seconds = np.median(pairs, axis=0)
    return float(our_seconds), float(their_seconds), float(np.median(pairs[:, 1] / pairs[:, 0]))


def count_examples(results: Iterable[tuple[Any, vk.Embeddings | Exception]]) -> int:
    """The number of embeddings in the results of `Embedder.embed_many`; raises the error of a file that failed."""
    count = 0
    for _, result in results:
        if isinstance(result, Exception):
            raise result
        count += len(result.times)
    return count


def network_only(weights: str | None, dtype: Dtype = "float32") -> Callable[[], Any]:
    """A function that runs only the network, on a batch of log-mel examples."""
    model = vk.VGGish(weights, dtype=dtype)
    network = tf.function(tf.keras.Model(model.get_layer("conv1").input, model.get_layer("fc2").output))
    examples = tf.constant(np.random.default_rng(0).normal(-1, 2, (BATCH_SIZE, 96, 64, 1)), tf.float32)
    return lambda: network(examples).numpy()


def report(what: str, ours: str, theirs: str, ratio: str, bound: str) -> None:
    """Prints a row of the table."""
    print(f"{what:<48} {ours:>16} {theirs:>16} {ratio:>9}   {bound}", flush=True)
