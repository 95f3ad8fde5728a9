"""Measure the price of putting layers and heads of a Transformer together by routing, in turns in one run.

Each network makes training steps on the same sentences, and translates the same sources word by word. The results are
tokens of the target a second, and the time beside that of the network without aggregation.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from measure import (
    PRECISIONS,
    Step,
    Worker,
    Workload,
    add_inner,
    add_turns,
    autocast,
    inner,
    interleave,
    parser,
    positive,
    ratio,
    setting,
    spread,
    start,
    write,
)
from torch import Tensor
from typing_extensions import override

from capsule_lightning.losses.translation import bag_loss, next_word_loss
from capsule_lightning.models.transformer import Transformer
from capsule_lightning.models.translation_search import greedy
from capsule_lightning.routing.dynamic import DynamicRouting
from capsule_lightning.routing.em import EMRouting

KINDS: Mapping[str, dict[str, Any]] = {
    "none": {},
    "linear": {"layer_aggregation": "linear"},
    "dynamic": {"layer_aggregation": DynamicRouting},
    "em": {"layer_aggregation": EMRouting},
    "heads": {"head_aggregation": DynamicRouting},
    "past_future": {"past_future": True},
}
WHAT = ("train", "translate")


class Translating(Workload):
    """Training steps of a Transformer, or greedy translation.

    Args:
        kind: one of `KINDS`.
        what: ``train`` or ``translate``.
        options: those of `options`, as plain values.
    """

    def __init__(self, kind: str, what: str, options: Mapping[str, Any]) -> None:
        self.kind, self.what, self.options = kind, what, options

    @override
    def build(self, device: torch.device) -> Step:
        given = self.options
        sizes = {name: given[name] for name in ("dim", "num_heads", "num_layers", "hidden")}
        net = Transformer((max(given["tokens"], 8) + 1,), given["vocabulary"], **sizes, **KINDS[self.kind]).to(device)
        self.parameters = sum(parameter.numel() for parameter in net.parameters())
        source, target = torch.randint(4, given["vocabulary"], (2, given["sentences"], given["tokens"]), device=device)
        if self.what == "translate":
            net.eval()

            def translate() -> None:
                with torch.no_grad(), autocast(device, given["precision"]):
                    self.made = greedy(net, source).numel()

            return translate
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)
        self.made = target[:, 1:].numel()

        def step() -> Tensor:
            optimizer.zero_grad()
            with autocast(device, given["precision"]):
                answer = net.answer(source, target[:, :-1])
            words = target[:, 1:]
            loss = next_word_loss(answer.logits, words)
            if answer.past is not None and answer.future is not None:
                loss = loss + bag_loss(answer.past, words, True) + bag_loss(answer.future, words, False)
            loss = loss / words.numel()
            loss.backward()
            optimizer.step()
            return loss.detach()

        return step

    @override
    def facts(self) -> dict[str, Any]:
        return {"parameters": self.parameters, "tokens": self.made}


def options() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parsed = parser("translation", __doc__)
    add_turns(parsed, repeats=5, warmup=1)
    add_inner(parsed)
    parsed.add_argument("--kinds", nargs="+", choices=[*KINDS], default=[*KINDS], help="the first is compared with")
    sizes = {"sentences": 32, "tokens": 24, "vocabulary": 2000, "dim": 64, "num_heads": 4, "num_layers": 3}
    for name, default in {**sizes, "hidden": 256}.items():
        parsed.add_argument(f"--{name}", type=positive, default=default, help="default: %(default)s")
    parsed.add_argument("--precision", choices=PRECISIONS, default="32-true", help="default: %(default)s")
    return parsed


def main() -> None:
    """Measure, print the table, write the JSON."""
    arguments = options().parse_args()
    given = {name: value for name, value in vars(arguments).items() if isinstance(value, int | str)}
    found: dict[str, Any] = {}
    for what in WHAT:
        with ExitStack() as session:
            workers = {kind: session.enter_context(Worker(setting(arguments))) for kind in arguments.kinds}
            start(workers, {kind: Translating(kind, what, given) for kind in arguments.kinds})
            times = interleave(workers, arguments.repeats, arguments.warmup, inner(arguments))
            facts = {kind: worker.summary() for kind, worker in workers.items()}
        first = arguments.kinds[0]
        found[what] = {}
        for kind, each in times.items():
            rates = [1000 * facts[kind]["tokens"] / milliseconds for milliseconds in each]
            price = ratio([a / facts[kind]["tokens"] for a in each], [b / facts[first]["tokens"] for b in times[first]])
            found[what][kind] = {"tokens_a_second": spread(rates), "time_of_a_token": price, **facts[kind]}
            print(
                f"{what:10}{kind:12}{spread(rates)['median']:10.0f} tokens a second, {price['median']:.2f} times "
                f"{first}, {facts[kind]['parameters']:,} parameters",
                flush=True,
            )
    write(arguments, found)


if __name__ == "__main__":
    main()
