"""Compilation: one graph of the training step, and the same run as without."""

import pytest
import torch
from torch._dynamo.utils import counters
from torch.testing import assert_close

from capsule_lightning.callbacks.compile import CompileNetwork
from capsule_lightning.errors import InputError

FEW_STEPS = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=6", "--trainer.accelerator=cpu")


@pytest.mark.nightly
def test_training_makes_one_graph_and_the_same_weights(run_main):
    compiled = ("--trainer.callbacks+=CompileNetwork", "--trainer.callbacks.backend=aot_eager")
    # nothing is validated or tested, each of which has graphs of its own
    alone = ("--data.val_size=0", "--test_after_fit=false")
    torch.compiler.reset()
    counters.clear()
    cwd = run_main("fit", *FEW_STEPS, *alone, *compiled, "--run_id=compiled")
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    run_main("fit", *FEW_STEPS, *alone, "--run_id=plain")
    one, other = (
        torch.load(cwd / "runs" / "digits" / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("compiled", "plain")
    )
    assert one.keys() == other.keys()
    assert_close(one, other, rtol=1e-3, atol=1e-4)  # the plain run routes a block at a time


def test_an_unknown_mode_is_refused():
    with pytest.raises(InputError, match="mode='fast': expected one of default"):
        CompileNetwork(mode="fast")
