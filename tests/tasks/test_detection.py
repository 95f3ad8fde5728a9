"""The task of detection: one step of each network, precision of the truth itself, what is refused before training."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from capsule_lightning.callbacks.detections import matched, seen, within
from capsule_lightning.data.scenes import ScenesDataModule
from capsule_lightning.errors import InputError
from capsule_lightning.layers.centers import center_targets
from capsule_lightning.losses.detection import CenterMarginLoss
from capsule_lightning.metrics.boxes import BoxPrecision
from capsule_lightning.models.center_capsnet import CenterCapsNet
from capsule_lightning.models.center_net import CenterNet
from capsule_lightning.models.detector import CenterMaps
from capsule_lightning.routing.dynamic import DynamicRouting
from capsule_lightning.routing.squeeze_excite import SERouting
from capsule_lightning.tasks.detection import BoxPrediction, DetectionTask

pytest.importorskip("faster_coco_eval")
SIZES = {"stem": 4, "planes": (8, 8), "num_types": 3, "dim": 4, "kernel_size": 3, "presence_dim": 4}
SMALL = partial(CenterCapsNet, **SIZES, deformable=False)
NETS = {
    "dynamic": SMALL,
    "se": partial(SMALL, routing=partial(SERouting, bias=True, map_dims=2)),
    "deformable": partial(SMALL, deformable=True),
    "uniform": partial(SMALL, routing=partial(DynamicRouting, iterations=1, bias=True)),
    "control": partial(CenterNet, stem=4, planes=(8, 8), hidden=8),
}


@pytest.fixture(scope="module")
def batch():
    data = ScenesDataModule(batch_size=4, scenes=4, image_size=48, seed=0)
    data.setup("fit")
    return data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)


@pytest.mark.parametrize("name", NETS)
def test_a_few_steps_on_one_batch_lower_the_loss(name, batch):
    torch.manual_seed(0)
    task = DetectionTask((1, 48, 48), 10, NETS[name])
    optimizer = torch.optim.Adam(task.parameters(), 0.01)
    losses = []
    for _ in range(12):
        found = task.losses(task.output(batch), batch)
        assert set(found) == set(task.loss_names)
        optimizer.zero_grad()
        found["loss"].backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in task.parameters())
        optimizer.step()
        losses.append(float(found["loss"].detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_maps_that_say_the_truth_have_precision_1(batch):
    task = DetectionTask((1, 48, 48), 10, NETS["control"], loss=CenterMarginLoss)
    target = center_targets(batch.boxes, batch.labels, batch.crowd, 10, (12, 12), 4)
    sizes, offsets = torch.zeros(4, 2, 144), torch.zeros(4, 2, 144)
    for n, k in target.present.nonzero().tolist():
        sizes[n, :, target.cells[n, k]], offsets[n, :, target.cells[n, k]] = target.sizes[n, k], target.offsets[n, k]
    said = CenterMaps(target.heat, sizes.view(4, 2, 12, 12), offsets.view(4, 2, 12, 12))
    losses = task.losses(said, batch)
    assert losses["size_loss"] + losses["offset_loss"] == 0
    metric = BoxPrecision("map_50")
    metric.update(*task.compared(said._replace(presence=(target.heat == 1).float()), batch))
    assert metric.compute() > 0.99  # two objects of a class in one cell are one
    prediction = task.prediction(said, batch)
    found = [seen(prediction, batch, n, 0.99) for n in range(4)]
    assert sum(each.mistakes for each in found) <= 1


def test_precision_counts_a_box_of_another_class_as_wrong():
    box = torch.tensor([[0.0, 0, 10, 10]])
    metric = BoxPrecision("map_50")
    truth = [{"boxes": box, "labels": torch.tensor([1]), "iscrowd": torch.tensor([0])}]
    metric.update([{"boxes": box, "scores": torch.ones(1), "labels": torch.tensor([2])}], truth)
    assert metric.compute() == 0
    metric.reset()
    metric.update([{"boxes": box, "scores": torch.ones(1), "labels": torch.tensor([1])}], truth)
    assert metric.compute() == 1


def test_images_without_any_object_and_without_any_box():
    task = DetectionTask((1, 48, 48), 2, NETS["control"])
    batch = task.example_batch(3)
    empty = batch._replace(labels=torch.full_like(batch.labels, -1))
    losses = task.losses(task.output(empty), empty)
    assert all(torch.isfinite(value) for value in losses.values())
    metric = BoxPrecision("map_50")
    metric.update(*task.compared(task.output(empty), empty))
    assert metric.compute() == 0


def test_a_network_is_the_same_on_a_part_of_a_batch(batch):
    torch.manual_seed(0)
    net = SMALL((1, 48, 48), 10).eval()
    whole, part = net(batch.images), net(batch.images[:1])
    assert_close(part.presence, whole.presence[:1])
    assert_close(part.sizes, whole.sizes[:1])
    assert whole.instantiation.poses.shape == (4, 12, 12, 1, 64)


def test_presence_starts_low_and_alive():
    torch.manual_seed(0)
    for net in (SMALL, NETS["control"], CenterCapsNet):
        heat = net((1, 48, 48), 10)(torch.rand(2, 1, 48, 48)).presence
        assert 0.01 < heat.mean() < 0.2


def test_keeping_votes_or_not_gives_the_same_gradient(batch):
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        net = SMALL((1, 48, 48), 10, recompute=recompute, dim=8, num_types=12)
        net(batch.images).presence.square().sum().backward()
        gradients.append(net.primary.weight.grad)
    assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)


def test_each_object_is_met_by_one_box_of_its_class():
    true, classes = torch.tensor([[0.0, 0, 10, 10], [20.0, 0, 30, 10]]), torch.tensor([1, 2])
    boxes = torch.tensor([[0.0, 0, 9, 10], [0.0, 0, 10, 10], [20.0, 0, 30, 10]])
    right, met = matched(boxes, torch.tensor([1, 1, 1]), true, classes)
    assert right.tolist() == [True, False, False]
    assert met.tolist() == [True, False]
    assert within(boxes, true[:1]).tolist() == [True, True, False]


def test_pictures_of_which_nothing_is_known_have_no_mistakes():
    prediction = BoxPrediction(torch.rand(1, 3, 4), torch.ones(1, 3), torch.zeros(1, 3).long(), torch.rand(1, 2, 4, 4))
    data = ScenesDataModule()
    from capsule_lightning.data.loader import StoredBatch

    stored = StoredBatch(torch.zeros(1, 1, 64, 64, dtype=torch.uint8), torch.tensor([-1]), torch.tensor([0]), None)
    found = seen(prediction, data.on_after_batch_transfer(stored, 0), 0, 0.3)
    assert found.truth is None
    assert found.mistakes == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size_weight": -1}, "size_weight=-1"),
        ({"max_boxes": 200}, "max_boxes=200"),
        ({"net": partial(CenterNet, kernel_size=2)}, "kernel_size=2"),
        ({"net": partial(CenterNet, planes=(8,), blocks=(1,))}, "at least two stages"),
        ({"net": partial(CenterCapsNet, num_types=0)}, "num_types=0"),
    ],
)
def test_values_out_of_range_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        DetectionTask((1, 48, 48), 10, **options)


def test_a_missing_package_is_named_before_training(monkeypatch):
    monkeypatch.setattr("capsule_lightning.metrics.boxes.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"capsule_lightning\[detection\]"):
        DetectionTask((1, 48, 48), 10, NETS["control"])
