"""A corpus on one HTML page: a map of its recordings to look at, listen to and search."""

from vggish_keras.explorer.page import check_page_path, explore

__all__ = ["check_page_path", "explore"]
