"""Apache Beam transforms from audio files to embeddings, for any of Beam's runners.

    with beam.Pipeline(options=options) as pipeline:
        found = pipeline | MatchAudio(["gs://bucket/corpus/**.flac"])
        embedded = found.recordings | EmbedAudio("vggish/1")
        embedded.embeddings | WriteParquet("gs://bucket/embeddings")
        (found.failures, embedded.failures) | WriteFailures("gs://bucket/embeddings")

Recordings are keyed by path (bytes, because file names need not be valid text).
"""

try:
    import apache_beam
except ImportError as error:
    raise ImportError('pipelines require Apache Beam: pip install "vggish[beam]"') from error

from vggish_keras.beam.embed_corpus import EmbedCorpus
from vggish_keras.beam.embedding import NAMESPACE, Recording
from vggish_keras.beam.runner import LOCAL_RUNNER, Summary, run, summarize
from vggish_keras.beam.transforms import (
    EmbedAudio,
    Embedded,
    Failure,
    MatchAudio,
    Matched,
    WriteFailures,
    WriteParquet,
    WriteStatistics,
)

__all__ = [
    "LOCAL_RUNNER",
    "NAMESPACE",
    "EmbedAudio",
    "EmbedCorpus",
    "Embedded",
    "Failure",
    "MatchAudio",
    "Matched",
    "Recording",
    "Summary",
    "WriteFailures",
    "WriteParquet",
    "WriteStatistics",
    "run",
    "summarize",
]

del apache_beam
