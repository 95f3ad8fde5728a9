"""How sure a measured share is."""

from __future__ import annotations

from math import sqrt


def wilson_interval(right: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Return a confidence interval for a share of which ``right`` of ``count`` were observed, 95 % by default.

    Args:
        right: number of successes.
        count: number of trials.
        z: quantile of the normal distribution.

    Source: Wilson, Probable Inference, the Law of Succession, and Statistical Inference, 1927.

    Example:
        >>> low, high = wilson_interval(5, 10)
        >>> f"{low:.3f} {high:.3f}"
        '0.237 0.763'
    """
    share, spread = right / count, z * z / count
    center = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(center - half, 0.0), min(center + half, 1.0)  # beyond which rounding alone leads
