import numpy as np
import pytest
import soundfile
import tensorflow as tf
from tensorflow import keras

import vggish_keras as vk
from vggish_keras import audio, dataset as dataset_module

SPEAKERS = ("ann", "bob", "cid")


def tone(hz, seconds, sample_rate=16_000):
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * sample_rate)) / sample_rate)


@pytest.fixture
def folder(tmp_path):
    """Two classes of recordings by three speakers, of different lengths, sample rates, channels and formats."""
    for label, hz in (("high", 2_000), ("low", 200)):
        (tmp_path / label / "deep").mkdir(parents=True)
        for index, speaker in enumerate(SPEAKERS):
            for take in range(4):
                seconds, rate = 0.5 + 0.3 * take, (8_000, 16_000, 44_100)[index]
                samples = tone(hz, seconds, rate)
                suffix = ("wav", "flac")[take % 2]
                stereo = np.stack([samples, samples], axis=1) if take == 3 else samples
                soundfile.write(
                    tmp_path / label / ("deep" if take else "") / f"{speaker}_{take}.{suffix}", stereo, rate
                )
    (tmp_path / ".cache").mkdir()
    return tmp_path


def speaker(path):
    return path.name.split("_")[0]


def clips(dataset):
    """The samples of each clip, without padding, and its label."""
    found = []
    for inputs, labels in dataset.as_numpy_iterator():
        for waveform, samples, label in zip(inputs["waveform"], inputs["num_samples"], labels, strict=True):
            assert not np.any(waveform[samples:])
            found.append((waveform[:samples], label))
    return found


# === Clips and labels ===


def test_one_subfolder_per_class(folder):
    dataset = vk.waveform_dataset(folder, batch_size=5)
    assert dataset.class_names == ["high", "low"]
    inputs, labels = dataset.element_spec
    assert inputs["waveform"] == tf.TensorSpec([None, None], tf.float32)
    assert inputs["num_samples"] == tf.TensorSpec([None], tf.int32)
    assert labels == tf.TensorSpec([None], tf.int32)
    assert len(dataset) == 5  # batches, for 24 clips
    paths = sorted(folder.glob("high/**/*_*")) + sorted(folder.glob("low/**/*_*"))
    got = clips(dataset)
    assert len(got) == 24
    for (waveform, label), path in zip(got, paths, strict=True):
        opened = audio.open_audio(path)
        expected = vk.resample.resample(np.concatenate(list(opened.blocks)), opened.sample_rate)
        np.testing.assert_array_equal(waveform, expected)
        assert dataset.class_names[label] == path.relative_to(folder).parts[0]


def test_paths_with_labels(folder):
    paths = [folder / "low" / "deep" / "ann_2.wav", str(folder / "high" / "deep" / "bob_2.wav")]
    for labels, names in ((["b", "a"], ["a", "b"]), ([1, 0], ["0", "1"]), (np.array([1, 0]), ["0", "1"])):
        dataset = vk.waveform_dataset(paths, labels)
        assert dataset.class_names == names
        assert [label for _, label in clips(dataset)] == [1, 0]
    dataset = vk.waveform_dataset(paths, ["b", "a"], class_names=["z", "b", "a"])
    assert [label for _, label in clips(dataset)] == [1, 2]
    assert vk.waveform_dataset(folder, class_names=["low"]).class_names == ["low"]


@pytest.mark.parametrize(("crop", "start"), [("start", 0), ("center", 8_000)])
def test_clips_are_cropped_and_padded_to_a_length(tmp_path, crop, start):
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, 32_000).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", waveform, 16_000, "FLOAT")
    soundfile.write(tmp_path / "short.wav", waveform[:100], 16_000, "FLOAT")
    paths = [tmp_path / "long.wav", tmp_path / "short.wav"]
    dataset = vk.waveform_dataset(paths, [0, 0], seconds=1, crop=crop)
    assert dataset.element_spec[0]["waveform"].shape.as_list() == [None, 16_000]
    (long, _), (short, _) = clips(dataset)
    np.testing.assert_array_equal(long, waveform[start : start + 16_000])
    np.testing.assert_array_equal(short, waveform[:100])


def test_random_crops_differ_between_epochs_but_not_between_runs(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.arange(32_000) / 2**15, 16_000)
    runs = []
    for _ in range(2):
        dataset = vk.waveform_dataset([tmp_path / "x.wav"], [0], seconds=0.5, seed=3)
        starts = [int(clips(dataset)[0][0][0] * 2**15) for _ in range(4)]
        assert len(set(starts)) > 1
        assert all(0 <= start <= 24_000 for start in starts)
        runs.append(starts)
    assert runs[0] == runs[1]


@pytest.mark.parametrize("cache", [True, False, "file"])
def test_shuffled_orders_differ_between_epochs_but_not_between_runs(folder, tmp_path, cache):
    if cache == "file":
        cache = tmp_path / "cache"
    orders = []
    for _ in range(2):
        dataset = vk.waveform_dataset(folder, shuffle=True, seed=1, cache=cache)
        orders += [[(len(waveform), label) for waveform, label in clips(dataset)] for _ in range(2)]
    assert orders[0] == orders[2]
    assert orders[1] == orders[3]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])
    unshuffled = [(len(waveform), label) for waveform, label in clips(vk.waveform_dataset(folder))]
    assert orders[0] != unshuffled


def test_classes_are_mixed_in_a_cache_larger_than_the_buffer(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_module, "_MAX_SHUFFLED", 10)
    for label in "ab":
        (tmp_path / label).mkdir()
        for index in range(100):
            soundfile.write(tmp_path / label / f"{index}.wav", np.ones(100), 16_000)
    dataset = vk.waveform_dataset(tmp_path, shuffle=True, cache=tmp_path / ".cache")
    labels = [label for _, label in clips(dataset)]
    assert 30 < sum(labels[:100]) < 70


def test_cache_belongs_to_its_clips(folder, tmp_path):
    """Subsets, other channels and replaced files do not get what was cached before."""

    def lengths(**options):
        dataset = vk.waveform_dataset(folder, cache=tmp_path / ".cache" / "clips", group=speaker, **options)
        return sorted(len(waveform) for waveform, _ in clips(dataset))

    split = {"validation_groups": {"ann"}}
    training = lengths(**split, subset="training")
    validation = lengths(**split, subset="validation")
    assert (len(training), len(validation)) == (16, 8)
    assert lengths(**split, subset="training") == training
    replaced = next(folder.glob("high/ann_0.*"))
    soundfile.write(replaced, np.ones(2_000) / 2, 8_000)
    assert validation[0] == 8_000
    assert lengths(**split, subset="validation") == [4_000, *validation[1:]]


@pytest.mark.parametrize(("cache", "decoded"), [(True, 1), (False, 3)])
def test_cached_files_are_decoded_once(folder, monkeypatch, cache, decoded):
    dataset = vk.waveform_dataset(folder, cache=cache)
    opened = []
    read = dataset_module.read_waveform
    monkeypatch.setattr(dataset_module, "read_waveform", lambda *args: opened.append(args) or read(*args))
    for _ in range(3):
        clips(dataset)
    assert len(opened) == 24 * decoded


def test_a_single_channel_can_be_chosen(tmp_path):
    (tmp_path / "class").mkdir()
    stereo = np.random.default_rng(0).uniform(-0.5, 0.5, (20_000, 2)).astype(np.float32)
    soundfile.write(tmp_path / "class" / "x.wav", stereo, 16_000, subtype="FLOAT")
    ((waveform, _),) = clips(vk.waveform_dataset(tmp_path, channels=1))
    np.testing.assert_array_equal(waveform, stereo[:, 1])
    with pytest.raises(ValueError, match="channels must be"):
        vk.waveform_dataset(tmp_path, channels="left")


def test_files_that_are_not_audio_are_counted(folder):
    (folder / "low" / "notes.txt").write_text("no audio")
    with pytest.warns(UserWarning, match=r"left out: 1 \.txt"):
        vk.waveform_dataset(folder)


@pytest.mark.reference
def test_unusual_recordings_are_read_completely(reference, tmp_path):
    (tmp_path / "odd").symlink_to(reference / "odd_recordings")
    with pytest.warns(UserWarning, match=r"1 of 5 files cannot be read: .*endless_list\.wav"):
        dataset = vk.waveform_dataset(tmp_path, on_bad_file="skip")
    seconds = sorted(len(waveform) / 16_000 for waveform, _ in clips(dataset))
    np.testing.assert_allclose(seconds, [6.0, 6.02, 10.01, 40.072], atol=0.01)


# === Splits ===


def test_a_share_is_held_out(folder):
    parts = [vk.waveform_dataset(folder, validation_split=0.25, subset=subset) for subset in ("training", "validation")]
    training, validation = ([waveform.tobytes() for waveform, _ in clips(part)] for part in parts)
    assert (len(training), len(validation)) == (18, 6)
    assert parts[0].class_names == parts[1].class_names
    everything = [waveform.tobytes() for waveform, _ in clips(vk.waveform_dataset(folder))]
    assert sorted(training + validation) == sorted(everything)


@pytest.mark.parametrize(
    ("validation", "held_out"),
    [({"validation_groups": ["bob"]}, 1), ({"validation_split": 0.3}, 1), ({"validation_split": 0.6}, 2)],
)
def test_groups_are_not_split(folder, validation, held_out):
    seen = {}
    for subset in ("training", "validation"):
        paths = []

        def group(path, paths=paths):
            paths.append(path)
            return speaker(path)

        part = vk.waveform_dataset(folder, subset=subset, group=group, **validation)
        lengths = {len(waveform) for waveform, _ in clips(part)}
        assert lengths
        seen[subset] = len(clips(part))
        assert {speaker(path) for path in paths} == set(SPEAKERS)
    assert seen == {"training": 8 * (3 - held_out), "validation": 8 * held_out}


# === Invalid data ===


def test_unreadable_files_are_named_before_training(folder):
    (folder / "low" / "bad.wav").write_bytes(b"no audio")
    (folder / "low" / "empty.wav").touch()
    with pytest.raises(
        ValueError, match=r"^2 of 26 files cannot be read: .*bad\.wav cannot be read as audio.*empty\.wav"
    ):
        vk.waveform_dataset(folder)
    with pytest.warns(UserWarning, match=r"2 of 26 files cannot be read: .*bad\.wav.*; .*empty\.wav"):
        dataset = vk.waveform_dataset(folder, on_bad_file="skip")
    assert len(clips(dataset)) == 24


def test_file_without_samples_is_skipped_with_a_warning(folder):
    soundfile.write(folder / "low" / "short.wav", np.zeros(1), 44_100)
    dataset = vk.waveform_dataset(folder, on_bad_file="skip")
    with pytest.warns(UserWarning, match=r"skipped: .*short\.wav has no samples at 16 kHz"):
        assert len(clips(dataset)) == 24


def test_only_the_first_of_many_unreadable_files_are_named(tmp_path):
    (tmp_path / "class").mkdir()
    for index in range(7):
        (tmp_path / "class" / f"{index}.wav").touch()
    with pytest.raises(ValueError, match=r"^7 of 7 files cannot be read: .*0\.wav.*4\.wav.*; and 2 more$"):
        vk.waveform_dataset(tmp_path)
    with pytest.raises(ValueError, match=r"^7 of 7 files cannot be read: .*0\.wav.*6\.wav[^;]*$"):
        vk.waveform_dataset(tmp_path, on_bad_file="skip")


def test_file_that_is_damaged_after_its_start(folder):
    path = folder / "low" / "long.flac"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 160_000), 16_000)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    path.write_bytes(content)
    with pytest.raises(tf.errors.OpError, match=r"long\.flac"):
        clips(vk.waveform_dataset(folder))
    dataset = vk.waveform_dataset(folder, on_bad_file="skip")
    with pytest.warns(UserWarning, match=r"skipped: .*long\.flac"):
        assert len(clips(dataset)) == 24


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop": "end"}, "crop must be one of .* got 'end'"),
        ({"on_bad_file": "ignore"}, "on_bad_file must be one of"),
        ({"seconds": 0}, "seconds must be positive, got 0"),
        ({"labels": [0]}, "labels must be None when source is a folder"),
        ({"class_names": ["high", "middle"]}, "has no subfolder for class 'middle'"),
        ({"subset": "training"}, "subset requires validation_split or validation_groups"),
        ({"validation_split": 0.2}, "subset must be one of .* got None"),
        ({"validation_groups": ["ann"]}, "subset must be one of .* got None"),
        ({"validation_split": 1.5, "subset": "training"}, "validation_split must be between 0 and 1, got 1.5"),
        ({"validation_split": 0.2, "validation_groups": ["ann"]}, "mutually exclusive"),
        ({"validation_groups": ["dan"], "subset": "training"}, "validation_groups requires group"),
        ({"validation_groups": ["dan"], "subset": "training", "group": speaker}, "unknown validation group 'dan': the"),
        (
            {"validation_groups": SPEAKERS, "subset": "training", "group": speaker},
            "the training subset is empty: validation uses 3 of 3 groups",
        ),
        (
            {"validation_groups": [], "subset": "validation", "group": speaker},
            "the validation subset is empty: validation uses 0 of 3 groups",
        ),
    ],
)
def test_invalid_arguments_raise(folder, change, message):
    with pytest.raises(ValueError, match=message):
        vk.waveform_dataset(folder, **change)


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        (None, None, r"expected 1 label \(one per file\), got none"),
        ([0, 1], None, r"expected 1 label \(one per file\), got 2"),
        ([2], ["a", "b"], "labels must be between 0 and 1, got 2 to 2"),
        ([-1], None, "labels must be between 0 and"),
        (["c"], ["a", "b"], "label 'c' is not one of the classes"),
        ([0.5], None, "labels must be class names or integer indices, got 0.5"),
    ],
)
def test_invalid_labels_raise(folder, labels, names, message):
    with pytest.raises(ValueError, match=message):
        vk.waveform_dataset([folder / "low" / "ann_0.wav"], labels, class_names=names)


def test_folders_without_audio_raise(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder .*missing does not exist"):
        vk.waveform_dataset(tmp_path / "missing")
    with pytest.raises(ValueError, match="has no subfolders: expected one per class"):
        vk.waveform_dataset(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no audio files in .*empty"):
        vk.waveform_dataset(tmp_path)
    with pytest.raises(ValueError, match="source is empty"):
        vk.waveform_dataset([])


# === Training ===


@pytest.mark.filterwarnings("ignore:.*does not support masking:UserWarning")
def test_a_classifier_learns_from_the_dataset(folder):
    """Uses the front end without the network: the log-mel spectrogram shows the pitch of a tone."""
    keras.utils.set_random_seed(0)
    dataset = vk.waveform_dataset(folder, batch_size=8, shuffle=True)
    inputs = {
        "waveform": keras.Input((None,), name="waveform"),
        "num_samples": keras.Input((), dtype="int32", name="num_samples"),
    }
    examples = vk.LogMelExamples(padding="same")(inputs)
    pooled = keras.layers.GlobalAveragePooling1D()(keras.layers.Reshape((-1, 96 * 64))(examples))
    model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(pooled))
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(dataset, epochs=20, shuffle=False, verbose=0)
    assert model.evaluate(dataset, verbose=0)[1] == 1
