"""The numbers of the published VGGish system: constants, nothing else."""

from typing import Final, NamedTuple

# === Waveform ===

SAMPLE_RATE: Final = 16_000
"""Hz, mono."""

# === Log-mel spectrogram ===

STFT_WINDOW_SAMPLES: Final = 400
"""25 ms, periodic Hann."""
STFT_HOP_SAMPLES: Final = 160
"""10 ms."""
FFT_SIZE: Final = 512
NUM_MEL_BANDS: Final = 64
MEL_MIN_HZ: Final = 125.0
MEL_MAX_HZ: Final = 7_500.0
MEL_BREAK_HZ: Final = 700.0
"""HTK mel scale: mel = 1127 ln(1 + Hz / 700)."""
MEL_HIGH_FREQUENCY_Q: Final = 1_127.0
LOG_OFFSET: Final = 0.01
"""log(mel + 0.01)."""

# === Examples ===

EXAMPLE_FRAMES: Final = 96
EXAMPLE_HOP_SECONDS: Final = 0.96
EXAMPLE_SAMPLES: Final = STFT_WINDOW_SAMPLES + (EXAMPLE_FRAMES - 1) * STFT_HOP_SAMPLES
"""15,600 samples (0.975 s): the last frame reaches 15 ms beyond 96 hops."""

# === Network ===

EMBEDDING_SIZE: Final = 128
INIT_STDDEV: Final = 0.01
"""Standard deviation of the truncated-normal initializer of kernels; biases are zero."""
LEARNING_RATE: Final = 1e-4
ADAM_EPSILON: Final = 1e-8

SLIM_SCOPES: Final = {
    "conv1": "vggish/conv1",
    "conv2": "vggish/conv2",
    "conv3_1": "vggish/conv3/conv3_1",
    "conv3_2": "vggish/conv3/conv3_2",
    "conv4_1": "vggish/conv4/conv4_1",
    "conv4_2": "vggish/conv4/conv4_2",
    "fc1_1": "vggish/fc1/fc1_1",
    "fc1_2": "vggish/fc1/fc1_2",
    "fc2": "vggish/fc2",
}
"""Keras layer -> TF-Slim scope; each holds a kernel and a bias."""

# === Post-processing ===

PCA_EIGEN_VECTORS: Final = "pca_eigen_vectors"
PCA_MEANS: Final = "pca_means"
QUANTIZE_MIN: Final = -2.0
QUANTIZE_MAX: Final = 2.0

# === Published files ===


class PublishedFile(NamedTuple):
    """A file under `PUBLISHED_URL` and the checksum that identifies it, as algorithm:digest."""

    name: str
    checksum: str


AUDIOSET: Final = "audioset"
"""The name of the published files, for arguments that accept weights or PCA parameters."""
PUBLISHED_URL: Final = "https://storage.googleapis.com/audioset/"
CHECKPOINT: Final = PublishedFile("vggish_model.ckpt", "md5:d1c7011e6366aa34176bb05c705e31a8")
PCA_PARAMS: Final = PublishedFile(
    "vggish_pca_params.npz", "sha256:4d878af3e306defbfb37095365aa7e5a6cecb86bad13e859e626151c4e6a8b9d"
)

# === Published smoke test: 3 s of a 1 kHz sine, each figure within 10% ===

SMOKE_TEST_HZ: Final = 1_000.0
SMOKE_TEST_SECONDS: Final = 3
SMOKE_TEST_TOLERANCE: Final = 0.1
SMOKE_TEST_EMBEDDING_MEAN: Final = 0.000657
SMOKE_TEST_EMBEDDING_STDDEV: Final = 0.343
SMOKE_TEST_POSTPROCESSED_MEAN: Final = 126.0
SMOKE_TEST_POSTPROCESSED_STDDEV: Final = 89.3
