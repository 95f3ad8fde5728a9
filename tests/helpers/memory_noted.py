"""What a command takes of the machine's memory beyond its libraries; on Linux."""

from pathlib import Path

import lightning as L


class NotesMemory(L.Callback):
    """Write the most bytes that were resident, less what was before any data were read.

    Args:
        output: file for the number.
    """

    def __init__(self, output: str = "memory.txt") -> None:
        self.output, self.before = output, resident("VmRSS")

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        Path(self.output).write_text(str(resident("VmHWM") - self.before))


def resident(name: str) -> int:
    """Return the bytes that the process has resident now, ``VmRSS``, or had at most, ``VmHWM``."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
