"""The picture of a recording: waveform, log-mel spectrogram and embeddings on one time axis."""

import os

import numpy as np

from vggish_keras import audio, params
from vggish_keras.embedder import Embeddings
from vggish_keras.frontend import LogMelExamples
from vggish_keras.resample import resample_blocks


def plot_recording(
    path: str | os.PathLike[str], source: audio.Source, embeddings: Embeddings, title: str, note: str = ""
) -> None:
    """Draws a recording and its embeddings.

    Args:
        path: The picture to write, .png or .svg.
        source: The recording, as `audio.open_audio` takes it.
        embeddings: Its embeddings.
        title: Drawn above.
        note: What a reader must know of these embeddings, drawn in red under the title.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install vggish-keras[plot]") from error

    opened = audio.open_audio(source)
    nothing = np.zeros(0, np.float32)
    waveform = np.concatenate([nothing, *resample_blocks(opened.blocks, opened.sample_rate)])
    frame_seconds = params.STFT_HOP_SAMPLES / params.SAMPLE_RATE
    seconds = max(len(waveform) / params.SAMPLE_RATE, frame_seconds)
    figure = Figure(figsize=(11, 8), layout="constrained")
    figure.suptitle(title)
    wave_axes, mel_axes, embedding_axes = figure.subplots(3, sharex=True, height_ratios=(1, 2, 3))

    wave_axes.set_title(note, color="firebrick")
    wave_axes.plot(np.arange(len(waveform)) / params.SAMPLE_RATE, waveform, linewidth=0.4)
    wave_axes.set(ylabel="waveform", ylim=(-1.05, 1.05), xlim=(0, seconds))

    log_mel = np.asarray(LogMelExamples(padding="same")(waveform[np.newaxis])).reshape(-1, params.NUM_MEL_BANDS)
    extent = (0, len(log_mel) * frame_seconds, 0, params.NUM_MEL_BANDS)
    image = mel_axes.imshow(log_mel.T, origin="lower", aspect="auto", extent=extent, cmap="magma", rasterized=True)
    mel_axes.set(ylabel="mel band, 125-7,500 Hz")
    figure.colorbar(image, ax=mel_axes, label="log(mel + 0.01)")

    if len(embeddings.times):
        steps = np.diff(embeddings.times)
        hop = steps[0] if len(steps) else params.EXAMPLE_HOP_SECONDS
        edges = np.append(embeddings.times, embeddings.times[-1] + hop)
        mesh = embedding_axes.pcolormesh(
            edges, np.arange(embeddings.values.shape[1] + 1), embeddings.values.T, cmap="viridis", rasterized=True
        )
        figure.colorbar(mesh, ax=embedding_axes, label="value")
    embedding_axes.set(ylabel="embedding dimension", xlabel="seconds", xlim=(0, seconds))
    figure.savefig(path, dpi=120)
