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
    """Two classes of three speakers' recordings: different lengths, rates, channels and formats."""
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
    """Each clip's own samples and label."""
    found = []
    for inputs, labels in dataset.as_numpy_iterator():
        for waveform, samples, label in zip(inputs["waveform"], inputs["num_samples"], labels, strict=True):
            assert not np.any(waveform[samples:])
            found.append((waveform[:samples], label))
    return found


# === What it gives ===


def test_a_folder_for_each_class(folder):
    dataset = vk.waveform_dataset(folder, batch_size=5)
    assert dataset.class_names == ["high", "low"]
    inputs, labels = dataset.element_spec
    assert inputs["waveform"] == tf.TensorSpec([None, None], tf.float32)
    assert inputs["num_samples"] == tf.TensorSpec([None], tf.int32)
    assert labels == tf.TensorSpec([None], tf.int32)
    assert len(dataset) == 5  # batches of 24 clips
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
def test_clips_are_cut_and_padded_to_a_length(tmp_path, crop, start):
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, 32_000).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", waveform, 16_000, "FLOAT")
    soundfile.write(tmp_path / "short.wav", waveform[:100], 16_000, "FLOAT")
    paths = [tmp_path / "long.wav", tmp_path / "short.wav"]
    dataset = vk.waveform_dataset(paths, [0, 0], seconds=1, crop=crop)
    assert dataset.element_spec[0]["waveform"].shape.as_list() == [None, 16_000]
    (long, _), (short, _) = clips(dataset)
    np.testing.assert_array_equal(long, waveform[start : start + 16_000])
    np.testing.assert_array_equal(short, waveform[:100])


def test_random_crops_differ_from_time_to_time_but_not_from_run_to_run(tmp_path):
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
def test_shuffling(folder, tmp_path, cache):
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


@pytest.mark.parametrize(("cache", "decoded"), [(True, 1), (False, 3)])
def test_files_are_decoded_once_if_they_are_cached(folder, monkeypatch, cache, decoded):
    dataset = vk.waveform_dataset(folder, cache=cache)
    opened = []
    read = dataset_module.read_waveform
    monkeypatch.setattr(dataset_module, "read_waveform", lambda *of: opened.append(of) or read(*of))
    for _ in range(3):
        clips(dataset)
    assert len(opened) == 24 * decoded


def test_one_channel_is_taken(tmp_path):
    (tmp_path / "class").mkdir()
    stereo = np.random.default_rng(0).uniform(-0.5, 0.5, (20_000, 2)).astype(np.float32)
    soundfile.write(tmp_path / "class" / "x.wav", stereo, 16_000, subtype="FLOAT")
    ((waveform, _),) = clips(vk.waveform_dataset(tmp_path, channels=1))
    np.testing.assert_array_equal(waveform, stereo[:, 1])
    with pytest.raises(ValueError, match="channels must be"):
        vk.waveform_dataset(tmp_path, channels="left")


def test_other_files_are_counted(folder):
    (folder / "low" / "notes.txt").write_text("no audio")
    with pytest.warns(UserWarning, match=r"left out: 1 \.txt"):
        vk.waveform_dataset(folder)


@pytest.mark.reference
def test_odd_recordings_are_read_whole(reference, tmp_path):
    (tmp_path / "odd").symlink_to(reference / "odd_recordings")
    with pytest.warns(UserWarning, match=r"1 of 5 files cannot be read: .*endless_list\.wav"):
        dataset = vk.waveform_dataset(tmp_path, on_bad_file="skip")
    seconds = sorted(len(waveform) / 16_000 for waveform, _ in clips(dataset))
    np.testing.assert_allclose(seconds, [6.0, 6.02, 10.01, 40.072], atol=0.01)


# === Splits ===


def test_a_share_is_held_out(folder):
    parts = [vk.waveform_dataset(folder, validation=0.25, subset=subset) for subset in ("training", "validation")]
    training, validation = ([waveform.tobytes() for waveform, _ in clips(part)] for part in parts)
    assert (len(training), len(validation)) == (18, 6)
    assert parts[0].class_names == parts[1].class_names
    everything = [waveform.tobytes() for waveform, _ in clips(vk.waveform_dataset(folder))]
    assert sorted(training + validation) == sorted(everything)


@pytest.mark.parametrize(("validation", "held_out"), [(["bob"], 1), (0.3, 1), (0.6, 2)])
def test_groups_stay_together(folder, validation, held_out):
    seen = {}
    for subset in ("training", "validation"):
        paths = []

        def group(path, paths=paths):
            paths.append(path)
            return speaker(path)

        part = vk.waveform_dataset(folder, validation=validation, subset=subset, group=group)
        lengths = {len(waveform) for waveform, _ in clips(part)}
        assert lengths
        seen[subset] = len(clips(part))
        assert {speaker(path) for path in paths} == set(SPEAKERS)
    assert seen == {"training": 8 * (3 - held_out), "validation": 8 * held_out}


# === Bad data ===


def test_bad_files_are_named_before_the_first_step(folder):
    (folder / "low" / "bad.wav").write_bytes(b"no audio")
    (folder / "low" / "empty.wav").touch()
    with pytest.raises(
        ValueError, match=r"^2 of 26 files cannot be read: .*bad\.wav cannot be read as audio.*empty\.wav"
    ):
        vk.waveform_dataset(folder)
    with pytest.warns(UserWarning, match=r"2 of 26 files cannot be read: .*bad\.wav.*; .*empty\.wav"):
        dataset = vk.waveform_dataset(folder, on_bad_file="skip")
    assert len(clips(dataset)) == 24


def test_a_file_that_is_bad_further_on(folder):
    path = folder / "low" / "long.flac"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 160_000), 16_000)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    path.write_bytes(content)
    with pytest.raises(tf.errors.OpError, match=r"long\.flac"):
        clips(vk.waveform_dataset(folder))
    dataset = vk.waveform_dataset(folder, on_bad_file="skip")
    with pytest.warns(UserWarning, match=r"left out: .*long\.flac"):
        assert len(clips(dataset)) == 24


def test_clips_too_short_for_an_example_are_told(tmp_path):
    soundfile.write(tmp_path / "short.wav", np.zeros(15_599), 16_000)
    with pytest.warns(UserWarning, match="all clips are shorter than an example"):
        vk.waveform_dataset([tmp_path / "short.wav"], [0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop": "end"}, "crop must be one of .* got 'end'"),
        ({"on_bad_file": "ignore"}, "on_bad_file must be one of"),
        ({"seconds": 0}, "seconds must be positive, got 0"),
        ({"labels": [0]}, "the labels of a folder are the names of the folders in it"),
        ({"class_names": ["high", "middle"]}, "has no folder for the class middle"),
        ({"subset": "training"}, "subset needs validation"),
        ({"validation": 0.2}, "subset must be one of .* got None"),
        ({"validation": 1.5, "subset": "training"}, "validation must be a share between 0 and 1, or groups, got 1.5"),
        ({"validation": ["dan"], "subset": "training"}, "group must tell the group of a path"),
        ({"validation": ["dan"], "subset": "training", "group": speaker}, "there is no group 'dan', only"),
        ({"validation": SPEAKERS, "subset": "training", "group": speaker}, "no files are left for training"),
    ],
)
def test_bad_arguments_are_named(folder, change, message):
    with pytest.raises(ValueError, match=message):
        vk.waveform_dataset(folder, **change)


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        (None, None, "1 files need as many labels, got none"),
        ([0, 1], None, "1 files need as many labels, got 2"),
        ([2], ["a", "b"], "labels must lie between 0 and 1, got 2 to 2"),
        ([-1], None, "labels must lie between 0 and"),
        (["c"], ["a", "b"], "label 'c' is not one of the classes"),
        ([0.5], None, "labels must be names or whole numbers, got 0.5"),
    ],
)
def test_bad_labels_are_named(folder, labels, names, message):
    with pytest.raises(ValueError, match=message):
        vk.waveform_dataset([folder / "low" / "ann_0.wav"], labels, class_names=names)


def test_folders_without_audio_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        vk.waveform_dataset(tmp_path / "missing")
    with pytest.raises(ValueError, match="has no folder for a class in it"):
        vk.waveform_dataset(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no audio files in .*empty"):
        vk.waveform_dataset(tmp_path)
    with pytest.raises(ValueError, match="there are no files"):
        vk.waveform_dataset([])


# === Training ===


@pytest.mark.filterwarnings("ignore:Layer 'reshape:UserWarning")  # Keras's Reshape passes no mask on
def test_a_classifier_learns_from_it(folder):
    """The dataset, the front end and a mask, without the network: a tone's pitch is in the log-mel spectrogram."""
    dataset = vk.waveform_dataset(folder, batch_size=8, shuffle=True)
    inputs = {
        "waveform": keras.Input((None,), name="waveform"),
        "num_samples": keras.Input((), dtype="int32", name="num_samples"),
    }
    examples = vk.LogMelExamples(padding="same")(inputs)
    pooled = keras.layers.GlobalAveragePooling1D()(keras.layers.Reshape((-1, 96 * 64))(examples))
    model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(pooled))
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(dataset, epochs=10, shuffle=False, verbose=0)
    assert model.evaluate(dataset, verbose=0)[1] == 1
