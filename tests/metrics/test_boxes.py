"""Average precision of boxes on several processes, which need not have the same number of images."""

from collections.abc import Callable

import pytest
import torch

from capsule_lightning.metrics.boxes import BoxPrecision

pytest.importorskip("faster_coco_eval")


def image(seed: int, found: int, there: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Boxes of two classes near the true ones, some of them crowds."""
    draw = torch.Generator().manual_seed(seed)
    corners = torch.rand(max(found, there), 2, generator=draw) * 20
    boxes = torch.cat([corners, corners + 5 + 10 * torch.rand(len(corners), 2, generator=draw)], dim=1)
    labels = torch.randint(2, (len(boxes),), generator=draw)
    moved = boxes + torch.rand(boxes.shape, generator=draw)
    scores = torch.rand(found, generator=draw)
    crowd = (torch.arange(there) == 2).long()
    return (
        {"boxes": moved[:found], "scores": scores, "labels": labels[:found]},
        {"boxes": boxes[:there], "labels": labels[:there], "iscrowd": crowd},
    )


def metric_of(images: list[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]]) -> BoxPrecision:
    metric = BoxPrecision("map")
    for found, truth in images:
        metric.update([found], [truth])
    return metric


def exchanged(metrics: list[BoxPrecision]) -> None:
    """Let the first metric gather what all of them hold, as if each were on a process of its own."""
    sent: list[list[torch.Tensor]] = []
    for metric in metrics[1:]:
        own: list[torch.Tensor] = []
        sent.append(own)

        def keep(value: torch.Tensor, own: list[torch.Tensor] = own, **_: object) -> list[torch.Tensor]:
            own.append(value)
            return [value]

        metric._sync_dist(keep)
    gather: Callable[..., list[torch.Tensor]] = lambda value, **_: [value, *(own.pop(0) for own in sent)]  # noqa: E731
    metrics[0]._sync_dist(gather)
    assert not any(sent)  # each process is asked as often


@pytest.mark.filterwarnings("ignore:The ``compute`` method")  # of a process without images
@pytest.mark.parametrize("shares", [(5, 2), (0, 7), (7, 0), (3, 0, 4)])
def test_processes_with_other_numbers_of_images_have_the_precision_of_one(shares: tuple[int, ...]) -> None:
    images = [
        image(seed, *sizes) for seed, sizes in enumerate([(3, 4), (0, 2), (5, 5), (2, 0), (0, 0), (6, 4), (1, 1)])
    ]
    parts = torch.arange(7).split(shares)
    metrics = [metric_of([images[n] for n in part.tolist()]) for part in parts]
    exchanged(metrics)
    whole = metric_of(images).compute()
    assert 0 < whole < 1
    assert metrics[0].compute() == whole
