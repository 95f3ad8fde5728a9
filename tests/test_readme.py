"""What the README promises."""

import re
import shlex
from itertools import pairwise
from pathlib import Path

import torch

from capsule_lightning import capsules
from capsule_lightning.layers import couplings, squash, votes
from capsule_lightning.routing.base import Routing
from capsule_lightning.routing.uniform import UniformRouting
from capsule_lightning.shipped import CONFIG_DIR, find_config

README = (CONFIG_DIR.parent / "README.md").read_text()


def test_the_example_routing_works() -> None:
    (code,) = re.findall(r"```python\n(class MeanRouting.*?)```", README, re.S)
    names = {
        "Routing": Routing,
        "Capsules": capsules.Capsules,
        "Tensor": torch.Tensor,
        "torch": torch,
        "vote": votes.vote,
        "vote_weight": votes.vote_weight,
        "squash": squash.squash,
        "coupling_coefficients": couplings.coupling_coefficients,
    }
    exec(code, names)
    routing, uniform = names["MeanRouting"](6, 4, 3, 5, scale=2.0), UniformRouting(6, 4, 3, 5)
    routing.load_state_dict(uniform.state_dict())
    children = capsules.Capsules.from_vectors(torch.rand(2, 6, 4))
    torch.testing.assert_close(routing(children), uniform(children))  # 2 / 6 is 1 / 3
    torch.testing.assert_close(routing.couplings(children), uniform.couplings(children))


def test_every_config_it_names_is_shipped_and_every_file_is_there() -> None:
    commands = [line.split("#")[0] for line in README.splitlines() if line.startswith("python -m capsule_lightning")]
    pairs = [pair for line in commands for pair in pairwise(shlex.split(line))]
    configs = [word for flag, word in pairs if flag == "--config"]
    assert configs
    for name in configs:
        assert Path(find_config(name)).is_relative_to(CONFIG_DIR)
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (CONFIG_DIR.parent / target).exists(), target
