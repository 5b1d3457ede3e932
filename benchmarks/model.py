"""Measure the cost of the front end: the model on waveforms against only the network on log-mel examples.

python -m benchmarks.model [--weights CHECKPOINT]
"""

import numpy as np
import tensorflow as tf

import vggish_keras as vk
from benchmarks import measure


def main() -> None:
    model = vk.VGGish(measure.arguments(__doc__).weights)
    network = tf.keras.Model(model.get_layer("conv1").input, model.get_layer("fc2").output)
    run_model, run_network = tf.function(model), tf.function(network)
    measure.report("what", "model", "only network", "rate", "bound")
    for batch, rounds, bound in ((32, 15, "at least 92%"), (1, 60, "at least 87%")):
        waveforms = tf.constant(np.random.default_rng(0).uniform(-0.5, 0.5, (batch, 15_600)), tf.float32)
        examples = tf.reshape(vk.LogMelExamples()(waveforms), (batch, 96, 64, 1))
        ours, theirs, ratio = measure.interleaved(
            lambda: run_model(waveforms).numpy(),  # noqa: B023
            lambda: run_network(examples).numpy(),  # noqa: B023
            rounds,
        )
        row = f"{1e3 * ours / batch:.2f} ms/example", f"{1e3 * theirs / batch:.2f} ms/example"
        measure.report(f"batches of {batch}", *row, f"{100 * ratio:.1f}%", bound)


if __name__ == "__main__":
    main()
