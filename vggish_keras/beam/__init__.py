"""Apache Beam transforms from audio files to embeddings, for any of Beam's runners.

    with beam.Pipeline(options=options) as pipeline:
        found = pipeline | MatchAudio(["gs://bucket/corpus/**.flac"])
        decoded = found.recordings | DecodeAudio()
        embedded = (decoded.examples, decoded.recordings) | EmbedAudio("vggish/1", postprocess="quantized")
        embedded | WriteAudioSetRecords("gs://bucket/records")
        (found.failures, decoded.failures) | WriteFailures("gs://bucket/records")

Recordings are keyed by path (bytes, because file names need not be valid text). The transforms exchange examples rather
than recordings, so memory does not depend on a recording's length. Examples of recordings that turn out to be damaged
are dropped when recordings are reassembled.
"""

try:
    import apache_beam
    import google_crc32c  # without it, Beam cannot write TFRecord files
except ImportError as error:
    raise ImportError('pipelines need Apache Beam: pip install "vggish[beam]"') from error

from vggish_keras.beam.runner import LOCAL_RUNNER, Summary, run, summarize
from vggish_keras.beam.transforms import (
    NAMESPACE,
    DecodeAudio,
    Decoded,
    DecodedRecording,
    EmbedAudio,
    EmbedCorpus,
    Embedded,
    Example,
    Failure,
    MatchAudio,
    Matched,
    Recording,
    WriteAudioSetRecords,
    WriteFailures,
    WriteParquet,
    WriteStatistics,
)

__all__ = [
    "LOCAL_RUNNER",
    "NAMESPACE",
    "DecodeAudio",
    "Decoded",
    "DecodedRecording",
    "EmbedAudio",
    "EmbedCorpus",
    "Embedded",
    "Example",
    "Failure",
    "MatchAudio",
    "Matched",
    "Recording",
    "Summary",
    "WriteAudioSetRecords",
    "WriteFailures",
    "WriteParquet",
    "WriteStatistics",
    "run",
    "summarize",
]

del apache_beam, google_crc32c
