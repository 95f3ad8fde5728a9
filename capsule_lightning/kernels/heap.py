"""Keep memory between training steps on the CPU.

By default glibc returns the memory of large tensors to the operating system when they are freed, and every step faults
their pages in again, which can take as long as a good part of the arithmetic.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # names and numbers of <malloc.h>
_LARGEST = 2**31 - 1


def keep_heap() -> bool:
    """Ask glibc to serve tensors from its heap and never to shrink it; return False if there is no glibc."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(
        mallopt(name, value) == 1
        for name, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _LARGEST), (_M_TOP_PAD, 64 << 20))
    )
