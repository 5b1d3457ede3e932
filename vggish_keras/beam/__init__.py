"""Recordings in Apache Beam: the steps of a pipeline from files to AudioSet's records, on any of its runners.

    with beam.Pipeline(options=options) as pipeline:
        found = pipeline | MatchAudio(["gs://bucket/clips/**.flac"])
        decoded = found.clips | DecodeAudio()
        embedded = (decoded.examples, decoded.clips) | EmbedAudio("vggish/1", postprocess="quantized")
        embedded | WriteAudioSetRecords("gs://bucket/records")
        (found.failures, decoded.failures) | WriteFailures("gs://bucket/records")

A clip goes by its path, as bytes because a name need not be valid text. Between the steps go examples and not clips, so
memory does not grow with a recording. Those of one that turns out to be damaged are left out when clips are joined.
"""

try:
    import apache_beam
    import google_crc32c  # without which Beam writes no TFRecord files
except ImportError as error:
    raise ImportError('pipelines need Apache Beam: pip install "vggish[beam]"') from error

from vggish_keras.beam.runner import LOCAL_RUNNER, Summary, run, summarize
from vggish_keras.beam.transforms import (
    NAMESPACE,
    Clip,
    DecodeAudio,
    Decoded,
    DecodedClip,
    EmbedAudio,
    EmbedCorpus,
    Embedded,
    Example,
    Failure,
    MatchAudio,
    Matched,
    WriteAudioSetRecords,
    WriteFailures,
    WriteParquet,
)

__all__ = [
    "LOCAL_RUNNER",
    "NAMESPACE",
    "Clip",
    "DecodeAudio",
    "Decoded",
    "DecodedClip",
    "EmbedAudio",
    "EmbedCorpus",
    "Embedded",
    "Example",
    "Failure",
    "MatchAudio",
    "Matched",
    "Summary",
    "WriteAudioSetRecords",
    "WriteFailures",
    "WriteParquet",
    "run",
    "summarize",
]

del apache_beam, google_crc32c
