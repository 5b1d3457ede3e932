"""Embed a corpus: resumable outputs, AudioSet records, and lists of failures."""

from vggish_keras.corpus.audioset import (
    FAILURES,
    failures_path,
    make_record,
    write_failures,
)
from vggish_keras.corpus.contents import Contents, find_embeddings, read_contents, read_folder_options, saved_files
from vggish_keras.corpus.output import describe_difference
from vggish_keras.corpus.run import CorpusEmbedder, Plan, Summary, embed_corpus, plan
from vggish_keras.embedding_files import RECORDS_SUFFIX

__all__ = [
    "FAILURES",
    "RECORDS_SUFFIX",
    "Contents",
    "CorpusEmbedder",
    "Plan",
    "Summary",
    "describe_difference",
    "embed_corpus",
    "failures_path",
    "find_embeddings",
    "make_record",
    "plan",
    "read_contents",
    "read_folder_options",
    "saved_files",
    "write_failures",
]
