"""Weights & Biases, with a guard: whatever fails there, the training continues."""

from __future__ import annotations

import json
import os
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers.logger import DummyExperiment, Logger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn
from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.errors import first_line, nearest, require
from capsule_lightning.loggers import wandb_service
from capsule_lightning.loggers.base import Placement
from capsule_lightning.loggers.labels import begun_as, known_wandb_id, labels, wandb_id
from capsule_lightning.loggers.wandb_service import FLUSH_SECONDS, abandon, core, core_ended_after

if TYPE_CHECKING:
    from wandb import Run

MODES = ("online", "offline", "disabled", "shared", "dryrun", "run")
OFFLINE_MODES = ("offline", "dryrun", "disabled")
BEGINNINGS = 3
"""How often one process begins a run: as configured, then offline, and once more if W&B breaks again."""
LABEL_VARIABLES = {"name": "WANDB_NAME", "group": "WANDB_RUN_GROUP", "tags": "WANDB_TAGS", "job_type": "WANDB_JOB_TYPE"}
"""Environment variables in which a user may have set what the logger would choose."""
STAGING_VARIABLE = "WANDB_DATA_DIR"
STEP = "trainer/global_step"
"""Name of the trainer's step, the horizontal axis of all curves."""
SAVED = f"All but the last row and the last {FLUSH_SECONDS:g} s of it are on disk"


class GuardedWandbLogger(Logger):
    """Log to W&B: online if there are a key and a server, offline otherwise, not at all if W&B itself breaks.

    Offline runs lie in the run's folder; ``wandb sync`` uploads them later, under the same id. If W&B's core process
    dies in the middle of a run, an offline part of the same run takes over. All that W&B can cost a run is
    ``init_timeout`` and ``finish_timeout`` and some seconds.

    The step of a row, ``_step``, is the trainer's, so that a resumed run continues the curves of the first. Online, the
    steps that it repeats are not sent again. Of offline parts they are uploaded twice, with equal values: W&B numbers
    their ``_step`` on, and ``trainer/global_step``, the axis of all curves, stays right. What a process that is killed
    outright had not sent yet, 15 s of rows at most, is in its part on disk.

    The id in W&B is ``<experiment>-<run id>``, or the one that a sweep has given. What is neither an argument nor set
    in W&B's own environment variables (`WANDB_NAME`, ...) is taken from the configuration when a run begins, and left
    as W&B has it when that run is resumed or tested.

    Args:
        project: W&B project.
        name: display name; null for ``<routing>-seed<k>``, or the run's id if a study has made it of its choice.
        group: runs to show together; null for those of the experiment that differ in their seed: with the same routing,
            or the same choice of a study. It does not look at other options.
        tags: tags of the run; none for data, network and routing.
        entity: team or user; null for the account's default.
        job_type: a second grouping; null for the command.
        notes: free text.
        save_dir: where W&B keeps its files; null for the run's folder.
        offline: write locally only.
        log_model: upload checkpoints as artifacts: ``all`` as they are saved, true the best and the last at the end.
            Offline, copies of them wait in the run's folder.
        init_timeout: seconds that the server has to answer at the start before the run goes offline.
        finish_timeout: seconds that an upload may take at the end.

    Attributes:
        init: arguments of `wandb.init`.

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
        super().__init__()
        mode = os.environ.get("WANDB_MODE", MODES[0])
        require(
            mode in MODES,
            f"WANDB_MODE={mode!r}: expected one of {', '.join(MODES)}{nearest(mode, MODES)}; correct or unset it",
        )
        self.init: dict[str, Any] = {
            "project": os.environ.get("WANDB_PROJECT", project),
            "entity": entity,
            "id": None,
            "resume": "allow",
            "name": name,
            "group": group,
            "tags": list(tags) or None,
            "job_type": job_type,
            "notes": notes,
            "dir": save_dir or None,
        }
        self._stay_offline, self._log_model = offline, log_model
        self._init_timeout, self._finish_timeout = init_timeout, finish_timeout
        self._run: Run | None = None
        self._core: int | None = None
        self._begun = 0
        self._broken = self._guarding = False
        self._said: set[str] = set()
        self._arrived = self._row = 0
        self._checkpoints: dict[int, ModelCheckpoint] = {}  # whose files are sent at the end
        self._sent: dict[str, float] = {}  # when each file that was sent had been written

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the run: another process that is given this logger begins its own part."""
        return {**vars(self), "_run": None, "_core": None}

    @property
    @override
    def name(self) -> str:
        return str(self.init["project"])

    @property
    @override
    def version(self) -> str | None:
        known: str | None = self.init["id"] if self._run is None else self._run.id
        return known

    @property
    @override
    def save_dir(self) -> str | None:
        folder: str | None = self.init["dir"]
        return folder

    def place(self, placement: Placement) -> None:
        """Take the run's folder, and its id and labels in W&B; see `PlacedLogger.place`."""
        run_id = placement.run_folder.name
        self.init["dir"] = self.init["dir"] or str(placement.folder)
        new = known_wandb_id(placement) or wandb_id(placement.config["experiment"], run_id)
        begun = begun_as((new, run_id), placement.run_folder, Path(self.init["dir"]))
        self.init["id"] = begun or new
        if begun is None:
            for key, value in labels(placement)._asdict().items():
                if LABEL_VARIABLES[key] not in os.environ:
                    self.init[key] = self.init[key] or value

    @property
    def experiment(self) -> Any:
        """The W&B run, begun at the first call on rank zero: online or offline, or a dummy if W&B cannot be used."""
        if getattr(rank_zero_only, "rank", 0) != 0:
            return DummyExperiment()
        if self._run is None and not self._broken:
            try:
                self._begin()
            except Exception as error:  # no network, a refused key, a server that fails or never answers
                self._begin_offline(reason(error))
        return self._run or DummyExperiment()

    def _begin(self) -> None:
        self._begun += 1
        mode = os.environ.get("WANDB_MODE")
        Path(self.init["dir"] or ".").mkdir(parents=True, exist_ok=True)  # else W&B takes a temporary folder
        with core_ended_after(self._init_timeout + wandb_service.PATIENCE):
            if mode != "disabled":
                wandb_service.start_core(self._init_timeout)
            import wandb

            if "mode" not in self.init and mode != "disabled":
                if mode in OFFLINE_MODES:
                    self._say_offline(f"WANDB_MODE={mode}")
                elif self._stay_offline:
                    self.init["mode"] = "offline"
                    self._say_offline("offline, as configured")
                elif not wandb.login(prompt=False, verify=False):
                    self.init["mode"] = "offline"
                    self._say_offline("no API key is known here; `wandb login` stores one")
            offline = "mode" in self.init or mode in OFFLINE_MODES
            settings = wandb_service.run_settings(self._init_timeout, self._finish_timeout, offline)
            self._run = run = wandb.init(**self.init, settings=settings)
            self._core = core()
            run.define_metric(STEP)
            run.define_metric("*", step_metric=STEP, step_sync=True)
        self._arrived = run.starting_step
        self._row = max(self._row, self._arrived)

    def _begin_offline(self, why: str) -> None:
        """Begin a new run or the next part of the one that broke; end all logging to W&B if that fails too."""
        parts = [] if self._run is None else [Path(self._run.dir).parent]
        abandon()
        self._run = None
        self.init["mode"] = "offline"
        try:
            if self._begun == BEGINNINGS:
                raise RuntimeError("no further attempt is made")
            self._begin()
        except Exception as error:
            abandon()
            self._broken, self._run = True, None
            saved = f". {SAVED}; {upload(*parts)}" if parts else ""
            rank_zero_warn(f"W&B stopped working ({why}; {reason(error)}); training continues without it{saved}")
            return
        if not parts:
            self._say_offline(why)
        else:
            parts.append(Path(self.experiment.dir).parent)
            rank_zero_info(f"W&B: {why}. {SAVED}, and logging continues offline; {upload(*parts)}")

    def _say_offline(self, why: str) -> None:
        parts = Path(self.init["dir"] or ".") / "wandb" / "offline-run-*"
        rank_zero_info(f"W&B: {why}. Logging offline; {upload(parts)}")

    def _guarded(self, function: Callable[..., Any], *args: Any, limit: float | None = None) -> None:
        """Call W&B; again, in a new part of the run, if its core process has died."""
        if self._guarding:  # a call within a call: the outer one is repeated as a whole
            function(*args)
            return
        while not self._broken:
            self._guarding = True
            try:
                if isinstance(self.experiment, DummyExperiment):  # else begun, under a time limit of its own
                    return
                with core_ended_after(limit or wandb_service.PATIENCE):
                    function(*args)
                    return
            except Exception as error:
                if not (isinstance(error, ConnectionError) or self._core_is_dead()):
                    name = function.__name__.lstrip("_")
                    self._once(name, f"W&B refused {name} ({reason(error)}); training continues without it")
                    return
                self._begin_offline(f"its core process has died ({reason(error)})")
            finally:
                self._guarding = False

    def _core_is_dead(self) -> bool:
        return self._core is not None and core() != self._core

    def _once(self, about: str, message: str) -> None:
        if about not in self._said:
            self._said.add(about)
            rank_zero_info(message)

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log one row of the history; images and tables go through it too.

        W&B takes rows in ascending order and drops others. So a row that is late or has no step joins the last one: the
        figures of an epoch's end are a step ahead of its metrics. Step 0 of a run that is further on is that of an
        evaluation, and comes last as well.

        Args:
            metrics: values by name.
            step: step of the trainer; None for that of the last row.
        """
        self._guarded(self._log_row, metrics, step)

    def _log_row(self, metrics: Mapping[str, Any], step: int | None) -> None:
        if step and step < self._arrived:
            message = f"W&B: the run is there up to step {self._arrived - 1}; what repeats it is not sent again"
            self._once("repeated steps", message)
            return
        self._row = max(self._row, step or 0)
        self.experiment.log({**metrics, STEP: self._row}, step=self._row)

    @override
    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        given = vars(params) if isinstance(params, Namespace) else params
        known = {key: plain(value) for key, value in given.items()}
        self._guarded(self._log_config, known)
        self.init["config"] = {**self.init.get("config", {}), **known}  # for a new part of the run

    def _log_config(self, config: dict[str, Any]) -> None:
        there = dict(self.experiment.config)  # from a sweep, which lets nobody else set its values
        changed = {key: value for key, value in config.items() if there.get(key, ...) != value}
        self.experiment.config.update(changed, allow_val_change=True)

    @rank_zero_only
    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        """Log pictures under one name.

        Args:
            key: their name.
            images: tensors, arrays, PIL images or paths of files.
            step: step of the trainer; None for that of the last row.
            **kwargs: other arguments of `wandb.Image`, each a list with a value for every picture, such as ``caption``.
        """
        self._guarded(self._log_image, key, images, step, kwargs)

    def _log_image(self, key: str, images: list[Any], step: int | None, options: dict[str, list[Any]]) -> None:
        import wandb

        chosen = [dict(zip(options, values, strict=True)) for values in zip(*options.values(), strict=True)]
        made = [wandb.Image(image, **own) for image, own in zip(images, chosen or [{} for _ in images], strict=True)]
        self._log_row({key: made}, step)

    @rank_zero_only
    def log_table(
        self,
        key: str,
        columns: list[str] | None = None,
        data: list[list[Any]] | None = None,
        dataframe: Any = None,
        step: int | None = None,
    ) -> None:
        """Log a table; arrays ``(H, W)`` or ``(H, W, 3)`` of uint8 in ``data`` are pictures.

        Args:
            key: name of the table.
            columns: names of its columns.
            data: its rows.
            dataframe: a pandas data frame in place of columns and data.
            step: step of the trainer; None for that of the last row.
        """
        self._guarded(self._log_table, key, columns, data, dataframe, step)

    log_text = log_table

    def _log_table(
        self, key: str, columns: list[str] | None, data: list[list[Any]] | None, dataframe: Any, step: int | None
    ) -> None:
        import wandb

        if self.experiment.disabled:  # pictures are written to disk as they are made
            return
        rows = data and [[wandb.Image(cell) if isinstance(cell, np.ndarray) else cell for cell in row] for row in data]
        with staged_in(Path(self.experiment.dir).parent):
            self._log_row({key: wandb.Table(columns=list(columns or ()) or None, data=rows, dataframe=dataframe)}, step)

    @rank_zero_only
    def watch(
        self, model: nn.Module, log: Literal["gradients", "parameters", "all"] = "gradients", log_freq: int = 100
    ) -> None:
        """Log histograms of a model's gradients or parameters, see `wandb.Run.watch`.

        Args:
            model: the model.
            log: what to log.
            log_freq: batches between two histograms.
        """
        self._guarded(self._watch, model, log, log_freq)

    def _watch(self, model: nn.Module, log: str, log_freq: int) -> None:
        self.experiment.watch(model, log=log, log_freq=log_freq)

    @override
    @rank_zero_only
    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        if self._log_model == "all" or (self._log_model and checkpoint_callback.save_top_k == -1):
            self._guarded(self._send_checkpoints, checkpoint_callback, limit=threading.TIMEOUT_MAX)
        elif self._log_model:
            self._checkpoints[id(checkpoint_callback)] = checkpoint_callback

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        if status == "success" and self._run is not None:
            for checkpoints in self._checkpoints.values():  # they may be large
                self._guarded(self._send_checkpoints, checkpoints, limit=threading.TIMEOUT_MAX)

    def _send_checkpoints(self, checkpoints: ModelCheckpoint) -> None:
        """Send the files of a callback that have not been sent as they are now, the oldest first."""
        import wandb

        run = self.experiment
        options = ("monitor", "mode", "save_last", "save_top_k", "save_weights_only")
        for path, (written, score) in sorted(kept_by(checkpoints).items(), key=lambda item: item[1][0]):
            if self._sent.get(path, 0.0) >= written:
                continue
            metadata = {
                "score": score.item() if isinstance(score, Tensor) else score,
                "original_filename": Path(path).name,
                type(checkpoints).__name__: {option: getattr(checkpoints, option) for option in options},
            }
            artifact = wandb.Artifact(name=f"model-{run.id}", type="model", metadata=metadata)
            with staged_in(Path(run.dir).parent):
                artifact.add_file(path, name="model.ckpt")
                run.log_artifact(artifact, aliases=["latest", "best"][: 1 + (path == checkpoints.best_model_path)])
            self._sent[path] = written


def finish(exit_code: int) -> None:
    """End the W&B run of this process, if there is one, in the logger's ``finish_timeout`` seconds and a few more."""
    wandb = sys.modules.get("wandb")
    run = None if wandb is None else wandb.run
    if run is None:
        return
    timeout, folder = run.settings.finish_timeout, Path(run.dir).parent
    try:
        with core_ended_after(timeout + wandb_service.PATIENCE if timeout else threading.TIMEOUT_MAX):
            run.finish(exit_code)
    except TimeoutError:
        rank_zero_info(f"W&B: the upload was not done in {timeout:g} s. All of it is on disk; {upload(folder)}")
    except Exception as error:
        abandon()
        rank_zero_info(f"W&B: its core process has died ({reason(error)}). {SAVED}; {upload(folder)}")


def kept_by(checkpoints: ModelCheckpoint) -> dict[str, tuple[float, Tensor | float | None]]:
    """Return the files that a callback keeps: when each was written, and its score."""
    scores = {
        checkpoints.last_model_path: checkpoints.current_score,
        checkpoints.best_model_path: checkpoints.best_model_score,
        **checkpoints.best_k_models,
    }
    return {path: (Path(path).stat().st_mtime, score) for path, score in scores.items() if Path(path).is_file()}


def plain(value: Any) -> Any:
    """Return a value that JSON knows as it is, and any other as text.

    Example:
        >>> plain([1, None]), plain(Path("a/b"))
        ([1, None], 'a/b')
    """
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return getattr(value, "__name__", str(value))
    return value


@contextmanager
def staged_in(folder: Path) -> Iterator[None]:
    """Let the files of artifacts wait for their upload in a folder; W&B would keep them in the home folder."""
    if STAGING_VARIABLE in os.environ:
        yield
        return
    os.environ[STAGING_VARIABLE] = str(folder.absolute())
    try:
        yield
    finally:
        del os.environ[STAGING_VARIABLE]


def upload(*parts: Path) -> str:
    """Return the advice to upload parts of one run, in their order."""
    online = "--include-online " if any(part.name.startswith("run-") for part in parts) else ""
    return f"upload later with:\n  wandb sync {online}{' '.join(map(str, parts))}"


def reason(error: Exception) -> str:
    """Return the first line of an error's message, shortened, or its type."""
    return first_line(error)[:160]
