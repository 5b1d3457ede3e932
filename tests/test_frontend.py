import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from tests import published
from vggish_keras import LogMelExamples
from vggish_keras.framing import count_examples, hop_to_frames

pytestmark = pytest.mark.keras

PURE_TONES = ("sine", "sweep", "offset")


def bound(name):
    return 1e-3 if name in PURE_TONES else 1e-4


@pytest.mark.parametrize("hop_seconds", [0.96, 0.48, 0.1, 1.5])
def test_equals_the_published_front_end(sounds, hop_seconds):
    layer = LogMelExamples(hop_seconds)
    for name, waveform in sounds.items():
        expected = published.log_mel_examples(waveform, round(hop_seconds * 100))
        got = layer(waveform[np.newaxis])
        assert got.dtype == tf.float32
        np.testing.assert_allclose(got[0], expected, atol=bound(name), rtol=0, err_msg=name)


@pytest.mark.reference
def test_equals_the_published_code(reference):
    data = np.load(reference / "log_mel.npz")
    names = {key.split("/")[0] for key in data.files}
    assert len(names) == 13
    for name in names:
        got = LogMelExamples()(data[f"{name}/waveform"][np.newaxis])[0]
        # impulses and a square wave are tones too, but easy ones
        tone = name in ("sine_1khz", "chirp", "dc")
        np.testing.assert_allclose(got, data[f"{name}/examples"], atol=1e-3 if tone else 1e-4, rtol=0, err_msg=name)
    for name, hop in (("chirp", 0.48), ("speech", 0.10)):
        got = LogMelExamples(hop)(data[f"{name}/waveform"][np.newaxis])[0]
        np.testing.assert_allclose(got, data[f"{name}/examples_hop_{hop:.2f}"], atol=bound("sine"), rtol=0)


@pytest.mark.parametrize(
    ("samples", "valid", "same"),
    [(0, 0, 1), (399, 0, 1), (15_599, 0, 1), (15_600, 1, 1), (15_601, 1, 2), (30_960, 2, 2), (30_961, 2, 3)],
)
def test_number_of_examples(samples, valid, same):
    for padding, expected in (("valid", valid), ("same", same)):
        assert LogMelExamples(padding=padding)(np.zeros((2, samples), "f")).shape == (2, expected, 96, 64)
        assert count_examples(samples, 15_360, padding) == expected
        assert count_examples(tf.constant([samples]), 15_360, padding).numpy().tolist() == [expected]


@pytest.mark.parametrize("hop_seconds", [0.01, 0.5, 0.96, 2.0, 3.7])
def test_same_padding_covers_every_sample_that_a_hop_allows(hop_seconds):
    hop = round(hop_seconds * 16_000)
    for samples in (1, 15_600, 15_601, 32_000, 32_001, 100_000):
        starts = np.arange(count_examples(samples, hop, "same")) * hop
        assert starts[-1] < samples
        assert starts[-1] + max(15_600, hop) >= samples
        if len(starts) > 1:
            assert starts[-2] + max(15_600, hop) < samples


def test_same_padding_appends_silence(sounds):
    short = sounds["noise"][:20_000]
    padded = np.pad(short, (0, 30_960 - len(short)))
    got = LogMelExamples(padding="same")(short[np.newaxis])
    np.testing.assert_allclose(got[0], published.log_mel_examples(padded), atol=1e-4, rtol=0)


def test_empty_batches():
    for padding in ("valid", "same"):
        assert LogMelExamples(padding=padding)(np.zeros((0, 20_000), "f")).shape[0] == 0


def test_lengths_cut_each_clip_and_mask_the_rest(sounds):
    batch = np.full((3, 48_000), np.nan, np.float32)  # what lies beyond a clip must not matter
    lengths = [48_000, 20_000, 0]
    for clip, length in zip(batch, lengths, strict=True):
        clip[:length] = sounds["noise"][:length]
    for padding, counts in (("valid", [3, 1, 0]), ("same", [4, 2, 1])):
        layer = LogMelExamples(padding=padding)
        inputs = {"waveform": tf.constant(batch), "num_samples": tf.constant(lengths)}
        got = layer(inputs)
        mask = layer.compute_mask(inputs).numpy()
        assert mask.sum(axis=1).tolist() == counts
        for clip, length, count in zip(got, lengths, counts, strict=True):
            alone = layer(sounds["noise"][np.newaxis, :length])[0]
            np.testing.assert_allclose(clip[:count], alone, atol=1e-5)


@pytest.mark.parametrize("lengths", [[-1, 5], [5, 20_001]])
def test_lengths_outside_the_waveform_raise(lengths):
    inputs = {"waveform": tf.zeros((2, 20_000)), "num_samples": tf.constant(lengths)}
    with pytest.raises(tf.errors.InvalidArgumentError, match="num_samples must lie between 0 and the length"):
        LogMelExamples()(inputs)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_in_a_graph(sounds, padding, jit_compile):
    layer = LogMelExamples(padding=padding)
    batch = np.stack([sounds["noise"], sounds["rumble"]])
    expected = layer(batch)
    static = tf.function(layer, input_signature=[tf.TensorSpec((2, 48_000))], jit_compile=jit_compile)
    np.testing.assert_allclose(static(batch), expected, atol=1e-4)
    assert static.get_concrete_function().output_shapes == expected.shape
    if not jit_compile:
        dynamic = tf.function(layer, input_signature=[tf.TensorSpec((None, None))])
        np.testing.assert_allclose(dynamic(batch), expected, atol=1e-5)


def test_in_tf_data(sounds):
    dataset = tf.data.Dataset.from_tensor_slices([sounds["noise"], sounds["rumble"]]).batch(2).map(LogMelExamples())
    np.testing.assert_allclose(next(iter(dataset))[0], published.log_mel_examples(sounds["noise"]), atol=1e-4)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_gradient_reaches_the_waveform_and_is_finite_in_silence(sounds, jit_compile):
    layer = LogMelExamples()

    @tf.function(jit_compile=jit_compile)
    def gradient(waveform):
        with tf.GradientTape() as tape:
            tape.watch(waveform)
            loss = tf.reduce_sum(layer(waveform))
        return tape.gradient(loss, waveform)

    assert np.all(np.isfinite(gradient(tf.zeros((1, 16_000)))))
    waveform = sounds["noise"][np.newaxis, :15_600].astype(np.float64)
    direction = np.random.default_rng(2).standard_normal(waveform.shape)
    step = 1e-6
    ahead, behind = (published.log_mel_examples((waveform + sign * step * direction)[0]).sum() for sign in (1, -1))
    slope = np.sum(gradient(tf.constant(waveform, tf.float32)) * direction)
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * step), rtol=1e-3)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_float32_under_any_policy(sounds, policy):
    keras.mixed_precision.set_global_policy(policy)
    try:
        got = LogMelExamples()(sounds["noise"][np.newaxis])
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert got.dtype == tf.float32
    np.testing.assert_allclose(got[0], published.log_mel_examples(sounds["noise"]), atol=1e-4)


def test_configuration_round_trip():
    layer = LogMelExamples(0.5, "same", name="front")
    again = LogMelExamples.from_config(layer.get_config())
    assert (again.hop_seconds, again.padding, again.name) == (0.5, "same", "front")


@pytest.mark.parametrize("hop_seconds", [0, -0.96, 0.005, 0.965, float("nan"), float("inf")])
def test_hop_must_be_a_multiple_of_10_ms(hop_seconds):
    with pytest.raises(ValueError, match=r"multiple of 0\.01 .* got"):
        LogMelExamples(hop_seconds)


def test_hops_that_floats_do_not_hold_exactly():
    assert [hop_to_frames(frames / 100) for frames in range(1, 1000)] == list(range(1, 1000))
    assert hop_to_frames(np.float32(0.96)) == 96


def test_invalid_input_raises():
    with pytest.raises(ValueError, match=r"padding must be one of .* got 'full'"):
        LogMelExamples(padding="full")
    with pytest.raises(TypeError, match=r"number of seconds, got '0\.96'"):
        LogMelExamples("0.96")
    with pytest.raises(ValueError, match=r"expected waveforms of shape \[batch, samples\]"):
        LogMelExamples()(tf.zeros((16_000,)))
    with pytest.raises(TypeError, match="got int16"):
        LogMelExamples()(tf.zeros((1, 16_000), tf.int16))
    with pytest.raises(ValueError, match='expected "waveform" and "num_samples"'):
        LogMelExamples()({"waveform": tf.zeros((1, 16_000))})
