"""Numbers of the routing over training: what is measured, logged, drawn and kept."""

from functools import partial

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch.testing import assert_close

from capsule_lightning.analysis.class_routing import agreement, class_routing, coupling_entropy
from capsule_lightning.callbacks import routing_monitor
from capsule_lightning.callbacks.routing_monitor import RoutingMonitor, measure
from capsule_lightning.data.digits import DigitsDataModule
from capsule_lightning.encoders.efficient import EfficientEncoder
from capsule_lightning.errors import InputError
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.models.cnn import BaselineCNN
from capsule_lightning.routing.dynamic import DynamicRouting
from capsule_lightning.routing.heinsen_vector import HeinsenVectorRouting
from capsule_lightning.tasks.classification import ClassificationTask

pytestmark = pytest.mark.filterwarnings("ignore")  # of the trainer: few workers

SMALL = partial(
    CapsNet,
    encoder=partial(EfficientEncoder, channels=(4, 8), kernel_sizes=(3, 3), strides=(1, 1), dim=4),
    routing=DynamicRouting,
    decoder=None,
)


def fit(folder, monitor, net=SMALL, **options):
    task, data = ClassificationTask((1, 8, 8), 10, net=net), DigitsDataModule(fake=True, val_size=0, batch_size=16)
    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
        "limit_train_batches": 3,
    }
    run = L.Trainer(
        default_root_dir=folder,
        callbacks=[monitor],
        logger=CSVLogger(folder),
        enable_checkpointing=False,
        **quiet,
        **options,
    )
    run.fit(task, datamodule=data)
    return task, run


def test_measures_in_evaluation_and_leaves_the_mode_as_it_was():
    net, batches = SMALL((1, 8, 8), 10), [torch.rand(4, 1, 8, 8), torch.rand(6, 1, 8, 8)]
    net.encoder.primary.eval()  # frozen by someone
    modes = [module.training for module in net.modules()]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = measure(net, batches)
    assert [module.training for module in net.modules()] == modes
    assert_close(net.state_dict(), before)  # running statistics among them
    net.eval()
    seen = class_routing(net, torch.cat(batches))
    couplings = net.routing.couplings(seen.children)
    assert found["coupling_entropy"] == pytest.approx(
        float(coupling_entropy(couplings, seen.children.activations).mean())
    )
    assert found["agreement"] == pytest.approx(float(agreement(seen).mean()))
    assert found["dead_capsules"] == float((seen.parents.activations.amax(dim=0) <= 0.1).sum())
    assert measure(net, batches, threshold=1.0)["dead_capsules"] == 10


@pytest.mark.parametrize(
    ("net", "names"),
    [
        (BaselineCNN((1, 8, 8), 3, channels=(2,), hidden=(4,)), {"dead_capsules"}),
        (SMALL((1, 8, 8), 3, routing=HeinsenVectorRouting), {"dead_capsules", "coupling_entropy"}),
    ],
    ids=["cnn", "heinsen"],
)
def test_measures_what_a_network_has(net, names):
    assert set(measure(net, [torch.rand(2, 1, 8, 8)])) == names


def test_each_epoch_is_logged_and_some_are_drawn(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        routing_monitor, "publish", lambda run, name, draw: drawn.append((run.current_epoch + 1, name, draw()))
    )
    monitor = RoutingMonitor(batches=2)
    _, run = fit(tmp_path, monitor, max_epochs=5)
    assert [(epoch, name) for epoch, name, _ in drawn] == [(n, "train/routing") for n in (2, 4, 5)]
    curves = monitor.state_dict()["curves"]
    assert set(curves) == {"agreement", "coupling_entropy", "dead_capsules"}
    assert [step for step, _ in curves["agreement"]] == [2, 5, 8, 11, 14]  # as in metrics.csv
    assert run.logged_metrics["train/agreement"] == pytest.approx(curves["agreement"][-1][1])
    assert len(drawn[-1][2].axes) == 3
    resumed = RoutingMonitor()
    resumed.load_state_dict(monitor.state_dict())
    assert resumed.state_dict() == monitor.state_dict()


def test_training_is_the_same_with_it_as_without(tmp_path):
    weights = []
    for monitor in (RoutingMonitor(), L.Callback()):
        torch.manual_seed(0)
        weights.append(fit(tmp_path, monitor, max_epochs=2)[0].state_dict())
    assert_close(weights[0], weights[1], rtol=0, atol=0)


@pytest.mark.parametrize(("options", "message"), [({"batches": 0}, "batches=0"), ({"threshold": 1.5}, "threshold=1.5")])
def test_values_out_of_range(options, message):
    with pytest.raises(InputError, match=message):
        RoutingMonitor(**options)
