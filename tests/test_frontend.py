import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from tests import published
from vggish_keras import LogMelExamples
from vggish_keras.framing import PADDINGS, count_examples, hop_to_frames

pytestmark = pytest.mark.keras

BOUND = 2e-6


def assert_published(got, waveform, hop_frames=96, name=""):
    """Compares the examples of a clip with those of the published front end."""
    expected = published.log_mel_examples(waveform, hop_frames)
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=BOUND, rtol=0, err_msg=name)


@pytest.fixture
def batch(sounds):
    """Clips of equal length: noise, and tones that leave most bands quiet, [4, 48000]."""
    return np.stack([sounds[name] for name in ("noise", "rumble", "sine", "sweep")])


def assert_batch_published(got, batch):
    for clip, waveform in zip(np.asarray(got), batch, strict=True):
        assert_published(clip, waveform)


@pytest.mark.parametrize("hop_seconds", [0.96, 0.48, 0.1, 1.5])
def test_equals_the_published_front_end(sounds, hop_seconds):
    layer = LogMelExamples(hop_seconds)
    for name, waveform in sounds.items():
        assert_published(layer(waveform[np.newaxis]).numpy()[0], waveform, round(hop_seconds * 100), name)


@pytest.mark.reference
def test_equals_the_published_code(reference):
    data = np.load(reference / "log_mel.npz")
    names = {key.split("/")[0] for key in data.files}
    assert len(names) == 13
    for name in names:
        got = LogMelExamples(padding="valid")(data[f"{name}/waveform"][np.newaxis])[0]
        np.testing.assert_allclose(got, data[f"{name}/examples"], atol=BOUND, rtol=0, err_msg=name)
    for name, hop in (("chirp", 0.48), ("speech", 0.10)):
        got = LogMelExamples(hop)(data[f"{name}/waveform"][np.newaxis])[0]
        np.testing.assert_allclose(got, data[f"{name}/examples_hop_{hop:.2f}"], atol=BOUND, rtol=0)


@pytest.mark.parametrize(
    ("samples", "short", "valid", "same"),
    [
        (0, 1, 0, 1),
        (399, 1, 0, 1),
        (15_599, 1, 0, 1),
        (15_600, 1, 1, 1),
        (15_601, 1, 1, 2),
        (30_960, 2, 2, 2),
        (30_961, 2, 2, 3),
        (160_000, 10, 10, 11),
    ],
)
def test_number_of_examples(samples, short, valid, same):
    for padding, expected in (("short", short), ("valid", valid), ("same", same)):
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


@pytest.mark.parametrize(("padding", "samples", "padded"), [("same", 20_000, 30_960), ("short", 9_000, 15_600)])
def test_padding_appends_silence(sounds, padding, samples, padded):
    clip = sounds["noise"][:samples]
    got = LogMelExamples(padding=padding)(clip[np.newaxis]).numpy()[0]
    assert_published(got, np.pad(clip, (0, padded - samples)))


def test_short_padding_uses_whole_examples_as_published(sounds):
    clip = sounds["noise"][:20_000]
    np.testing.assert_array_equal(LogMelExamples()(clip[np.newaxis]), LogMelExamples()(clip[np.newaxis, :15_600]))


def test_empty_batches():
    for padding in PADDINGS:
        assert LogMelExamples(padding=padding)(np.zeros((0, 20_000), "f")).shape[0] == 0


def test_lengths_cut_each_clip_and_mask_the_rest(sounds):
    batch = np.full((3, 48_000), np.nan, np.float32)  # what lies beyond a clip must not matter
    lengths = [48_000, 20_000, 0]
    for clip, length in zip(batch, lengths, strict=True):
        clip[:length] = sounds["noise"][:length]
    for padding, counts in (("short", [3, 1, 1]), ("valid", [3, 1, 0]), ("same", [4, 2, 1])):
        layer = LogMelExamples(padding=padding)
        inputs = {"waveform": tf.constant(batch), "num_samples": tf.constant(lengths)}
        got = layer(inputs)
        mask = layer.compute_mask(inputs).numpy()
        assert mask.sum(axis=1).tolist() == counts
        for clip, length, count in zip(got, lengths, counts, strict=True):
            alone = layer(sounds["noise"][np.newaxis, :length])[0]
            np.testing.assert_allclose(clip[:count], alone, atol=BOUND, rtol=0)


@pytest.mark.parametrize("lengths", [[-1, 5], [5, 20_001]])
def test_lengths_outside_the_waveform_raise(lengths):
    inputs = {"waveform": tf.zeros((2, 20_000)), "num_samples": tf.constant(lengths)}
    with pytest.raises(tf.errors.InvalidArgumentError, match="num_samples must lie between 0 and the length"):
        LogMelExamples()(inputs)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_in_a_graph(batch, jit_compile):
    layer = LogMelExamples()
    static = tf.function(layer, input_signature=[tf.TensorSpec(batch.shape)], jit_compile=jit_compile)
    assert_batch_published(static(batch), batch)
    assert static.get_concrete_function().output_shapes == (4, 3, 96, 64)
    if not jit_compile:
        dynamic = tf.function(layer, input_signature=[tf.TensorSpec((None, None))])
        assert_batch_published(dynamic(batch), batch)
        assert dynamic.get_concrete_function().output_shapes.as_list() == [None, None, 96, 64]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_same_padding_in_a_graph(batch, jit_compile):
    layer = LogMelExamples(padding="same")
    padded = np.pad(batch, ((0, 0), (0, 15_360 * 3 + 15_600 - batch.shape[1])))
    static = tf.function(layer, input_signature=[tf.TensorSpec(batch.shape)], jit_compile=jit_compile)
    assert_batch_published(static(batch), padded)
    if not jit_compile:
        dynamic = tf.function(layer, input_signature=[tf.TensorSpec((None, None))])
        assert_batch_published(dynamic(batch), padded)


def test_in_tf_data(batch):
    dataset = tf.data.Dataset.from_tensor_slices(batch).batch(4).map(LogMelExamples())
    assert_batch_published(next(iter(dataset)), batch)


def test_in_a_saved_model(batch, tmp_path):
    module = tf.Module()
    module.log_mel = tf.function(LogMelExamples(), [tf.TensorSpec([None, None])])
    tf.saved_model.save(module, str(tmp_path))
    assert_batch_published(tf.saved_model.load(str(tmp_path)).log_mel(batch), batch)


@pytest.fixture(params=[False, True], ids=["plain", "xla"])
def gradient(request):
    """Returns the gradient of the sum of a batch's examples."""
    layer = LogMelExamples()

    @tf.function(jit_compile=request.param)
    def gradient(waveform):
        with tf.GradientTape() as tape:
            tape.watch(waveform)
            loss = tf.reduce_sum(layer(waveform))
        return tape.gradient(loss, waveform)

    return gradient


def test_gradient_is_finite_in_silence(gradient, sounds):
    assert not np.any(gradient(tf.zeros((1, 16_000))))
    for name in ("offset", "clicks"):  # with silent frames or bands
        assert np.all(np.isfinite(gradient(tf.constant(sounds[name][np.newaxis, :16_000]))))


@pytest.mark.parametrize("name", ["noise", "rumble"])
def test_gradient_is_the_slope(gradient, sounds, name):
    waveform = sounds[name][:15_600].astype(np.float64)
    direction = np.random.default_rng(2).standard_normal(15_600)
    step = 1e-6
    ahead, behind = (published.log_mel_examples(waveform + sign * step * direction).sum() for sign in (1, -1))
    slope = np.sum(gradient(tf.constant(waveform[np.newaxis], tf.float32))[0] * direction)
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * step), rtol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_exact_float32_under_any_policy(batch, policy):
    keras.mixed_precision.set_global_policy(policy)
    try:
        got = LogMelExamples()(batch)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert_batch_published(got, batch)


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
