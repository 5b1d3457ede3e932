"""One self-contained HTML page of a corpus."""

import base64
import importlib.resources
import json
import math
import os
import re
import urllib.parse
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggish_keras._atomic import atomic_write
from vggish_keras._text import printable
from vggish_keras._validation import PathLike, check_choice, file_suffix
from vggish_keras.audio import Channels
from vggish_keras.embeddings import Embeddings
from vggish_keras.explorer import neighbors, sounds
from vggish_keras.explorer.layout import Layout, arrange, check_packages, clusters
from vggish_keras.explorer.points import Points, collect_points

_MAX_PAIRS = 1_000
"""Near-duplicates that the page lists."""
_MAX_CATEGORIES = 39
"""Categories with a color and a symbol of their own, as the joined rest has."""
_MAX_EMBEDDED_BYTES = 300_000_000
"""Browsers limit the length of a script."""


def explore(
    embeddings: Iterable[tuple[str, Embeddings]],
    path: PathLike,
    *,
    audio: PathLike | None = None,
    labels: Mapping[str, Mapping[str, str]] | None = None,
    examples: bool = False,
    layout: Layout | None = None,
    seed: int = 0,
    embed_audio: bool = False,
    channels: Channels = "mix",
    title: str = "Recordings",
) -> list[str]:
    """Writes a map of recordings as one HTML page, which needs neither a server nor a network.

    Recordings that sound alike are close to each other. The page shows the name and a spectrogram of each, plays it,
    lists the ten nearest recordings and what may be wrong in the corpus: near-duplicates, silence, clipping and
    outliers.

    Args:
        embeddings: Names and embeddings of recordings, all of one kind: floats or 8 bits.
        path: The .html file. An existing file is replaced.
        audio: The folder that the names are relative to. Recordings in it are played and drawn; without it, the map and
            the lists based on embeddings remain. The page refers to them by paths relative to its own folder.
        labels: Ways to color the recordings: for the name of each, a mapping from recordings to labels.
        examples: True shows a point for each example, False one for each recording: its mean embedding.
        layout: "umap" or "pca"; None selects "umap" for 50 or more points, and "pca" for fewer. "umap" needs
            umap-learn.
        seed: Seed of UMAP, so that the same page can be created again.
        embed_audio: True stores the first 30 s of each recording in the page, as Opus, so that it can be shared.
        channels: "mix", or the index of the channel that is drawn and stored.
        title: Title of the page.

    Returns:
        An error message for each recording in `audio` that cannot be read.

    Raises:
        ValueError: The suffix is not .html, the folder does not exist, there are no embeddings, they are not finite or
            of different kinds, or the sound to store is too large.
        ImportError: A package of `vggish[explore]` is not installed.
        OSError: The page cannot be written.

    Examples:
        >>> embeddings = vk.embed("recording.wav", weights=None)  # random weights, to be quick
        >>> vk.explore([("recording.wav", embeddings)], "corpus.html", audio=".")
        []
    """
    check_choice("layout", layout, (None, "umap", "pca"))
    path = check_page_path(path)
    if embed_audio and audio is None:
        raise ValueError("embed_audio requires audio")
    plotly = _plotly()
    check_packages(layout)
    points = collect_points(embeddings, examples)
    positions = arrange(points.vectors, layout, seed)
    nearest = neighbors.nearest(points.vectors)
    names = list(dict.fromkeys(points.names))
    index = {name: number for number, name in enumerate(names)}
    heard = [] if audio is None else list(sounds.listen([Path(audio) / name for name in names], channels))
    data = {
        "title": title,
        "names": [printable(name) for name in names],
        "recordings": _packed([index[name] for name in points.names], "<u4"),
        "times": _packed(points.times, "<f4"),
        "positions": _packed(positions, "<f4"),
        "colorings": _colorings(points, positions, labels or {}),
        "neighbors": _packed(nearest.indices, "<u4"),
        "similarities": _packed(nearest.similarities, "<f4"),
        "count": nearest.indices.shape[1],
        "urls": None if audio is None else _urls(names, Path(audio), path, heard, channels if embed_audio else None),
        "thumbnails": None if audio is None else sounds.join_thumbnails(heard),
        "quality": _quality(points, nearest, heard),
    }
    with atomic_write(path) as partial:
        partial.write_text(_fill(data, plotly), encoding="utf-8")
    return [sound.error for sound in heard if sound.error is not None]


def check_page_path(path: PathLike) -> Path:
    """Returns the path of a page as a Path, or raises a ValueError for a wrong suffix or a missing folder."""
    path = Path(path)
    if file_suffix(path) != ".html":
        raise ValueError(f"expected an .html file, got {path}")
    if not path.parent.is_dir():
        raise ValueError(f"folder {path.parent} does not exist")
    return path


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        raise ImportError('explore requires plotly: pip install "vggish[explore]"') from error
    script: str = get_plotlyjs()
    return script


def _urls(
    names: Sequence[str], audio: Path, page: Path, heard: Sequence[sounds.Sound], embedded_channels: Channels | None
) -> list[str | None]:
    """The address of each recording, or with channels its sound as a data URL; None if it cannot be read."""
    found: list[str | None] = []
    size = 0
    for name, sound in zip(names, heard, strict=True):
        if sound.error is not None:
            found.append(None)
        elif embedded_channels is None:
            found.append(_relative_url(audio / name, page.parent))
        else:
            url = sounds.as_opus(audio / name, embedded_channels)
            size += len(url)
            if size > _MAX_EMBEDDED_BYTES:
                raise ValueError(
                    f"the sound of {len(names):,} recordings is too large for a page, beyond "
                    f"{_MAX_EMBEDDED_BYTES / 1e6:.0f} MB: leave embed_audio out"
                )
            found.append(url)
    return found


def _relative_url(path: Path, folder: Path) -> str:
    absolute = os.path.abspath(path)
    try:
        relative = os.path.relpath(absolute, os.path.abspath(folder))
    except ValueError:  # a different drive of Windows
        return Path(absolute).as_uri()
    return urllib.parse.quote(os.fsencode(relative.replace(os.sep, "/")))


def _colorings(
    points: Points, positions: NDArray[np.float32], labels: Mapping[str, Mapping[str, str]]
) -> list[dict[str, Any]]:
    """For each coloring, its categories and the category of each point."""
    folders = [os.path.dirname(name) or "." for name in points.names]
    colorings = {name: [column.get(recording, "none") for recording in points.names] for name, column in labels.items()}
    if len(set(folders)) > 1 or not colorings:
        colorings.setdefault("folder", folders)
    if "cluster" not in colorings:
        colorings["cluster"] = clusters(positions)
    return [_coloring(name, values) for name, values in colorings.items()]


def _coloring(name: str, values: Sequence[str]) -> dict[str, Any]:
    counts = Counter(values)
    kept = sorted(counts, key=lambda value: (-counts[value], value))[:_MAX_CATEGORIES]
    categories = sorted(kept, key=_natural)
    numbers = {value: number for number, value in enumerate(categories)}
    if len(counts) > len(kept):
        categories.append("others")
    return {
        "name": name,
        "categories": [printable(value) for value in categories],
        "values": _packed([numbers.get(value, len(kept)) for value in values], "<u2"),
    }


def _natural(value: str) -> tuple[float, str]:
    number = value.rpartition(" ")[2]
    return (float(number) if number.isdecimal() else math.inf, value)


def _quality(points: Points, nearest: neighbors.Neighbors, heard: Sequence[sounds.Sound]) -> dict[str, Any]:
    first: dict[str, int] = {}
    for index, name in enumerate(points.names):
        first.setdefault(name, index)
    by_recording = list(zip(first.values(), heard, strict=False))
    pairs = [
        (a, b, round(cosine, 6))
        for a, b, cosine in neighbors.near_duplicates(nearest)
        if points.names[a] != points.names[b]
    ]
    return {
        "duplicates": pairs[:_MAX_PAIRS],
        "moreDuplicates": max(0, len(pairs) - _MAX_PAIRS),
        "silent": [point for point, sound in by_recording if sound.is_silent],
        "clipped": [point for point, sound in by_recording if sound.is_clipped],
        "unreadable": [point for point, sound in by_recording if sound.error is not None],
        "outliers": neighbors.outliers(nearest),
    }


def _packed(values: Any, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype).tobytes()).decode()


def _fill(data: Mapping[str, Any], plotly: str) -> str:
    """Fills the template. Nothing in the data can end its script element."""
    folder = importlib.resources.files("vggish_keras.explorer")
    text = json.dumps(data, ensure_ascii=True, allow_nan=False).replace("<", "\\u003c").replace("&", "\\u0026")
    parts = {
        "STYLE": folder.joinpath("page.css").read_text(encoding="utf-8"),
        "PLOTLY": plotly,
        "DATA": text,
        "SCRIPT": folder.joinpath("page.js").read_text(encoding="utf-8"),
    }
    template = folder.joinpath("page.html").read_text(encoding="utf-8")
    return "".join(parts.get(part, part) for part in re.split(r"/\* ([A-Z]+) \*/", template))
