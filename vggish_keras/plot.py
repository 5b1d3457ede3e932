"""Plots of a recording and its embeddings on a common time axis."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggish_keras import audio, params
from vggish_keras._atomic import atomic_write
from vggish_keras._text import printable
from vggish_keras._validation import PathLike, file_suffix
from vggish_keras.embeddings import Embeddings, to_floats
from vggish_keras.resample import read_waveform
from vggish_keras.spectrogram_overview import SpectrogramOverview

_MAX_EMBEDDINGS = 1_000
"""More than an image has pixels; beyond that, neighbors are averaged."""


def plot_recording(
    path: PathLike,
    source: audio.Source,
    embeddings: Embeddings,
    title: str,
    note: str = "",
    similarity: bool = False,
    channels: audio.Channels = "mix",
) -> None:
    """Plots the waveform, the log-mel spectrogram and the embeddings of a recording of any length.

    Args:
        path: The .png or .svg file to write.
        source: The recording, as in `audio.open_audio`.
        embeddings: Its embeddings.
        title: The title of the figure.
        note: A remark on the embeddings, drawn in red below the title.
        similarity: True adds a matrix of the cosine similarities of the embeddings.
        channels: "mix", or the index of the channel that is drawn.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = _figure(title, height=8 + 6 * similarity)
    rows = figure.subplots(3 + similarity, height_ratios=(1, 2, 3, 6)[: 3 + similarity])
    overview = _overview(source, channels)
    _draw_overview(figure, rows[0], rows[1], overview)
    rows[0].set_title(note, color="firebrick")
    _draw_embeddings(figure, rows[2], embeddings, overview.seconds)
    if similarity:
        _draw_similarity(figure, rows[3], embeddings)
    _save(figure, path)


def plot_embeddings(path: PathLike, embeddings: Embeddings, title: str, similarity: bool = False) -> None:
    """Plots embeddings without their recording.

    Args:
        path: The .png or .svg file to write.
        embeddings: The embeddings.
        title: The title of the figure.
        similarity: True adds a matrix of the cosine similarities of the embeddings.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = _figure(title, height=5 + 6 * similarity)
    rows = figure.subplots(1 + similarity, height_ratios=(3, 6)[: 1 + similarity], squeeze=False)[:, 0]
    _draw_embeddings(figure, rows[0], embeddings, _end(embeddings))
    if similarity:
        _draw_similarity(figure, rows[1], embeddings)
    _save(figure, path)


def check_matplotlib() -> None:
    """Raises an ImportError if matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError('plotting requires matplotlib: pip install "vggish[plot]"') from error


def _figure(title: str, height: float) -> Any:
    check_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, height), layout="constrained")
    # A file name may contain `$` or bytes that are not valid text.
    figure.suptitle(printable(title), parse_math=False)
    return figure


def _save(figure: Any, path: PathLike) -> None:
    path = Path(path)
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=120, format=file_suffix(path)[1:])


def _overview(source: audio.Source, channels: audio.Channels) -> SpectrogramOverview:
    overview = SpectrogramOverview()
    for block in read_waveform(source, channels):
        overview.add(block)
    return overview


def _draw_overview(figure: Any, wave_axes: Any, mel_axes: Any, overview: SpectrogramOverview) -> None:
    seconds, (log_mel, lowest, highest) = overview.seconds, overview.columns
    edges = np.linspace(0, seconds, len(log_mel) + 1)
    wave_axes.stairs(highest, edges, baseline=lowest, fill=True)
    wave_axes.set(ylabel="waveform", ylim=(-1.05, 1.05), xlim=(0, seconds))

    extent = (0, seconds, 0, params.NUM_MEL_BANDS)
    image = mel_axes.imshow(log_mel.T, origin="lower", aspect="auto", extent=extent, cmap="magma", rasterized=True)
    mel_axes.set(ylabel="mel band, 125-7,500 Hz", xlim=(0, seconds))
    figure.colorbar(image, ax=mel_axes, label="log(mel + 0.01)")


def _draw_embeddings(figure: Any, axes: Any, embeddings: Embeddings, seconds: float) -> None:
    if len(embeddings.times):
        values = _average_neighbors(embeddings.values)
        dimensions = np.arange(values.shape[1] + 1)
        edges = _edges(embeddings, len(values))
        mesh = axes.pcolormesh(edges, dimensions, values.T, cmap="viridis", rasterized=True)
        figure.colorbar(mesh, ax=axes, label="value")
    axes.set(ylabel="embedding dimension", xlabel="seconds", xlim=(0, seconds))


def _draw_similarity(figure: Any, axes: Any, embeddings: Embeddings) -> None:
    if len(embeddings.times):
        values = _average_neighbors(to_floats(embeddings.values))
        norms = np.linalg.norm(values, axis=1, keepdims=True)
        directions = values / np.where(norms > 0, norms, 1)
        edges = _edges(embeddings, len(values))
        mesh = axes.pcolormesh(edges, edges, directions @ directions.T, cmap="cividis", rasterized=True)
        figure.colorbar(mesh, ax=axes, label="cosine similarity")
    axes.set(xlabel="seconds", ylabel="seconds", aspect="equal")


def _edges(embeddings: Embeddings, count: int) -> NDArray[np.float64]:
    """The starts of `count` groups of embeddings, and the end of the last group: float64 [count + 1] seconds."""
    starts = _group_starts(len(embeddings.times), count)
    return np.append(embeddings.times[starts], _end(embeddings))


def _end(embeddings: Embeddings) -> float:
    """Where the next example would start."""
    times = embeddings.times
    hop = times[1] - times[0] if len(times) > 1 else params.EXAMPLE_HOP_SECONDS
    return float(times[-1] + hop) if len(times) else hop


def _group_starts(rows: int, groups: int) -> NDArray[np.int_]:
    return np.arange(groups) * rows // groups


def _average_neighbors(values: NDArray[Any]) -> NDArray[np.float64]:
    """Averages successive rows, so that at most `_MAX_EMBEDDINGS` rows are left."""
    values = values.astype(np.float32)
    starts = _group_starts(len(values), min(len(values), _MAX_EMBEDDINGS))
    sizes = np.diff(np.append(starts, len(values)))
    return np.add.reduceat(values, starts, axis=0) / sizes[:, np.newaxis]
