"""Embed a corpus: resumable outputs, AudioSet records, and lists of failures."""

from vggish_keras.corpus.audioset import (
    FAILURES,
    FAILURES_HEADER,
    failures_row,
    make_record,
)
from vggish_keras.corpus.contents import Contents, read_contents
from vggish_keras.corpus.run import Plan, Summary, embed_corpus, plan
from vggish_keras.embedding_files import RECORDS_SUFFIX

__all__ = [
    "FAILURES",
    "FAILURES_HEADER",
    "RECORDS_SUFFIX",
    "Contents",
    "Plan",
    "Summary",
    "embed_corpus",
    "failures_row",
    "make_record",
    "plan",
    "read_contents",
]
