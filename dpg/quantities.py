"""Format numbers with units for messages and tables."""

from __future__ import annotations


def in_bytes(size: float) -> str:
    """A number of bytes, such as "1.2 GB" (1 GB is 10^9 bytes)."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size:.0f} bytes"


def duration(seconds: float) -> str:
    """Seconds in hours and minutes, rounded to minutes, such as "1 h 5 min"."""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
