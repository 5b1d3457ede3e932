"""Pictures of a recording and of embeddings on one time axis."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from vggish_keras import audio, params
from vggish_keras._atomic import atomic_write
from vggish_keras.embeddings import Embeddings
from vggish_keras.resample import read_waveform

_MOST_COLUMNS = 4_000
"""More than a picture has pixels; beyond, neighbours are joined."""
_MOST_EMBEDDINGS = 1_000
_FRAMES_OF_A_BLOCK = 6_000


def plot_recording(
    path: str | os.PathLike[str],
    source: audio.Source,
    embeddings: Embeddings,
    title: str,
    note: str = "",
    similarity: bool = False,
) -> None:
    """Draws a recording of any length, waveform and log-mel spectrogram, and its embeddings.

    Args:
        path: The picture to write, .png or .svg.
        source: The recording, as `audio.open_audio` takes it.
        embeddings: Its embeddings.
        title: Drawn above.
        note: What a reader must know of these embeddings, drawn in red under the title.
        similarity: True adds a matrix of the cosine similarities of the embeddings.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = _figure(title, height=8 + 6 * similarity)
    columns, seconds = _spectrogram_and_range(source)
    edges = np.linspace(0, seconds, len(columns) + 1)
    rows = figure.subplots(3 + similarity, height_ratios=(1, 2, 3, 6)[: 3 + similarity])
    wave_axes, mel_axes, embedding_axes = rows[:3]

    wave_axes.set_title(note, color="firebrick")
    wave_axes.stairs(columns[:, -1], edges, baseline=columns[:, -2], fill=True)
    wave_axes.set(ylabel="waveform", ylim=(-1.05, 1.05), xlim=(0, seconds))

    log_mel = columns[:, : params.NUM_MEL_BANDS]
    extent = (0, seconds, 0, params.NUM_MEL_BANDS)
    image = mel_axes.imshow(log_mel.T, origin="lower", aspect="auto", extent=extent, cmap="magma", rasterized=True)
    mel_axes.set(ylabel="mel band, 125-7,500 Hz", xlim=(0, seconds))
    figure.colorbar(image, ax=mel_axes, label="log(mel + 0.01)")

    _draw_embeddings(figure, embedding_axes, embeddings, seconds)
    if similarity:
        _draw_similarity(figure, rows[3], embeddings)
    _save(figure, path)


def plot_embeddings(path: str | os.PathLike[str], embeddings: Embeddings, title: str, similarity: bool = False) -> None:
    """Draws embeddings without their recording; the arguments are those of `plot_recording`."""
    figure = _figure(title, height=5 + 6 * similarity)
    rows = figure.subplots(1 + similarity, height_ratios=(3, 6)[: 1 + similarity], squeeze=False)[:, 0]
    edges = _edges(embeddings)
    _draw_embeddings(figure, rows[0], embeddings, edges[-1])
    if similarity:
        _draw_similarity(figure, rows[1], embeddings)
    _save(figure, path)


def _figure(title: str, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('pictures need matplotlib: pip install "vggish[plot]"') from error
    figure = Figure(figsize=(11, height), layout="constrained")
    # A file's name need be neither mathematics nor valid text.
    text = title.encode(errors="surrogateescape").decode(errors="backslashreplace")
    figure.suptitle(text, parse_math=False)
    return figure


def _save(figure: Any, path: str | os.PathLike[str]) -> None:
    path = Path(path)
    with atomic_write(path) as aside:
        figure.savefig(aside, dpi=120, format=path.suffix[1:])


def _draw_embeddings(figure: Any, axes: Any, embeddings: Embeddings, seconds: float) -> None:
    if len(embeddings.times):
        values = _join_neighbours(embeddings.values, _MOST_EMBEDDINGS)
        dimensions = np.arange(values.shape[1] + 1)
        edges = _joined_edges(embeddings, len(values))
        mesh = axes.pcolormesh(edges, dimensions, values.T, cmap="viridis", rasterized=True)
        figure.colorbar(mesh, ax=axes, label="value")
    axes.set(ylabel="embedding dimension", xlabel="seconds", xlim=(0, seconds))


def _draw_similarity(figure: Any, axes: Any, embeddings: Embeddings) -> None:
    if len(embeddings.times):
        values = _join_neighbours(embeddings.values, _MOST_EMBEDDINGS)
        norms = np.linalg.norm(values, axis=1, keepdims=True)
        directions = values / np.where(norms > 0, norms, 1)
        edges = _joined_edges(embeddings, len(values))
        mesh = axes.pcolormesh(edges, edges, directions @ directions.T, cmap="cividis", rasterized=True)
        figure.colorbar(mesh, ax=axes, label="cosine similarity")
    axes.set(xlabel="seconds", ylabel="seconds", aspect="equal")


def _edges(embeddings: Embeddings) -> np.ndarray:
    """Where examples begin, and where the last one's successor would."""
    times = embeddings.times
    hop = times[1] - times[0] if len(times) > 1 else params.EXAMPLE_HOP_SECONDS
    return np.append(times, times[-1] + hop if len(times) else hop)


def _joined_edges(embeddings: Embeddings, count: int) -> np.ndarray:
    edges = _edges(embeddings)
    return edges[np.append(_group_starts(len(embeddings.times), count), -1)]


def _group_starts(rows: int, groups: int) -> np.ndarray:
    return np.arange(groups) * rows // groups


def _join_neighbours(values: np.ndarray, most: int) -> np.ndarray:
    """Means of successive rows, at most `most` of them: float32."""
    values = values.astype(np.float32)
    starts = _group_starts(len(values), min(len(values), most))
    sizes = np.diff(np.append(starts, len(values)))
    return np.add.reduceat(values, starts, axis=0) / sizes[:, np.newaxis]


# === Recordings ===


def _spectrogram_and_range(source: audio.Source) -> tuple[np.ndarray, float]:
    """What there is to draw of a recording, in memory that does not grow with it.

    Returns:
        float32 [columns, 66]: the log-mel spectrogram, and the lowest and highest sample of each column; and how many
        seconds they cover.
    """
    from vggish_keras.frontend import LogMelExamples  # which loads TensorFlow

    front_end = LogMelExamples()
    step, overlap = params.STFT_HOP_SAMPLES, params.STFT_WINDOW_SAMPLES - params.STFT_HOP_SAMPLES
    buffer = np.zeros(0, np.float32)
    columns = np.zeros((0, params.NUM_MEL_BANDS + 2), np.float32)
    pending: list[np.ndarray] = []
    frames_of_a_column, frames = 1, 0

    def add(samples: np.ndarray) -> None:
        nonlocal columns, frames, frames_of_a_column, pending
        log_mel = np.asarray(front_end.log_mel(samples[np.newaxis]))[0]
        steps = samples[: len(log_mel) * step].reshape(-1, step)
        frames += len(log_mel)
        pending.append(np.column_stack([log_mel, steps.min(axis=1), steps.max(axis=1)]))
        rows = np.concatenate(pending)
        whole = len(rows) // frames_of_a_column * frames_of_a_column
        columns = np.concatenate([columns, _join_columns(rows[:whole], frames_of_a_column)])
        pending = [rows[whole:]]
        while len(columns) > _MOST_COLUMNS:
            even = len(columns) // 2 * 2
            # An odd one waits with its frames, of which only the mean is left.
            pending.insert(0, np.repeat(columns[even:], frames_of_a_column, axis=0))
            columns = _join_columns(columns[:even], 2)
            frames_of_a_column *= 2

    for block in read_waveform(source):
        buffer = np.concatenate([buffer, block])
        while len(buffer) >= _FRAMES_OF_A_BLOCK * step + overlap:
            add(buffer[: _FRAMES_OF_A_BLOCK * step + overlap])
            buffer = buffer[_FRAMES_OF_A_BLOCK * step :]
    missing = -len(buffer) % step
    add(np.pad(buffer, (0, missing + overlap + (step if not len(buffer) else 0))))
    rest = np.concatenate(pending)
    if len(rest):
        columns = np.concatenate([columns, _join_columns(rest, len(rest))])
    return columns, frames * step / params.SAMPLE_RATE


def _join_columns(columns: np.ndarray, size: int) -> np.ndarray:
    """Joins each `size` successive columns to one."""
    groups = columns.reshape(-1, size, columns.shape[1])
    return np.column_stack([groups[..., :-2].mean(axis=1), groups[..., -2].min(axis=1), groups[..., -1].max(axis=1)])
