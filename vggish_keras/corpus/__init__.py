"""Embed a corpus: resumable outputs, AudioSet's records, and lists of the recordings that cannot be read."""

from vggish_keras.corpus.audioset import (
    FAILURES,
    FAILURES_HEADER,
    RECORDS_SUFFIX,
    RecordWriter,
    failures_row,
    make_record,
)
from vggish_keras.corpus.output import Output, check_target, is_complete, open_output
from vggish_keras.corpus.run import Summary, embed_corpus

__all__ = [
    "FAILURES",
    "FAILURES_HEADER",
    "RECORDS_SUFFIX",
    "Output",
    "RecordWriter",
    "Summary",
    "check_target",
    "embed_corpus",
    "failures_row",
    "is_complete",
    "make_record",
    "open_output",
]
