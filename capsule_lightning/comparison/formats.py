"""Metrics and differences of metrics as text."""

from __future__ import annotations

from capsule_lightning.comparison.groups import MISSING


def format_metric(metric: str, value: float | None, deviation: float | None = None) -> str:
    """Return a metric as text for a table, with its deviation if there is one.

    Example:
        >>> format_metric("test/accuracy", 0.987, 0.004), format_metric("test/loss", 0.5)
        ('98.70 ± 0.40 %', '0.5')
    """
    if value is None:
        return MISSING
    scale, form, unit = (100, ".2f", " %") if metric.endswith("accuracy") else (1, ".4g", "")
    spread = "" if deviation is None else f" ± {scale * deviation:{form}}"
    return f"{scale * value:{form}}{spread}{unit}"


def format_difference(metric: str, value: float, unit: bool = True) -> str:
    """Return a difference in a metric as text, in percentage points if it is an accuracy.

    Example:
        >>> format_difference("test/accuracy", 0.0123), format_difference("test/loss", -0.5)
        ('1.23 points', '-0.5')
    """
    if metric.endswith("accuracy"):
        return f"{100 * value:.2f}{' points' if unit else ''}"
    return f"{value:.3g}"
