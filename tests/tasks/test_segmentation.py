"""The task of segmentation: losses of one step, post-processing, what is refused, and resuming."""

from functools import partial

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.testing import assert_close

from capsule_lightning.callbacks.segmentations import SegmentationFigures
from capsule_lightning.data.scenes import ScenesDataModule
from capsule_lightning.data.targets import MaskBatch
from capsule_lightning.errors import InputError
from capsule_lightning.layers.mask_regions import processed
from capsule_lightning.losses.pixels import (
    PixelBinaryCrossEntropy,
    PixelCrossEntropy,
    PixelMarginLoss,
    SoftDiceLoss,
)
from capsule_lightning.models.segcaps import SegCaps
from capsule_lightning.models.unet import UNet
from capsule_lightning.tasks.segmentation import SegmentationTask

SMALL = partial(SegCaps, types=(1, 1, 2), dims=(4, 4, 4), kernel_size=3)
LOSSES = {
    "margin": PixelMarginLoss,
    "cross-entropy": PixelCrossEntropy,
    "likelihood": partial(PixelCrossEntropy, scale=None),
    "binary": partial(PixelBinaryCrossEntropy, positive_weights=[0.1, *[9.0] * 10]),
    "dice": SoftDiceLoss,
}


def scenes(**options: object) -> ScenesDataModule:
    given = {"batch_size": 4, "scenes": 8, "val_scenes": 4, "test_scenes": 4, "image_size": 24, "min_objects": 1}
    return ScenesDataModule(**{**given, "max_objects": 2, "min_size": 10, "max_size": 12, "seed": 0, **options})


@pytest.fixture(scope="module")
def batch():
    data = scenes()
    data.setup("fit")
    return data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)


@pytest.mark.parametrize("name", LOSSES)
def test_a_few_steps_on_one_batch_lower_the_loss(name, batch):
    torch.manual_seed(0)
    task = SegmentationTask((1, 24, 24), 10, SMALL, loss=LOSSES[name])
    optimizer = torch.optim.Adam(task.parameters(), 0.02)
    losses = []
    for _ in range(8):
        found = task.losses(task.output(batch), batch)
        assert set(found) == set(task.loss_names)
        assert_close(found["loss"], found["pixel_loss"] + 0.1 * found["reconstruction_loss"])
        optimizer.zero_grad()
        found["loss"].backward()
        assert all(torch.isfinite(p.grad).all() for p in task.parameters() if p.grad is not None)
        optimizer.step()
        losses.append(float(found["loss"].detach()))
    assert losses[-1] < 0.98 * losses[0]


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_pixels_change_no_loss_and_a_mask_of_them_costs_nothing(name, batch):
    loss, masks = LOSSES[name](), batch.masks.clone()
    masks[:, :6] = -1
    lengths = torch.rand(4, 24, 24, 11, generator=torch.Generator().manual_seed(0), requires_grad=True)
    other = torch.where((masks < 0).unsqueeze(-1), 1 - lengths, lengths)
    assert_close(loss(lengths, masks), loss(other, masks))
    nothing = loss(lengths, torch.full_like(masks, -1))
    nothing.backward()
    assert torch.isfinite(nothing)
    assert not lengths.grad.any() or name == "dice"


def test_likelihood_of_a_u_net_is_the_cross_entropy_of_its_logits(batch):
    net = UNet((1, 24, 24), 11, width=2, depth=2)
    capsules = net(batch.images)
    expected = torch.nn.functional.cross_entropy(capsules.poses[..., 0].flatten(0, 2), batch.masks.flatten())
    assert_close(PixelCrossEntropy(scale=None)(capsules.activations, batch.masks), expected)


def test_the_decoder_sees_labels_in_training_and_predictions_otherwise(batch):
    torch.manual_seed(0)
    task = SegmentationTask((1, 24, 24), 10, SMALL)
    for training in (True, False):
        task.train(training)
        output = task.output(batch)
        masks = batch.masks if training else output.masks
        assert_close(output.reconstructions, task.net.reconstruct(output.capsules, masks))


def test_post_processing_keeps_the_largest_region_of_each_class_and_fills_it():
    mask = torch.zeros(1, 12, 12, dtype=torch.int64)
    mask[0, 1:6, 1:6], mask[0, 3, 3], mask[0, 9, 9:11] = 1, 0, 1
    mask[0, 8:12, 0:4], mask[0, 0, 11] = 2, 2
    found = processed(mask, ["largest_component"])
    assert (found == 1).sum() == 24
    assert found[0, 9, 9] == found[0, 0, 11] == 0
    assert (found == 2).sum() == 16
    filled = processed(mask, ["largest_component", "fill_holes"])
    assert filled[0, 3, 3] == 1
    mask[0, 3, 3] = 2  # a class takes nothing from another
    assert processed(mask, ["fill_holes"])[0, 3, 3] == 2
    assert processed(mask, []) is mask


def test_a_diagonal_stroke_is_one_region():
    mask = torch.eye(6, dtype=torch.int64).unsqueeze(0)
    assert torch.equal(processed(mask, ["largest_component"]), mask)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reconstruction_weight": -1}, "reconstruction_weight=-1"),
        ({"postprocessing": ["largest"]}, "largest_component"),
        ({"loss": partial(PixelMarginLoss, class_weights=[1, 2])}, "2 class_weights for 11 classes"),
        ({"loss": partial(PixelMarginLoss, class_weights=[0] * 11)}, "above 0"),
        ({"loss": partial(PixelMarginLoss, m_plus=0.1)}, "m_plus=0.1"),
        ({"loss": partial(PixelCrossEntropy, scale=0)}, "scale=0"),
        ({"loss": partial(SoftDiceLoss, smooth=0)}, "smooth=0"),
    ],
)
def test_values_out_of_range_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        SegmentationTask((1, 24, 24), 10, **{"net": SMALL, **options})


def trainer(folder, **options: object) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return L.Trainer(default_root_dir=folder, use_distributed_sampler=False, num_sanity_val_steps=0, **quiet, **options)


def made() -> SegmentationTask:
    torch.manual_seed(0)
    net = partial(SMALL, stem=(3,), pose_length=0.4)
    return SegmentationTask((1, 24, 24), 10, net, postprocessing=["largest_component"])


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path):
    whole, second = made(), made()
    saved = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer(tmp_path, max_epochs=2, callbacks=[saved]).fit(whole, scenes())
    middle = tmp_path / "step=3.ckpt"  # of the second epoch
    trainer(tmp_path, max_epochs=2, enable_checkpointing=False).fit(second, scenes(), ckpt_path=middle)
    assert second.global_step == 4
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_a_test_tells_scores_by_class_and_draws_the_worst(tmp_path):
    run = trainer(tmp_path, callbacks=[SegmentationFigures(count=3)])
    (found,) = run.test(made(), scenes(), verbose=False)
    assert {"test/dice", "test/iou", "test/image_dice", "test/dice_largest_component"} <= set(found)
    assert any(name.startswith("test/iou/") for name in found)
    for name in ("test_masks", "test_worst_masks"):
        assert (tmp_path / "figures" / f"{name}.png").stat().st_size > 5000


def test_a_test_tells_the_scores_of_a_single_class(tmp_path):
    task = SegmentationTask((1, 24, 24), 1, SMALL)
    (found,) = trainer(tmp_path).test(task, scenes(classes=["3"]), verbose=False)
    assert found["test/dice/3"] == pytest.approx(found["test/dice"])
    assert found["test/image_dice/3"] == pytest.approx(found["test/image_dice"])


def test_a_batch_without_any_class_is_scored_and_drawn():
    task = made()
    empty = task.example_batch(2)
    empty = MaskBatch(empty.images, empty.pictures, torch.zeros_like(empty.masks), empty.indices)
    scores = task._scores[0]
    scores.update(torch.zeros_like(empty.masks), empty.masks)
    assert scores.compute()["image_dice"].isnan()
    assert task.losses(task.output(empty), empty)["loss"].isfinite()
