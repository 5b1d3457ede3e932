"""Embed a corpus: resumable outputs, AudioSet records, and lists of failures."""

from vggish_keras.corpus.audioset import (
    FAILURES,
    FAILURES_HEADER,
    failures_path,
    failures_row,
    make_record,
    write_failures,
)
from vggish_keras.corpus.contents import Contents, find_embeddings, read_contents, read_folder_options, saved_files
from vggish_keras.corpus.run import CorpusEmbedder, Plan, Summary, embed_corpus, plan
from vggish_keras.embedding_files import RECORDS_SUFFIX

__all__ = [
    "FAILURES",
    "FAILURES_HEADER",
    "RECORDS_SUFFIX",
    "Contents",
    "CorpusEmbedder",
    "Plan",
    "Summary",
    "embed_corpus",
    "failures_path",
    "failures_row",
    "find_embeddings",
    "make_record",
    "plan",
    "read_contents",
    "read_folder_options",
    "saved_files",
    "write_failures",
]
