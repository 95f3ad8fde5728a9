"""Weights & Biases, with a guard: whatever fails there, the training goes on."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn

if TYPE_CHECKING:
    from wandb import Run

OFFLINE_MODES = ("offline", "dryrun", "disabled")


class GuardedWandbLogger(WandbLogger):
    """Online where a key and a server are found, offline otherwise, silent where W&B itself breaks.

    Offline runs lie in the run's folder; ``wandb sync`` uploads them later, under the same id.

    Args:
        project: W&B project.
        name: display name; null for the run's id.
        group: runs to show together; null for the experiment's name.
        tags: of the run.
        entity: team or user; null for the account's default.
        job_type: a second grouping.
        notes: free text.
        save_dir: where W&B keeps its files; null for the run's folder.
        offline: write locally only.
        log_model: upload checkpoints as artifacts: ``all`` as they are saved, true at the end.
        init_timeout: seconds that the server has to answer at the start before the run goes offline.
        finish_timeout: seconds that an upload may take at the end.
    """

    def __init__(
        self,
        project: str = "capsule_lightning",
        name: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        entity: str | None = None,
        job_type: str | None = None,
        notes: str | None = None,
        save_dir: str | None = None,
        offline: bool = False,
        log_model: Literal["all"] | bool = False,
        init_timeout: float = 30.0,
        finish_timeout: float = 60.0,
    ) -> None:
        super().__init__(
            name=name,
            save_dir=save_dir or "",
            project=os.environ.get("WANDB_PROJECT", project),
            log_model=log_model,
            group=group,
            tags=list(tags),
            entity=entity,
            job_type=job_type,
            notes=notes,
        )
        self._wandb_init.pop("anonymous", None)  # has no effect any more, and W&B warns of it
        self._stay_offline = offline
        self._init_timeout, self._finish_timeout = init_timeout, finish_timeout
        self._broken = False

    def place(self, folder: Path, experiment: str, run_id: str) -> None:
        """See `PlacedLogger.place`."""
        self._save_dir = self._wandb_init["dir"] = self._wandb_init["dir"] or str(folder)
        self._id = self._wandb_init["id"] = self._wandb_init["id"] or run_id
        self._name = self._wandb_init["name"] = self._wandb_init["name"] or run_id
        self._wandb_init["group"] = self._wandb_init["group"] or experiment

    @property
    def experiment(self) -> Any:
        """The W&B run, begun at the first call on rank zero; offline, or nothing at all, where that alone works."""
        if getattr(rank_zero_only, "rank", 0) != 0 or self._experiment is not None:
            return self._begin()
        if self._broken:
            return DummyLogger().experiment
        import wandb

        try:
            Path(self._wandb_init["dir"] or ".").mkdir(parents=True, exist_ok=True)  # else W&B takes a temporary folder
            self._wandb_init["settings"] = wandb.Settings(
                init_timeout=self._init_timeout, finish_timeout=self._finish_timeout
            )
            if os.environ.get("WANDB_MODE") not in OFFLINE_MODES:
                if self._stay_offline:
                    self._wandb_init["mode"] = "offline"
                elif not wandb.login(prompt=False, verify=False):
                    self._go_offline("no API key is known here; `wandb login` stores one")
            return self._begin()
        except Exception as error:  # no network, a refused key, a server that fails or never answers
            wandb.teardown()  # else the same run id is "in use"
            self._go_offline(str(error).splitlines()[0][:160] if str(error) else type(error).__name__)
        return self._guarded(self._begin) or DummyLogger().experiment

    def _begin(self) -> Run:
        run: Run = super().experiment
        return run

    def _go_offline(self, why: str) -> None:
        self._wandb_init["mode"] = "offline"
        files = Path(self._wandb_init["dir"] or ".") / "wandb" / "offline-run-*"
        rank_zero_info(f"W&B: {why}. Logging offline; upload later with: wandb sync {files}")

    def _guarded(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._broken:
            return None
        try:
            return function(*args, **kwargs)
        except Exception as error:
            self._broken = True
            rank_zero_warn(f"W&B stopped working ({type(error).__name__}: {error}); training goes on without it")
            return None

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """See `WandbLogger.log_metrics`; images and tables go through it too."""
        self._guarded(super().log_metrics, metrics, step)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """See `WandbLogger.log_hyperparams`."""
        self._guarded(super().log_hyperparams, params)

    @rank_zero_only
    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        """See `WandbLogger.log_image`."""
        self._guarded(super().log_image, key, images, step, **kwargs)

    @rank_zero_only
    def log_table(self, key: str, *args: Any, **kwargs: Any) -> None:
        """See `WandbLogger.log_table`."""
        self._guarded(super().log_table, key, *args, **kwargs)

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """See `WandbLogger.after_save_checkpoint`."""
        self._guarded(super().after_save_checkpoint, checkpoint_callback)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """See `WandbLogger.finalize`."""
        self._guarded(super().finalize, status)


def finish(exit_code: int) -> None:
    """End the W&B run of this process, if there is one, in the logger's ``finish_timeout`` seconds at most."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        with suppress(Exception):  # the files are on disk, and there is nothing left to save
            wandb.finish(exit_code=exit_code)
