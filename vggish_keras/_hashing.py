"""What identifies weights, whichever file they come from."""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np


def checksum(contents: Iterable[Any]) -> str:
    """Returns "sha256:" and the SHA-256 of blocks of bytes, one after the other."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return f"sha256:{digest.hexdigest()}"


def hash_variables(variables: Iterable[Any]) -> str:
    """Returns "sha256:" and the SHA-256 of the float32 values of variables, one after the other."""
    return checksum(np.ascontiguousarray(variable, np.float32).data for variable in variables)
