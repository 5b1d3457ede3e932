"""A second implementation of the published system, written from its numbers only: the reference of the tests."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# === Front end, in float64 ===


def log_mel_examples(waveform: NDArray[Any], hop_frames: int = 96) -> NDArray[np.float64]:
    """[samples] at 16 kHz -> [n, 96, 64]."""
    frames = []
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    for start in range(0, len(waveform) - 400 + 1, 160):
        frames.append(np.abs(np.fft.rfft(waveform[start : start + 400].astype(np.float64) * window, 512)))
    spectrogram = np.array(frames).reshape(-1, 257)
    log_mel = np.log(spectrogram @ mel_weights() + 0.01)
    starts = range(0, len(log_mel) - 96 + 1, hop_frames)
    return np.array([log_mel[start : start + 96] for start in starts]).reshape(-1, 96, 64)


def mel_weights() -> NDArray[np.float64]:
    weights = np.zeros((257, 64))

    def mel(hz: float) -> float:
        return 1127 * float(np.log(1 + hz / 700))

    width = (mel(7500) - mel(125)) / 65
    for band in range(64):
        center = mel(125) + (band + 1) * width
        for bin_ in range(1, 257):
            weights[bin_, band] = max(0.0, 1 - abs(mel(bin_ * 16_000 / 512) - center) / width)
    return weights


# === Post-processing ===


def postprocess(embeddings: NDArray[Any], eigen_vectors: NDArray[Any], means: NDArray[Any]) -> NDArray[np.uint8]:
    """[n, 128] -> uint8 [n, 128], truncated, not rounded."""
    components: NDArray[np.float64] = (eigen_vectors @ (embeddings.T.astype(np.float64) - means.reshape(-1, 1))).T
    return ((np.clip(components, -2, 2) + 2) * 255 / 4).astype(np.uint8)


# === Network, in TF-Slim ===

# Layer -> shapes of kernel and bias.
VARIABLES: dict[str, list[tuple[int, ...]]] = {
    "conv1": [(3, 3, 1, 64), (64,)],
    "conv2": [(3, 3, 64, 128), (128,)],
    "conv3_1": [(3, 3, 128, 256), (256,)],
    "conv3_2": [(3, 3, 256, 256), (256,)],
    "conv4_1": [(3, 3, 256, 512), (512,)],
    "conv4_2": [(3, 3, 512, 512), (512,)],
    "fc1_1": [(12_288, 4096), (4096,)],
    "fc1_2": [(4096, 4096), (4096,)],
    "fc2": [(4096, 128), (128,)],
}


class Slim(NamedTuple):
    """A TF-Slim checkpoint in both formats, and the embeddings that its graph computes from examples."""

    v1: Path
    v2: Path
    examples: NDArray[np.float32]
    embeddings: NDArray[np.float32]


def slim_checkpoint(folder: Path) -> Slim:
    """Writes the checkpoint to `folder`, unless it exists."""
    v1, v2, embeddings = folder / "v1.ckpt", folder / "v2.ckpt", folder / "embeddings.npy"
    examples = np.random.default_rng(5).normal(-1, 2, (3, 96, 64)).astype(np.float32)
    if not embeddings.exists():
        np.save(embeddings, _write_and_run(v1, v2, examples))
    return Slim(v1, v2, examples, np.load(embeddings))


def _write_and_run(v1: Path, v2: Path, examples: NDArray[np.float32]) -> NDArray[np.float32]:
    import tensorflow.compat.v1 as tf

    rng = np.random.default_rng(7)
    with tf.Graph().as_default(), tf.Session() as session:
        features = tf.placeholder(tf.float32, [None, 96, 64])
        embedding = slim_network(features)
        for variable in tf.global_variables():
            shape = variable.shape.as_list()
            # He-scaled weights keep activations of order one through all layers.
            scale = np.sqrt(2 / np.prod(shape[:-1])) if len(shape) > 1 else 0.05
            variable.load(rng.standard_normal(shape, dtype=np.float32) * np.float32(scale), session)
        for version, path in ((tf.train.SaverDef.V1, v1), (tf.train.SaverDef.V2, v2)):
            tf.train.Saver(write_version=version).save(session, str(path), write_meta_graph=False)
        return np.asarray(session.run(embedding, {features: examples}))


def run_slim(checkpoint: Path, examples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Runs TF-Slim's graph with a checkpoint: [n, 96, 64] -> [n, 128]."""
    import tensorflow.compat.v1 as tf

    with tf.Graph().as_default(), tf.Session() as session:
        features = tf.placeholder(tf.float32, [None, 96, 64])
        embedding = slim_network(features)
        tf.train.Saver().restore(session, str(checkpoint))
        return np.asarray(session.run(embedding, {features: examples}))


def slim_network(features: Any) -> Any:
    """The network in TF-Slim: [batch, 96, 64] -> [batch, 128]."""
    import tensorflow.compat.v1 as tf
    import tf_slim as slim

    with tf.variable_scope("vggish"):
        net = tf.expand_dims(features, -1)
        for stage, (width, repeats) in enumerate([(64, 1), (128, 1), (256, 2), (512, 2)], start=1):
            if repeats == 1:
                net = slim.conv2d(net, width, 3, scope=f"conv{stage}")
            else:
                net = slim.repeat(net, repeats, slim.conv2d, width, 3, scope=f"conv{stage}")
            net = slim.max_pool2d(net, 2, 2, padding="SAME", scope=f"pool{stage}")
        net = slim.repeat(slim.flatten(net), 2, slim.fully_connected, 4096, scope="fc1")
        return slim.fully_connected(net, 128, activation_fn=None, scope="fc2")


# === Comparison ===


def assert_close(got: Any, expected: Any, bound: float = 1e-4) -> None:
    """Allows a difference of `bound` times the largest expected value."""
    assert np.shape(got) == np.shape(expected)
    np.testing.assert_allclose(got, expected, atol=bound * np.abs(expected).max(initial=0), rtol=0)


def assert_same_bytes(got: NDArray[Any], expected: NDArray[np.uint8]) -> None:
    """Allows a difference of one level in a few values, which lie on a truncation edge."""
    assert got.dtype == np.uint8
    difference = np.abs(got.astype(int) - expected.astype(int))
    assert difference.max() <= 1
    assert np.count_nonzero(difference) <= 0.001 * difference.size
