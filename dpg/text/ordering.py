"""An order of rows that depends only on a seed and on the rows' names.

A split that is drawn with a random generator changes with the library's version and with the order
of the rows. A split by the order of a keyed hash of each row's id does not.
"""

from __future__ import annotations

import hashlib


def keyed_hash(seed: int, name: str) -> str:
    """A uniformly distributed sort key: 64 hexadecimal digits, the same on every machine."""
    return hashlib.sha256(f"{seed}\0{name}".encode()).hexdigest()


def short_hash(*parts: str) -> str:
    """An id of twelve hexadecimal digits, made from the parts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
