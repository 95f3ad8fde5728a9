"""Weights & Biases, with a guard: whatever fails there, the training goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import DummyExperiment, DummyLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn

from capsule_lightning.errors import InputError, nearest
from capsule_lightning.loggers.base import Placement
from capsule_lightning.loggers.labels import begun_as, known_wandb_id, labels, wandb_id

if TYPE_CHECKING:
    from wandb import Run

MODES = ("online", "offline", "disabled", "shared", "dryrun", "run")
OFFLINE_MODES = ("offline", "dryrun", "disabled")
BEGINNINGS = 3
"""How often one process begins a run: as it was told, then offline, and once more where W&B breaks again."""
PATIENCE = 10.0
"""Seconds that W&B's core process may take for what needs no server, and beyond the timeouts for what does."""
FLUSH_SECONDS = 1.0
"""How often the core process writes to disk what it has; its own default is 15 s."""
LABEL_VARIABLES = {"name": "WANDB_NAME", "group": "WANDB_RUN_GROUP", "tags": "WANDB_TAGS", "job_type": "WANDB_JOB_TYPE"}
"""Where a user may have said in W&B's own way what the logger would choose."""
STAGING_VARIABLE = "WANDB_DATA_DIR"
SAVED = f"All but the last row and the last {FLUSH_SECONDS:g} s of it are on disk"


class GuardedWandbLogger(WandbLogger):
    """Online where a key and a server are found, offline otherwise, silent where W&B itself breaks.

    Offline runs lie in the run's folder; ``wandb sync`` uploads them later, under the same id. Where W&B's core process
    dies in mid-run, an offline part of the same run goes on from there. All that W&B can cost a run is ``init_timeout``
    and ``finish_timeout`` and some seconds.

    The step of a row, ``_step``, is the trainer's, so that a resumed run continues the curves of the first. Online, the
    steps that it repeats are not sent again. Of offline parts they are uploaded twice, with equal values: W&B numbers
    their ``_step`` on, and ``trainer/global_step``, the axis of all curves, stays right. What a process that is killed
    outright had not sent yet, 15 s of rows at most, is in its part on disk.

    The id in W&B is ``<experiment>-<run id>``, or the one that a sweep has given. What is not said here or in W&B's own
    environment variables (`WANDB_NAME`, ...) is taken from the configuration when a run begins, and left as W&B has it
    when that goes on or is tested.

    Args:
        project: W&B project.
        name: display name; null for ``<routing>-seed<k>``, or the run's id where a study has made it of its choice.
        group: runs to show together; null for those of the experiment that differ in their seed: with the same routing,
            or the same choice of a study. It does not look at other options.
        tags: of the run; none for data, network and routing.
        entity: team or user; null for the account's default.
        job_type: a second grouping; null for the command.
        notes: free text.
        save_dir: where W&B keeps its files; null for the run's folder.
        offline: write locally only.
        log_model: upload checkpoints as artifacts: ``all`` as they are saved, true the best and the last at the end.
            Offline, copies of them wait in the run's folder.
        init_timeout: seconds that the server has to answer at the start before the run goes offline.
        finish_timeout: seconds that an upload may take at the end.

    Raises:
        InputError: a ``WANDB_MODE`` that W&B does not know.
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
        init_timeout: float = 10.0,
        finish_timeout: float = 15.0,
    ) -> None:
        mode = os.environ.get("WANDB_MODE", MODES[0])
        if mode not in MODES:
            raise InputError(
                f"WANDB_MODE={mode!r}: expected one of {', '.join(MODES)}{nearest(mode, MODES)}; correct or unset it"
            )
        super().__init__(
            name=name,
            save_dir=save_dir or "",
            project=os.environ.get("WANDB_PROJECT", project),
            log_model=log_model,
            group=group,
            tags=list(tags) or None,
            entity=entity,
            job_type=job_type,
            notes=notes,
        )
        self._wandb_init.pop("anonymous", None)  # has no effect any more, and W&B warns of it
        self._stay_offline = offline
        self._init_timeout, self._finish_timeout = init_timeout, finish_timeout
        self._begun = 0
        self._broken = self._guarding = False
        self._said: set[str] = set()
        self._arrived = self._row = 0

    def place(self, placement: Placement) -> None:
        """See `PlacedLogger.place`."""
        init, run_id = self._wandb_init, placement.run_folder.name
        self._save_dir = init["dir"] = init["dir"] or str(placement.folder)
        new = known_wandb_id(placement) or wandb_id(placement.config["experiment"], run_id)
        begun = begun_as((new, run_id), placement.run_folder, Path(init["dir"]))
        self._id = init["id"] = begun or new
        if begun is None:
            for key, value in labels(placement)._asdict().items():
                if LABEL_VARIABLES[key] not in os.environ:
                    init[key] = init[key] or value

    @property
    def experiment(self) -> Any:
        """The W&B run, begun at the first call on rank zero; offline, or nothing at all, where that alone works."""
        if getattr(rank_zero_only, "rank", 0) != 0 or self._experiment is not None:
            return super().experiment
        if not self._broken:
            try:
                self._begin()
            except Exception as error:  # no network, a refused key, a server that fails or never answers
                self._begin_offline(reason(error))
        return self._experiment or DummyLogger().experiment

    def _begin(self) -> None:
        # W&B would send reports of its own errors to its server, and wait for that at the exit of the process.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self._begun += 1
        Path(self._wandb_init["dir"] or ".").mkdir(parents=True, exist_ok=True)  # else W&B takes a temporary folder
        with core_ended_after(self._init_timeout + PATIENCE):
            if os.environ.get("WANDB_MODE") != "disabled":
                # The account's name is for printing alone, and is asked for three times, 5 s each.
                wandb.setup(wandb.Settings(x_disable_viewer=True, x_service_wait=self._init_timeout))
            self._wandb_init["settings"] = wandb.Settings(
                init_timeout=self._init_timeout,
                finish_timeout=self._finish_timeout,
                finish_timeout_raises=True,
                x_transaction_log_flush_interval=FLUSH_SECONDS,
            )
            if "mode" not in self._wandb_init and os.environ.get("WANDB_MODE") not in OFFLINE_MODES:
                if self._stay_offline:
                    self._wandb_init["mode"] = "offline"
                elif not wandb.login(prompt=False, verify=False):
                    self._wandb_init["mode"] = "offline"
                    self._say_offline("no API key is known here; `wandb login` stores one")
            run: Run = super().experiment
        self._arrived = run.starting_step
        self._row = max(self._row, self._arrived)

    def _begin_offline(self, why: str) -> None:
        """A new run or the next part of the one that broke; the end of all logging to W&B where that fails too."""
        parts = [] if self._experiment is None else [Path(self._experiment.dir).parent]
        abandon()
        self._experiment = None
        self._wandb_init["mode"] = "offline"
        try:
            if self._begun == BEGINNINGS:
                raise RuntimeError("no further attempt is made")
            self._begin()
        except Exception as error:
            abandon()
            self._broken = True
            saved = f". {SAVED}; {upload(*parts)}" if parts else ""
            rank_zero_warn(f"W&B stopped working ({why}; {reason(error)}); training goes on without it{saved}")
            return
        if not parts:
            self._say_offline(why)
        else:
            parts.append(Path(self.experiment.dir).parent)
            rank_zero_info(f"W&B: {why}. {SAVED}, and logging goes on offline; {upload(*parts)}")

    def _say_offline(self, why: str) -> None:
        parts = Path(self._wandb_init["dir"] or ".") / "wandb" / "offline-run-*"
        rank_zero_info(f"W&B: {why}. Logging offline; {upload(parts)}")

    def _guarded(self, function: Callable[..., Any], *args: Any, limit: float | None = None, **kwargs: Any) -> Any:
        """Call W&B; once more, in a run begun anew, where its core process has died."""
        if self._guarding:  # a call within a call: the outer one is repeated as a whole
            return function(*args, **kwargs)
        while not self._broken:
            self._guarding = True
            try:
                if isinstance(self.experiment, DummyExperiment):  # else begun, under a time limit of its own
                    return None
                with core_ended_after(limit or PATIENCE):
                    return function(*args, **kwargs)
            except Exception as error:
                if not (isinstance(error, ConnectionError) or core_is_dead()):
                    name = function.__name__.lstrip("_")
                    self._once(name, f"W&B refused {name} ({reason(error)}); training goes on without it")
                    return None
                self._begin_offline(f"its core process has died ({reason(error)})")
            finally:
                self._guarding = False
        return None

    def _once(self, about: str, message: str) -> None:
        if about not in self._said:
            self._said.add(about)
            rank_zero_info(message)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """One row of the history; images and tables go through it too.

        W&B takes rows in ascending order and drops others. So what is late, or says no step, joins the last row: the
        figures of an epoch's end are a step ahead of its metrics. Step 0 of a run that is further on is that of an
        evaluation, and comes last as well.

        Args:
            metrics: by name.
            step: of the trainer; None for that of the last row.
        """
        self._guarded(self._log_row, metrics, step)

    def _log_row(self, metrics: Mapping[str, Any], step: int | None) -> None:
        run = self.experiment
        if step and step < self._arrived:
            message = f"W&B: the run is there up to step {self._arrived - 1}; what repeats it is not sent again"
            self._once("repeated steps", message)
            return
        self._row = max(self._row, step or 0)
        run.log({**metrics, "trainer/global_step": self._row}, step=self._row)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """See `WandbLogger.log_hyperparams`."""
        known = vars(params) if isinstance(params, Namespace) else params
        self._guarded(self._log_config, known)
        self._wandb_init["config"] = {**self._wandb_init.get("config", {}), **known}  # for a run begun anew

    def _log_config(self, config: dict[str, Any]) -> None:
        there = dict(self.experiment.config)  # from a sweep, which lets nobody else set its values
        super().log_hyperparams({key: value for key, value in config.items() if there.get(key, ...) != value})

    @rank_zero_only
    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        """See `WandbLogger.log_image`."""
        self._guarded(super().log_image, key, images, step, **kwargs)

    @rank_zero_only
    def log_table(
        self,
        key: str,
        columns: list[str] | None = None,
        data: list[list[Any]] | None = None,
        dataframe: Any = None,
        step: int | None = None,
    ) -> None:
        """See `WandbLogger.log_table`; arrays ``(H, W)`` or ``(H, W, 3)`` of uint8 in ``data`` are pictures."""
        self._guarded(self._log_table, key, columns, data, dataframe, step)

    def _log_table(
        self, key: str, columns: list[str] | None, data: list[list[Any]] | None, dataframe: Any, step: int | None
    ) -> None:
        import wandb

        if self.experiment.disabled:  # pictures are written to disk as they are made
            return
        rows = data and [[wandb.Image(cell) if isinstance(cell, np.ndarray) else cell for cell in row] for row in data]
        with staged_in(Path(self.experiment.dir).parent):
            super().log_table(key, columns, rows, dataframe, step)

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """See `WandbLogger.after_save_checkpoint`."""
        self._guarded(super().after_save_checkpoint, checkpoint_callback, limit=threading.TIMEOUT_MAX)

    def _scan_and_log_checkpoints(self, checkpoint_callback: ModelCheckpoint) -> None:
        with staged_in(Path(self.experiment.dir).parent):
            super()._scan_and_log_checkpoints(checkpoint_callback)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """See `WandbLogger.finalize`."""
        self._guarded(super().finalize, status, limit=threading.TIMEOUT_MAX)  # checkpoints may be large


def finish(exit_code: int) -> None:
    """End the W&B run of this process, if there is one, in the logger's ``finish_timeout`` seconds and a few more."""
    wandb = sys.modules.get("wandb")
    run = None if wandb is None else wandb.run
    if run is None:
        return
    timeout, folder = run.settings.finish_timeout, Path(run.dir).parent
    try:
        with core_ended_after(timeout + PATIENCE if timeout else threading.TIMEOUT_MAX):
            run.finish(exit_code)
    except TimeoutError:
        rank_zero_info(f"W&B: the upload was not done in {timeout:g} s. All of it is on disk; {upload(folder)}")
    except Exception as error:
        abandon()
        rank_zero_info(f"W&B: its core process has died ({reason(error)}). {SAVED}; {upload(folder)}")


def abandon() -> None:
    """Forget W&B's run and core process, so that a run of the same id can begin and nothing waits at the exit."""
    wandb = sys.modules.get("wandb")
    if wandb is None:
        return
    run = wandb.run
    with core_ended_after(PATIENCE):
        if run is not None:
            with suppress(Exception):
                run.finish(1)
            with suppress(Exception):
                run._console_stop()  # where `finish` fails it goes on to capture what is printed
            wandb.run = None  # type: ignore[attr-defined]
        with suppress(Exception):
            wandb.teardown()


def core() -> subprocess.Popen[bytes] | None:
    """W&B's core process, where this process has started it."""
    from wandb.sdk import wandb_setup

    setup: Any = wandb_setup._singleton
    with suppress(AttributeError):  # before it has been started
        process: subprocess.Popen[bytes] = setup._connection._proc._process
        return process
    return None


def core_is_dead() -> bool:
    """Whether W&B's core process has ended."""
    process = core()
    return process is not None and process.poll() is not None


@contextmanager
def core_ended_after(seconds: float) -> Iterator[None]:
    """Kill W&B's core process if the block takes longer, so that whatever waits for it fails at once."""

    def end() -> None:
        process = core()
        if process is not None:
            process.kill()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def staged_in(folder: Path) -> Iterator[None]:
    """Let the files of artifacts wait for their upload there; W&B would keep them in the home folder."""
    if STAGING_VARIABLE in os.environ:
        yield
        return
    os.environ[STAGING_VARIABLE] = str(folder.absolute())
    try:
        yield
    finally:
        del os.environ[STAGING_VARIABLE]


def upload(*parts: Path) -> str:
    """The command for it; parts of one run in their order."""
    online = "--include-online " if any(part.name.startswith("run-") for part in parts) else ""
    return f"upload later with: wandb sync {online}{' '.join(map(str, parts))}"


def reason(error: Exception) -> str:
    """The first line of what an error says, or its kind."""
    return str(error).strip().split("\n", 1)[0][:160] or type(error).__name__
