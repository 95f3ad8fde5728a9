"""Callbacks that take their time, so that a test can do something meanwhile."""

import time

import lightning as L


class SlowSteps(L.Callback):
    """Waits within each step, in small portions."""

    def on_before_zero_grad(self, *_: object) -> None:
        for _ in range(200):
            time.sleep(0.01)


class SlowTest(L.Callback):
    """Waits at the start of the test."""

    def on_test_batch_start(self, *_: object) -> None:
        print("the test begins", flush=True)
        for _ in range(2000):
            time.sleep(0.01)
