"""Two machines: network namespaces of this one, each with an address of its own, joined by a link that can be cut."""

import contextlib
import os
import subprocess


class TwoNodes:
    """Nothing is shared but the files; ``stop`` takes all of it away."""

    addresses = ("10.77.0.1", "10.77.0.2")
    links = ("capsule0", "capsule1")

    def __init__(self) -> None:
        self.names = tuple(f"capsule{os.getpid()}-{number}" for number in (0, 1))
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        for name in self.names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        (one, other), (a, b) = self.names, self.links
        ip("link", "add", a, "netns", one, "type", "veth", "peer", "name", b, "netns", other)
        for name, link, address in zip(self.names, self.links, self.addresses, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", link)
            ip("-n", name, "link", "set", link, "up")

    def on(self, node: int, *words: str) -> list[str]:
        """A command, to be run on one of them."""
        return ["ip", "netns", "exec", self.names[node], *words]

    def cut(self) -> None:
        """Take the link down."""
        ip("-n", self.names[1], "link", "set", self.links[1], "down")

    def heal(self) -> None:
        """Bring it up again."""
        ip("-n", self.names[1], "link", "set", self.links[1], "up")

    def processes(self) -> list[str]:
        """What runs on either of them."""
        return [pid for name in self.names for pid in ip("netns", "pids", name).split()]

    def stop(self) -> None:
        """Take the namespaces away, and the link with them."""
        for name in self.names:
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "delete", name)


def ip(*words: str) -> str:
    """A command of iproute2; its output."""
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout
