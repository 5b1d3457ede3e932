"""What the front end costs: the model on waveforms against the network on ready examples.

python -m benchmarks.model [--weights CHECKPOINT]
"""

import numpy as np
import tensorflow as tf

import vggish_keras as vk
from benchmarks import measure


def main() -> None:
    model = vk.VGGish(measure.arguments(__doc__).weights)
    network = tf.keras.Model(model.get_layer("conv1").input, model.get_layer("fc2").output)
    whole, bare = tf.function(model), tf.function(network)
    measure.report("what", "model", "network alone", "rate", "bound")
    for batch, rounds, bound in ((32, 15, "at least 92 %"), (1, 60, "at least 87 %")):
        waveforms = tf.constant(np.random.default_rng(0).uniform(-0.5, 0.5, (batch, 15_600)), tf.float32)
        examples = tf.reshape(vk.LogMelExamples()(waveforms), (batch, 96, 64, 1))
        ours, theirs, ratio = measure.in_turns(
            lambda: whole(waveforms).numpy(),  # noqa: B023
            lambda: bare(examples).numpy(),  # noqa: B023
            rounds,
        )
        each = [f"{1e3 * figure / batch:.2f} ms/example" for figure in (ours, theirs)]
        measure.report(f"batches of {batch}", *each, f"{100 * ratio:.1f} %", bound)


if __name__ == "__main__":
    main()
