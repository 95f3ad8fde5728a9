"""The ids that every vocabulary has, the same for networks and for data."""

from __future__ import annotations

PAD = 0
"""Fills a batch up behind a text that is shorter than the longest; it must not vote."""
UNKNOWN = 1
"""Stands for what the vocabulary does not have, and for an empty text."""
BEGIN = 2
"""Comes before the first word of a translation."""
END = 3
"""Comes after the last word of a translation."""
SPECIAL = ("<pad>", "<unknown>", "<begin>", "<end>")
"""Names of the ids that are no part of a text, in their order."""
