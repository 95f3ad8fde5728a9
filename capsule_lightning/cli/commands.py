"""The commands, each with a line that says what it does and the module that runs it."""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """What is known of a command before its module is imported.

    Attributes:
        summary: what it does, in one line.
        module: name of the module in this package; its function ``run`` takes the command line's words, of which the
            first is the command.
    """

    summary: str
    module: str


TRAINING_COMMANDS = {
    "fit": Command("train, then test the best checkpoint", "training"),
    "validate": Command("measure a checkpoint on the validation images", "training"),
    "test": Command("measure a checkpoint on the test images", "training"),
    "predict": Command("write the predictions of a checkpoint for test images or a folder of images", "training"),
}
LIGHT_COMMANDS = {
    "prepare": Command("download and decode a data set, for machines without a network", "prepare"),
    "configs": Command("list the configurations that --config finds by name", "list_configs"),
    "export": Command("write a trained network to one file to share: .safetensors or .onnx", "export"),
    "report": Command(
        "one page about a trained network: numbers, pictures, and sliders that move its capsules", "report"
    ),
    "compare": Command(
        "mean and spread of finished runs by what differs in them, and a test of the best two; makes studies", "compare"
    ),
}
COMMANDS = {**TRAINING_COMMANDS, **LIGHT_COMMANDS}
