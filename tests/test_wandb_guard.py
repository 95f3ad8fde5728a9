"""Whatever fails at W&B, training goes on."""

from pathlib import Path

import pytest

from capsule_lightning.loggers.wandb import GuardedWandbLogger, finish


@pytest.fixture
def logger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GuardedWandbLogger:
    monkeypatch.setenv("WANDB_MODE", "online")
    logger = GuardedWandbLogger(init_timeout=3.0)
    logger.place(tmp_path / "run", "trial", "id1")
    return logger


def test_no_key_goes_offline(logger: GuardedWandbLogger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    logger.log_metrics({"loss": 1.0}, step=0)
    assert logger.experiment.settings.mode == "offline"
    assert (logger.version, logger.save_dir) == ("id1", str(tmp_path / "run"))
    finish(0)


def test_a_server_that_refuses_goes_offline(logger: GuardedWandbLogger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    logger.log_metrics({"loss": 1.0}, step=0)
    assert logger.experiment.settings.mode == "offline"
    finish(0)


def test_a_wandb_that_breaks_in_mid_run_is_silenced(
    logger: GuardedWandbLogger, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        config = None

        def log(self, *_: object) -> None:
            raise ConnectionResetError("the service is gone")

    logger._experiment = Broken()
    with pytest.warns(UserWarning, match="training goes on"):
        logger.log_metrics({"loss": 1.0}, step=0)
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.log_hyperparams({"a": 1})
    logger.log_image("figure", [])
    logger.finalize("success")
