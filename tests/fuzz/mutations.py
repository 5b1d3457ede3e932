"""Reproducible damage to files, and the processes in which many damaged files are tried.

    python -m tests.fuzz.test_records 17

tries a single seed in this process.
"""

import subprocess
import sys

import numpy as np


def mutate(content: bytes, rng: np.random.Generator, header: int = 64) -> bytes:
    """Changes, removes or inserts bytes in one to seven places, about half of them in the header."""
    mutated = bytearray(content)
    for _ in range(rng.integers(1, 8)):
        place = int(rng.integers(0, header if rng.random() < 0.5 else max(1, len(mutated))))
        change = rng.integers(4)
        if change == 0 and place < len(mutated):
            mutated[place] = rng.integers(256)
        elif change == 1:
            del mutated[place : place + int(rng.integers(1, 200))]
        elif change == 2:
            mutated[place:place] = rng.bytes(int(rng.integers(1, 200)))
        else:  # values at which sizes overflow
            size = 2 ** int(rng.integers(1, 4))
            value = [0, 1, 2 ** (8 * size - 1) - 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1][rng.integers(5)]
            mutated[place : place + size] = value.to_bytes(size, ("little", "big")[rng.integers(2)])
    return bytes(mutated)


def try_seeds(module: str, count: int) -> None:
    """Runs a module's `check(seed)` for many seeds in a separate process; reports the last seed if it dies."""
    process = subprocess.run(
        [sys.executable, "-m", module, *map(str, range(count))], capture_output=True, text=True, check=False
    )
    last = process.stdout.splitlines()[-1] if process.stdout else "none"
    assert process.returncode == 0, f"status {process.returncode} at seed {last}\n{process.stderr[-3_000:]}"
    assert last == str(count - 1)


def main(check) -> None:
    """The command line of a module that has a `check`."""
    for seed in sys.argv[1:]:
        print(seed, flush=True)
        check(int(seed))
