"""Many recordings into one output: what is there is skipped, what is bad is listed, what is done is kept."""

import contextlib
import errno
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vggish_keras._errors import error_message
from vggish_keras.corpus.output import Output
from vggish_keras.embeddings import Embeddings
from vggish_keras.recordings import Recordings

if TYPE_CHECKING:
    from vggish_keras.embedder import Embedder

_NAME_ERRORS = {errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.EINVAL, errno.EILSEQ}
"""Errors of a file whose name the output's file system does not take, or which is in the way of a different one."""


class Summary(NamedTuple):
    """What a run did.

    Attributes:
        skipped: Recordings that were there already.
        embedded: Recordings that were embedded.
        embeddings: Their embeddings.
        failures: Bad recordings and why.
    """

    skipped: int
    embedded: int
    embeddings: int
    failures: list[tuple[Path, str]]


def embed_corpus(
    embedder: "Embedder",
    recordings: Recordings,
    output: Output,
    refused: Mapping[Path, str],
    on_audio: Callable[[float], object],
    on_result: Callable[[Path, Embeddings | Exception | None], object],
) -> Summary:
    """Embeds what the output does not have.

    Args:
        embedder: Embeds it.
        recordings: What to embed.
        output: Where it goes. It is closed in any case.
        refused: Recordings that are not to be embedded, and why; they count as bad.
        on_audio: As in `Embedder.embed_many`.
        on_result: Called with each recording, in order, and what came out: None for one that was there.

    Returns:
        What was done. The output lists the bad recordings, too.

    Raises:
        OSError: The output cannot be written.
    """
    bad = dict(refused)
    embedded = embeddings = 0
    with contextlib.closing(output):
        missing = []
        for path in recordings.paths:
            if path in bad:
                on_result(path, ValueError(bad[path]))
            elif output.has(path):
                on_result(path, None)
            else:
                missing.append(path)

        def finish() -> None:
            good = [path for path in recordings.paths if path not in bad]
            output.finish(good, failures())

        def failures() -> list[tuple[Path, str]]:
            return [(path, bad[path]) for path in recordings.paths if path in bad]

        try:
            with contextlib.closing(embedder.embed_many(missing, on_audio)) as results:
                for path, result in results:
                    if not isinstance(result, Exception):
                        result = _keep(output, path, result)
                    if isinstance(result, Exception):
                        bad[path] = error_message(result)
                    else:
                        embedded += 1
                        embeddings += len(result.times)
                    on_result(path, result)
        except BaseException:
            with contextlib.suppress(OSError):
                finish()
            raise
        finish()
    skipped = len(recordings.paths) - len(bad) - embedded
    return Summary(skipped, embedded, embeddings, failures())


def _keep(output: Output, path: Path, embeddings: Embeddings) -> Embeddings | OSError:
    """Adds to the output; an error that its name causes is an error of this recording alone."""
    try:
        output.add(path, embeddings)
    except OSError as error:
        if error.errno not in _NAME_ERRORS:
            raise
        return error
    return embeddings
