"""Imported first by the server that the processes of a study are forked from, which then ends with the study.

It would notice by itself that the study is gone, but only once it has imported everything, which takes seconds.
"""

from __future__ import annotations

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1
"""Linux's number of the request for a signal when the process ends that has started this one."""

if sys.platform == "linux" and any("multiprocessing.forkserver" in word for word in sys.orig_argv):
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
