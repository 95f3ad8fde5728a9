"""Names of boxes: within the picture, and where they hide no other name."""

import torch

from capsule_lightning.figures.boxes import DrawnBoxes, ImageRow, boxes_figure, place_of_name, shared

PICTURE = (60.0, 40.0)


def test_a_name_stands_above_its_box_and_never_outside_of_the_picture() -> None:
    assert place_of_name((10, 20, 30, 38), (12, 4), PICTURE, []) == (10, 16, 22, 20)
    for box in ((0, 0, 20, 10), (55, 1, 60, 40), (-3, -2, 70, 50)):
        left, top, right, bottom = place_of_name(box, (12, 4), PICTURE, [])
        assert 0 <= left < right <= PICTURE[0]
        assert 0 <= top < bottom <= PICTURE[1]


def test_names_of_boxes_that_lie_on_each_other_do_not() -> None:
    box, taken = (20.0, 10.0, 40.0, 30.0), []
    for _ in range(6):
        taken.append(place_of_name(box, (9, 4), PICTURE, taken))
    assert sum(shared(one, other) for n, one in enumerate(taken) for other in taken[:n]) == 0
    assert shared((0, 0, 2, 3), (1, 1, 5, 5)) == 2


def test_each_box_has_its_name_in_the_figure() -> None:
    boxes = DrawnBoxes(torch.tensor([[1.0, 0, 9, 8], [2, 1, 9, 9]]), ["cat", "dog 0.50"], [True, False])
    figure = boxes_figure([ImageRow(torch.zeros(1, 10, 10), boxes, boxes, "a caption")], "A title")
    for axis in figure.axes[:2]:
        assert [text.get_text() for text in axis.texts] == ["cat", "dog 0.50"]
        assert len(axis.patches) == 2
    figure.canvas.draw()
    title = figure._suptitle.get_window_extent().y0
    assert all(axis.title.get_window_extent().y1 < title for axis in figure.axes[:2])
