"""The command ``report``: what a network has learnt, as one page."""

from capsule_lightning.report.page import Written, build, report
from capsule_lightning.report.subject import Subject, subject_of_file, subject_of_run

__all__ = ["Subject", "Written", "build", "report", "subject_of_file", "subject_of_run"]
