"""An order that depends on a seed and on names alone.

A split drawn from a random generator's state changes with the library's version and with the
order of the rows; one sorted by a keyed hash of each row's id does not.
"""

from __future__ import annotations

import hashlib


def keyed_hash(seed: int, name: str) -> str:
    """A uniformly distributed sort key of `name`: 64 hexadecimal digits, the same everywhere."""
    return hashlib.sha256(f"{seed}\0{name}".encode()).hexdigest()


def short_hash(*parts: str) -> str:
    """Twelve hexadecimal digits that identify the parts, for ids."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
