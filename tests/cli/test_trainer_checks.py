"""A run of several nodes is refused where nothing has started it on the others."""

from types import SimpleNamespace

import pytest
from lightning.fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment

from capsule_lightning.cli.trainer_checks import require_launcher
from capsule_lightning.errors import InputError


@pytest.mark.parametrize(
    ("nodes", "environment", "variables", "said"),
    [
        (2, LightningEnvironment, {}, "trainer.num_nodes=2: nothing has started this run"),
        (2, LightningEnvironment, {"MASTER_ADDR": "here"}, None),
        (2, TorchElasticEnvironment, {}, None),
        (1, LightningEnvironment, {}, None),
        (1, LightningEnvironment, {"LOCAL_RANK": "1"}, "this process is number 1 of several, and the run has one"),
        (2, LightningEnvironment, {"MASTER_ADDR": "here", "NODE_RANK": "1"}, None),
    ],
)
def test_who_starts_the_other_nodes(
    nodes: int, environment: type, variables: dict[str, str], said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MASTER_ADDR", "RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    strategy = SimpleNamespace(cluster_environment=environment())
    trainer = SimpleNamespace(num_nodes=nodes, world_size=nodes, strategy=strategy)
    if said is None:
        require_launcher(trainer)
    else:
        with pytest.raises(InputError, match=said):
            require_launcher(trainer)
