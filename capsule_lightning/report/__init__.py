"""Report what a network has learned, on one page."""

from capsule_lightning.report.page import Written, build, report
from capsule_lightning.report.trained_network import TrainedNetwork, load_from_file, load_from_run

__all__ = ["TrainedNetwork", "Written", "build", "load_from_file", "load_from_run", "report"]
