"""Embed a corpus: resumable outputs, AudioSet records, and lists of failures."""

from vggish_keras.corpus.audioset import (
    FAILURES,
    FAILURES_HEADER,
    RECORDS_SUFFIX,
    failures_row,
    make_record,
)
from vggish_keras.corpus.run import Plan, Summary, embed_corpus, plan

__all__ = [
    "FAILURES",
    "FAILURES_HEADER",
    "RECORDS_SUFFIX",
    "Plan",
    "Summary",
    "embed_corpus",
    "failures_row",
    "make_record",
    "plan",
]
