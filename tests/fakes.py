"""Fakes that tests pass to the package."""

from tests import published


class FakeEngine:
    """A quick engine whose embeddings distinguish examples: 128 of the example's log-mel values.

    Args:
        outputs: What it can compute. "quantized" are values of 8 bits, 50 + 20 times the embedding.
    """

    dtype = "float32"

    def __init__(self, *outputs):
        import tensorflow as tf

        from vggish_keras import LogMelExamples

        self.outputs = outputs or ("embedding",)
        self.batch_sizes = []
        self._log_mel = tf.function(LogMelExamples(), [tf.TensorSpec([None, 15_600], tf.float32)])

    def identity(self, output):
        return "fake"

    def __call__(self, segments, output):
        self.batch_sizes.append(len(segments))
        embeddings = self._log_mel(segments).numpy().reshape(len(segments), 6_144)[:, ::48].copy()
        return (50 + 20 * embeddings).astype("u1") if output == "quantized" else embeddings


class FakeClassifier(FakeEngine):
    """A quick classifier whose scores are the first of `FakeEngine`'s embeddings, one for each class."""

    def __init__(self, *class_names):
        super().__init__("scores")
        self.class_names = class_names

    def __call__(self, segments, output):
        return super().__call__(segments, output)[:, : len(self.class_names)]


def fake_embeddings(waveform, hop_seconds=0.96):
    """What the engine computes for whole examples, by an independent front end: [n, 128]."""
    return published.log_mel_examples(waveform, round(hop_seconds * 100)).reshape(-1, 6_144)[:, ::48]
