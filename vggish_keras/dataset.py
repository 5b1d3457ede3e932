"""Labeled recordings as a tf.data pipeline of waveforms for `model.fit`."""

import functools
import os
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from vggish_keras import audio, params
from vggish_keras._errors import counted
from vggish_keras._hashing import checksum
from vggish_keras._validation import PathLike, check_choice
from vggish_keras.recordings import describe_left_out, find_recordings
from vggish_keras.resample import read_waveform

Subset = Literal["training", "validation"]
SUBSETS: tuple[Subset, ...] = get_args(Subset)
Crop = Literal["random", "start", "center"]
CROPS: tuple[Crop, ...] = get_args(Crop)
OnBadFile = Literal["raise", "skip"]
ON_BAD_FILE: tuple[OnBadFile, ...] = get_args(OnBadFile)

Labels: TypeAlias = Sequence[str] | Sequence[int] | NDArray[np.integer[Any]]

_THREADS = 8
_MAX_ERRORS_LISTED = 5
_MAX_SHUFFLED = 2_000
"""Waveforms in the shuffle buffer, unless all of them are in memory anyway."""


class _Clips(NamedTuple):
    """Recordings with the indices of their classes."""

    paths: list[Path]
    labels: NDArray[np.int32]
    class_names: list[str]

    def reordered(self, order: NDArray[np.int_]) -> "_Clips":
        return _Clips([self.paths[index] for index in order], self.labels[order], self.class_names)

    def select(self, chosen: Sequence[bool]) -> "_Clips":
        paths = [path for path, wanted in zip(self.paths, chosen, strict=True) if wanted]
        return self._replace(paths=paths, labels=self.labels[np.asarray(chosen, bool)])


def waveform_dataset(
    source: PathLike | Sequence[PathLike],
    labels: Labels | None = None,
    *,
    class_names: Sequence[str] | None = None,
    seconds: float | None = None,
    crop: Crop = "random",
    batch_size: int = 32,
    shuffle: bool = False,
    seed: int = 0,
    validation_split: float | None = None,
    validation_groups: Collection[Hashable] | None = None,
    subset: Subset | None = None,
    group: Callable[[Path], Hashable] | None = None,
    cache: bool | PathLike = True,
    on_bad_file: OnBadFile = "raise",
    channels: audio.Channels = "mix",
) -> tf.data.Dataset:
    """Creates a dataset of labeled waveforms, as `VGGish(lengths=True)` accepts them.

    Files are decoded and resampled as in `Embedder`. The start of each file is decoded before this function returns,
    so that unreadable files are reported before training starts.

    Args:
        source: A folder with one subfolder per class, which is searched recursively for audio files; or a list of
            files.
        labels: The class of each file of a list, by name or by index. None for a folder.
        class_names: The classes in the order of their indices; other subfolders are ignored. Defaults to the sorted
            names found.
        seconds: The length to which clips are cropped or padded. None pads them to the longest in the batch.
        crop: Which part of a longer clip is used: "random" (a different one in each epoch), "start" or "center".
        batch_size: Clips per batch.
        shuffle: True shuffles the clips anew in each epoch.
        seed: The seed for shuffling, cropping and splitting.
        validation_split: The share of the files, or with `group` of the groups, to hold out, between 0 and 1.
        validation_groups: The groups to hold out, instead of a share. Requires `group`.
        subset: Which part of a split to return: "training" or "validation".
        group: Maps a path to its group, such as its speaker or recording device. Files of one group stay in the same
            subset.
        cache: True caches the decoded waveforms in memory, a path caches them in files that start with it, False
            decodes them again in each epoch. Each set of clips has its own files, so the path may be the same for all;
            clips that have changed are decoded again. One process at a time may fill the files of a set; if it is
            killed, delete them.
        on_bad_file: "raise" raises an error for unreadable files, "skip" skips them with a warning.
        channels: "mix" for the mean of all channels, or the index of one channel.

    Returns:
        A tf.data.Dataset of ({"waveform", "num_samples"}, label): float32 [batch, samples], mono at 16 kHz in [-1, 1],
        zeros beyond the end of a clip; int32 [batch], the length of each clip; int32 [batch]. Its attribute
        `class_names` lists the classes.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: An argument is invalid, a class has no audio files, a label is unknown, a file cannot be read, or
            the subset is empty.

    Examples:
        >>> files = ["recording.wav", "recording.wav"]
        >>> dataset = vk.waveform_dataset(files, labels=["birds", "rain"], seconds=1.0, crop="start")
        >>> dataset.class_names
        ['birds', 'rain']
        >>> inputs, labels = next(iter(dataset))
        >>> inputs["waveform"].shape
        TensorShape([2, 16000])
        >>> labels.numpy().tolist()
        [0, 1]

        A folder with one subfolder per class, split into two datasets:

        >>> import shutil
        >>> for name in ("birds", "rain"):
        ...     Path("sounds", name).mkdir(parents=True)
        ...     for take in range(4):
        ...         copy = shutil.copy("recording.wav", Path("sounds", name, f"{take}.wav"))
        >>> options = {"validation_split": 0.25, "seconds": 1.0}
        >>> training = vk.waveform_dataset("sounds", subset="training", shuffle=True, **options)
        >>> validation = vk.waveform_dataset("sounds", subset="validation", **options)
        >>> len(list(training.unbatch())), len(list(validation.unbatch()))
        (6, 2)
    """
    check_choice("crop", crop, CROPS)
    check_choice("on_bad_file", on_bad_file, ON_BAD_FILE)
    audio.check_channels(channels)
    samples = None if seconds is None else round(seconds * params.SAMPLE_RATE)
    if samples is not None and samples <= 0:
        raise ValueError(f"seconds must be positive, got {seconds}")
    if isinstance(source, (str, os.PathLike)):
        if labels is not None:
            raise ValueError("labels must be None when source is a folder: its subfolders are the classes")
        clips = _clips_of_folder(Path(source), class_names)
    else:
        clips = _clips_of_paths(list(map(Path, source)), labels, class_names)
    clips = _split(clips, validation_split, validation_groups, subset, group, seed)
    clips = _drop_unreadable(clips, on_bad_file, channels)
    dataset = _decode_all(clips, shuffle, seed, cache, on_bad_file, channels)
    if samples is not None:
        dataset = _crop(dataset, samples, crop, seed)
    dataset = dataset.map(lambda waveform, label: ({"waveform": waveform, "num_samples": tf.size(waveform)}, label))
    dataset = dataset.padded_batch(batch_size, ({"waveform": [samples], "num_samples": []}, []))
    dataset = dataset.prefetch(tf.data.AUTOTUNE)
    dataset.class_names = clips.class_names
    return dataset


# === Files and labels ===


def _clips_of_folder(folder: Path, class_names: Sequence[str] | None) -> _Clips:
    if not folder.is_dir():
        raise FileNotFoundError(f"folder {folder} does not exist")
    subfolders = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    names = subfolders if class_names is None else list(class_names)
    if not names:
        raise ValueError(f"{folder} has no subfolders: expected one per class")
    if missing := sorted(set(names) - set(subfolders)):
        raise ValueError(f"{folder} has no subfolder for class {missing[0]!r}")
    found = [find_recordings([folder / name]) for name in names]
    if left_out := sum((Counter(recordings.left_out) for recordings in found), Counter()):
        warnings.warn(f"{folder}: {describe_left_out(left_out)}", stacklevel=3)
    labels = np.repeat(np.arange(len(names), dtype=np.int32), [len(recordings.paths) for recordings in found])
    return _Clips([path for recordings in found for path in recordings.paths], labels, names)


def _clips_of_paths(paths: list[Path], labels: Labels | None, class_names: Sequence[str] | None) -> _Clips:
    if not paths:
        raise ValueError("source is empty")
    if labels is None or len(labels) != len(paths):
        count = "none" if labels is None else len(labels)
        raise ValueError(f"expected {counted(len(paths), 'label')} (one per file), got {count}")
    label_names = [label for label in labels if isinstance(label, str)]
    if len(label_names) == len(labels):
        names = sorted(set(label_names)) if class_names is None else list(class_names)
        if unknown := sorted(set(label_names) - set(names)):
            raise ValueError(f"label {unknown[0]!r} is not one of the classes {names}")
        return _Clips(paths, np.array([names.index(label) for label in label_names], np.int32), names)
    indices = np.asarray(labels)
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise ValueError(f"labels must be class names or integer indices, got {labels[0]!r}")
    num_classes = int(indices.max()) + 1 if class_names is None else len(class_names)
    if indices.min() < 0 or indices.max() >= num_classes:
        raise ValueError(f"labels must be between 0 and {num_classes - 1}, got {indices.min()} to {indices.max()}")
    names = [str(index) for index in range(num_classes)] if class_names is None else list(class_names)
    return _Clips(paths, indices.astype(np.int32), names)


def _split(
    clips: _Clips,
    validation_split: float | None,
    validation_groups: Collection[Hashable] | None,
    subset: Subset | None,
    group: Callable[[Path], Hashable] | None,
    seed: int,
) -> _Clips:
    if validation_split is not None and validation_groups is not None:
        raise ValueError("validation_split and validation_groups are mutually exclusive")
    if validation_split is None and validation_groups is None:
        if subset is not None:
            raise ValueError("subset requires validation_split or validation_groups")
        return clips
    check_choice("subset", subset, SUBSETS)
    groups = [path if group is None else group(path) for path in clips.paths]
    known = list(dict.fromkeys(groups))
    if validation_split is not None:
        held_out = _draw_groups(known, validation_split, seed)
    elif group is None:
        raise ValueError("validation_groups requires group, a function that maps a path to its group")
    else:
        held_out = set(() if validation_groups is None else validation_groups)
    if unknown := held_out - set(known):
        raise ValueError(f"unknown validation group {unknown.pop()!r}: the groups are {sorted(map(str, known))}")
    chosen = clips.select([(name in held_out) == (subset == "validation") for name in groups])
    if not chosen.paths:
        all_groups = counted(len(known), "file" if group is None else "group")
        raise ValueError(f"the {subset} subset is empty: validation uses {len(held_out)} of {all_groups}")
    return chosen


def _draw_groups(groups: list[Hashable], share: float, seed: int) -> set[Hashable]:
    if not 0 < share < 1:
        raise ValueError(f"validation_split must be between 0 and 1, got {share}")
    order = np.random.default_rng(seed).permutation(len(groups))
    return {groups[index] for index in order[: max(1, round(share * len(groups)))]}


def _drop_unreadable(clips: _Clips, on_bad_file: OnBadFile, channels: audio.Channels) -> _Clips:
    """Drops the clips whose start cannot be decoded, or raises an error that lists them."""
    with ThreadPoolExecutor(_THREADS) as pool:
        probes = list(pool.map(functools.partial(_probe, channels=channels), clips.paths))
    errors = [str(error) for error in probes if error is not None]
    if errors:
        listed = errors[:_MAX_ERRORS_LISTED] if on_bad_file == "raise" else errors
        more = f"; and {len(errors) - len(listed)} more" if len(errors) > len(listed) else ""
        message = f"{len(errors)} of {counted(len(probes), 'file')} cannot be read: {'; '.join(listed)}{more}"
        if on_bad_file == "raise" or len(errors) == len(probes):
            raise ValueError(message)
        warnings.warn(message, stacklevel=3)
    return clips.select([error is None for error in probes])


def _probe(path: Path, channels: audio.Channels) -> Exception | None:
    """Decodes the start of a file; returns the error if it cannot be decoded."""
    try:
        next(audio.open_audio(path, channels=channels).blocks, None)
    except Exception as error:
        return error
    return None


# === Pipeline ===


def _decode_all(
    clips: _Clips,
    shuffle: bool,
    seed: int,
    cache: bool | PathLike,
    on_bad_file: OnBadFile,
    channels: audio.Channels,
) -> tf.data.Dataset:
    """Creates a dataset of (waveform, label)."""

    def decode(path: bytes) -> NDArray[np.float32]:
        try:
            blocks = read_waveform(Path(os.fsdecode(path)), channels)
            waveform = np.concatenate([*blocks, np.zeros(0, np.float32)])
            if on_bad_file == "skip" and not len(waveform):
                raise ValueError(f"{os.fsdecode(path)} has no samples at 16 kHz")
            return waveform
        except (ValueError, OSError) as error:
            if on_bad_file == "raise":
                raise
            warnings.warn(f"skipped: {error}", stacklevel=2)
            return np.zeros(0, np.float32)

    def load(path: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        waveform = tf.numpy_function(decode, [path], tf.float32, stateful=False)
        waveform.set_shape([None])
        return waveform, label

    if shuffle and not isinstance(cache, bool):
        # A buffer alone would not mix classes that follow each other in the file.
        clips = clips.reordered(np.random.default_rng(seed).permutation(len(clips.paths)))
    paths = tf.constant([os.fsencode(path) for path in clips.paths])
    dataset = tf.data.Dataset.from_tensor_slices((paths, clips.labels))
    if shuffle and cache is False:
        dataset = dataset.shuffle(len(clips.paths), seed)
    dataset = dataset.map(load, tf.data.AUTOTUNE)
    if on_bad_file == "skip":
        dataset = dataset.filter(lambda waveform, _: tf.size(waveform) > 0)
    if cache is not False:
        dataset = dataset.cache("" if cache is True else _cache_name(cache, clips, on_bad_file, channels))
        if shuffle:
            dataset = dataset.shuffle(len(clips.paths) if cache is True else _MAX_SHUFFLED, seed)
    return dataset


def _cache_name(cache: PathLike, clips: _Clips, on_bad_file: OnBadFile, channels: audio.Channels) -> str:
    """The start of the names of the cache's files, which depends on all that is cached."""
    states = [(os.path.abspath(path), os.stat(path)) for path in clips.paths]
    files = [(path, state.st_size, state.st_mtime_ns) for path, state in states]
    cached = repr((files, clips.labels.tolist(), on_bad_file, channels))
    return f"{os.fspath(cache)}-{checksum([os.fsencode(cached)])[-16:]}"


def _crop(dataset: tf.data.Dataset, samples: int, crop: Crop, seed: int) -> tf.data.Dataset:
    def cut(clip: tuple[tf.Tensor, tf.Tensor], number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        waveform, label = clip
        extra = tf.maximum(tf.size(waveform, tf.int64) - samples, 0)
        start = {"start": tf.zeros_like(extra), "center": extra // 2, "random": number % (extra + 1)}[crop]
        return waveform[start : start + samples], label

    numbers = tf.data.Dataset.random(seed, rerandomize_each_iteration=True)
    return tf.data.Dataset.zip((dataset, numbers)).map(cut)
