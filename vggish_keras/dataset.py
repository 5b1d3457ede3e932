"""Labelled recordings as a tf.data pipeline of waveforms, for `model.fit`."""

import functools
import os
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from vggish_keras import audio, params
from vggish_keras._validation import PathLike, check_choice
from vggish_keras.recordings import describe_left_out, find_recordings
from vggish_keras.resample import read_waveform

SUBSETS = ("training", "validation")
CROPS = ("random", "start", "center")
ON_BAD_FILE = ("raise", "skip")

_THREADS = 8
_BAD_FILES_NAMED = 5
_MOST_SHUFFLED = 2_000
"""Waveforms that wait to be shuffled where they are not in memory anyway."""


class _Clips(NamedTuple):
    """Recordings with the indices of their classes."""

    paths: list[Path]
    labels: np.ndarray
    class_names: list[str]

    def select(self, chosen: Sequence[bool]) -> "_Clips":
        paths = [path for path, wanted in zip(self.paths, chosen, strict=True) if wanted]
        return self._replace(paths=paths, labels=self.labels[np.asarray(chosen, bool)])


def waveform_dataset(
    source: PathLike | Sequence[PathLike],
    labels: Sequence[Any] | None = None,
    *,
    class_names: Sequence[str] | None = None,
    seconds: float | None = None,
    crop: str = "random",
    batch_size: int = 32,
    shuffle: bool = False,
    seed: int = 0,
    validation: float | Collection[Hashable] | None = None,
    subset: str | None = None,
    group: Callable[[Path], Hashable] | None = None,
    cache: bool | PathLike = True,
    on_bad_file: str = "raise",
    channels: audio.Channels = "mix",
) -> Any:
    """Makes a dataset of labelled waveforms, which `VGGish(lengths=True)` takes.

    Files are decoded and resampled as `Embedder` does it. The beginning of each is decoded before this returns, so
    that a bad one is told before the first step.

    Args:
        source: A folder with a folder for each class, whose audio files are taken with those of the folders in it; or
            paths of files.
        labels: For paths, the class of each: its name, or its index.
        class_names: The classes in the order of their indices; other folders are left out. By default the names that
            there are, sorted.
        seconds: The length to which clips are cut or padded; None pads to the longest of a batch.
        crop: Which part of longer clips is taken: "random", another one each time; "start"; or "center".
        batch_size: Clips of a batch.
        shuffle: True gives the clips in another order each time.
        seed: Of the shuffling, the cropping and the split.
        validation: What is held out: a share of the files, or of the groups; or the groups themselves, with `group`.
        subset: With `validation`, which part to give: "training" or "validation".
        group: Gives the group of a path, such as its speaker or recorder: files of one group stay together.
        cache: True keeps the decoded waveforms in memory, a path keeps them in files of that name, False decodes each
            time.
        on_bad_file: "raise", or "skip" to leave out files that cannot be read, with a warning that names them.
        channels: "mix" for the mean of a recording's channels, or the index of one.

    Returns:
        A tf.data.Dataset of ({"waveform", "num_samples"}, label): float32 [batch, samples] at 16 kHz, mono in [-1, 1]
        and zeros beyond a clip's end; int32 [batch], each clip's own length; int32 [batch]. Its attribute `class_names`
        is the list of classes.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: A bad argument, a class without audio files, an unknown label, a file that cannot be read, or a
            split that leaves a part without files.
    """
    check_choice("crop", crop, CROPS)
    check_choice("on_bad_file", on_bad_file, ON_BAD_FILE)
    audio.check_channels(channels)
    if seconds is not None and not round(seconds * params.SAMPLE_RATE) > 0:
        raise ValueError(f"seconds must be positive, got {seconds}")
    if isinstance(source, (str, os.PathLike)):
        if labels is not None:
            raise ValueError("the labels of a folder are the names of the folders in it: leave labels away")
        clips = _clips_of_folder(Path(source), class_names)
    else:
        clips = _clips_of_paths(list(map(Path, source)), labels, class_names)
    clips = _split(clips, validation, subset, group, seed)
    clips = _readable(clips, on_bad_file, channels)
    dataset = _decoded(clips, shuffle, seed, cache, on_bad_file, channels)
    if seconds is not None:
        dataset = _cropped(dataset, round(seconds * params.SAMPLE_RATE), crop, seed)
    shape = None if seconds is None else round(seconds * params.SAMPLE_RATE)
    dataset = dataset.map(lambda waveform, label: ({"waveform": waveform, "num_samples": tf.size(waveform)}, label))
    dataset = dataset.padded_batch(batch_size, ({"waveform": [shape], "num_samples": []}, []))
    dataset = dataset.prefetch(tf.data.AUTOTUNE)
    dataset.class_names = clips.class_names
    return dataset


# === Files and labels ===


def _clips_of_folder(folder: Path, class_names: Sequence[str] | None) -> _Clips:
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    there = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    names = there if class_names is None else list(class_names)
    if not names:
        raise ValueError(f"{folder} has no folder for a class in it")
    if missing := sorted(set(names) - set(there)):
        raise ValueError(f"{folder} has no folder for the class {missing[0]}")
    found = [find_recordings([folder / name]) for name in names]
    if left_out := sum((Counter(recordings.left_out) for recordings in found), Counter()):
        warnings.warn(f"{folder}: {describe_left_out(left_out)}", stacklevel=4)
    labels = np.repeat(np.arange(len(names), dtype=np.int32), [len(recordings.paths) for recordings in found])
    return _Clips([path for recordings in found for path in recordings.paths], labels, names)


def _clips_of_paths(paths: list[Path], labels: Sequence[Any] | None, class_names: Sequence[str] | None) -> _Clips:
    if not paths:
        raise ValueError("there are no files")
    if labels is None or len(labels) != len(paths):
        count = "none" if labels is None else len(labels)
        raise ValueError(f"{len(paths)} files need as many labels, got {count}")
    if all(isinstance(label, str) for label in labels):
        names = sorted(set(labels)) if class_names is None else list(class_names)
        if unknown := sorted(set(labels) - set(names)):
            raise ValueError(f"label {unknown[0]!r} is not one of the classes {names}")
        return _Clips(paths, np.array([names.index(label) for label in labels], np.int32), names)
    indices = np.asarray(labels)
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise ValueError(f"labels must be names or whole numbers, got {labels[0]!r}")
    count = int(indices.max()) + 1 if class_names is None else len(class_names)
    if indices.min() < 0 or indices.max() >= count:
        raise ValueError(f"labels must lie between 0 and {count - 1}, got {indices.min()} to {indices.max()}")
    names = [str(index) for index in range(count)] if class_names is None else list(class_names)
    return _Clips(paths, indices.astype(np.int32), names)


def _split(
    clips: _Clips,
    validation: float | Collection[Hashable] | None,
    subset: str | None,
    group: Callable[[Path], Hashable] | None,
    seed: int,
) -> _Clips:
    if validation is None:
        if subset is not None:
            raise ValueError("subset needs validation: how much is held out")
        return clips
    check_choice("subset", subset, SUBSETS)
    groups = [path if group is None else group(path) for path in clips.paths]
    known = list(dict.fromkeys(groups))
    if isinstance(validation, (int, float)):
        if not 0 < validation < 1:
            raise ValueError(f"validation must be a share between 0 and 1, or groups, got {validation}")
        order = np.random.default_rng(seed).permutation(len(known))
        held_out = {known[index] for index in order[: max(1, round(validation * len(known)))]}
    else:
        held_out = set(validation)
        if group is None:
            raise ValueError("to hold out groups, group must tell the group of a path")
        if unknown := held_out - set(known):
            raise ValueError(f"there is no group {unknown.pop()!r}, only {sorted(map(str, known))}")
    chosen = clips.select([(name in held_out) == (subset == "validation") for name in groups])
    if not chosen.paths:
        raise ValueError(f"no files are left for {subset}: there are {len(known)} groups")
    return chosen


def _readable(clips: _Clips, on_bad_file: str, channels: audio.Channels) -> _Clips:
    """The clips whose beginning can be decoded."""
    with ThreadPoolExecutor(_THREADS) as pool:
        beginnings = list(pool.map(functools.partial(_beginning, channels=channels), clips.paths))
    bad = [str(found) for found in beginnings if isinstance(found, Exception)]
    if bad:
        more = (
            f"; and {len(bad) - _BAD_FILES_NAMED} more"
            if len(bad) > _BAD_FILES_NAMED and on_bad_file == "raise"
            else ""
        )
        named = "; ".join(bad[:_BAD_FILES_NAMED] if more else bad)
        message = f"{len(bad)} of {len(beginnings)} files cannot be read: {named}{more}"
        if on_bad_file == "raise" or len(bad) == len(beginnings):
            raise ValueError(message)
        warnings.warn(message, stacklevel=3)
    good = [found for found in beginnings if not isinstance(found, Exception)]
    if max(good) < params.EXAMPLE_SAMPLES / params.SAMPLE_RATE:
        warnings.warn('all clips are shorter than an example (0.975 s): use VGGish(padding="same")', stacklevel=3)
    return clips.select([not isinstance(found, Exception) for found in beginnings])


def _beginning(path: Path, channels: audio.Channels) -> float | Exception:
    """How many seconds there are, if that is less than an example; else a few more. Or why there are none."""
    try:
        opened, seconds = audio.open_audio(path, channels=channels), 0.0
        for block in opened.blocks:
            seconds += len(block) / opened.sample_rate
            if seconds >= params.EXAMPLE_SAMPLES / params.SAMPLE_RATE:
                break
    except Exception as error:
        return error
    return seconds


# === Pipeline ===


def _decoded(
    clips: _Clips,
    shuffle: bool,
    seed: int,
    cache: bool | PathLike,
    on_bad_file: str,
    channels: audio.Channels,
) -> Any:
    """Dataset of waveform, label."""

    def decode(path: bytes) -> np.ndarray:
        name = Path(os.fsdecode(path))
        try:
            return np.concatenate([*read_waveform(name, channels), np.zeros(0, np.float32)])
        except (ValueError, OSError) as error:
            if on_bad_file == "raise":
                raise
            warnings.warn(f"left out: {error}", stacklevel=2)
            return np.zeros(0, np.float32)

    def load(path: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        waveform = tf.numpy_function(decode, [path], tf.float32, stateful=False)
        waveform.set_shape([None])
        return waveform, label

    paths = tf.constant([os.fsencode(path) for path in clips.paths])
    dataset = tf.data.Dataset.from_tensor_slices((paths, clips.labels))
    if shuffle and cache is False:
        dataset = dataset.shuffle(len(clips.paths), seed)
    dataset = dataset.map(load, tf.data.AUTOTUNE)
    if on_bad_file == "skip":
        dataset = dataset.filter(lambda waveform, _: tf.size(waveform) > 0)
    if cache is not False:
        dataset = dataset.cache("" if cache is True else os.fspath(cache))
        if shuffle:
            # In memory they are anyway.
            dataset = dataset.shuffle(len(clips.paths) if cache is True else _MOST_SHUFFLED, seed)
    return dataset


def _cropped(dataset: Any, samples: int, crop: str, seed: int) -> Any:
    def cut(clip: tuple[tf.Tensor, tf.Tensor], number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        waveform, label = clip
        extra = tf.maximum(tf.size(waveform, tf.int64) - samples, 0)
        start = {"start": tf.zeros_like(extra), "center": extra // 2, "random": number % (extra + 1)}[crop]
        return waveform[start : start + samples], label

    numbers = tf.data.Dataset.random(seed, rerandomize_each_iteration=True)
    return tf.data.Dataset.zip((dataset, numbers)).map(cut)
