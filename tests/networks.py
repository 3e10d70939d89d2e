"""Network namespaces: processes whose links to the rest are a test's own, and can fall silent.

A proxy can delay, cut and swallow, but it is a peer that acknowledges every byte. On a link that
loses packets nobody acknowledges anything, and neither side hears that the other is gone.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from types import TracebackType

from tests.locks import one_at_a_time

# Kept by RFC 2544 for tests of networks: nobody's real one.
_ADDRESSES = ipaddress.IPv4Network("198.18.0.0/15")
_HOST_MAC = "02:00:00:00:00:01"
_FAR_MAC = "02:00:00:00:00:02"
# Frames to it arrive and are for somebody else: the kernel drops them without a word.
_NOBODYS_MAC = "02:00:00:00:00:03"
_COMMAND_SECONDS = 30.0
_TOOLS = ("ip", "unshare", "nsenter")


class Way(Enum):
    """Which way packets go."""

    IN = "into the namespace"
    OUT = "out of the namespace"


BOTH_WAYS = (Way.IN, Way.OUT)


class Link:
    """Two interfaces, one on the host and one in a namespace, and what is between them.

    Invariant: what is lost is lost in silence. Both sides keep their addresses, and none but the
    tests' own interfaces ever carries a packet of theirs.
    """

    def __init__(self, name: str, inside: Sequence[str], number: int, pid: int) -> None:
        """`inside` is the command that runs another one in the namespace of the process `pid`."""
        self.name = name
        self._inside = inside
        self._device = f"wq{pid}h{number}"
        self._far_device = f"wq{pid}n{number}"
        near = ("name", self._device, "address", _HOST_MAC)
        far = ("name", self._far_device, "address", _FAR_MAC, "netns", str(pid))
        _run("ip", "link", "add", *near, "type", "veth", "peer", *far)
        with one_at_a_time("networks"):
            network = _free_network()
            hosts = list(network.hosts())
            self.host, self.far = str(hosts[0]), str(hosts[1])
            prefix = network.prefixlen
            _run("ip", "address", "add", f"{self.host}/{prefix}", "dev", self._device)
        _run("ip", "link", "set", self._device, "up")
        _run(*inside, "ip", "address", "add", f"{self.far}/{prefix}", "dev", self._far_device)
        self.heal()

    def lose(self, ways: Iterable[Way] = BOTH_WAYS) -> None:
        """Every packet that goes this way is lost."""
        for way in ways:
            self._neighbour(way, _NOBODYS_MAC)

    def unplug(self) -> None:
        """The interface in the namespace is down: nothing can even be sent from there."""
        _run(*self._inside, "ip", "link", "set", self._far_device, "down")

    def heal(self) -> None:
        """Every packet arrives again."""
        _run(*self._inside, "ip", "link", "set", self._far_device, "up")
        self._neighbour(Way.IN, _FAR_MAC)
        self._neighbour(Way.OUT, _HOST_MAC)

    def remove(self) -> None:
        """Both interfaces are gone."""
        subprocess.run(
            ["ip", "link", "delete", self._device], capture_output=True, timeout=_COMMAND_SECONDS
        )

    def _neighbour(self, way: Way, mac: str) -> None:
        """Where packets of this way are sent to. Permanent: nobody asks, so nobody notices."""
        inside = self._inside if way is Way.OUT else ()
        address = self.host if way is Way.OUT else self.far
        device = self._far_device if way is Way.OUT else self._device
        entry = (address, "lladdr", mac, "dev", device, "nud", "permanent")
        _run(*inside, "ip", "neighbour", "replace", *entry)


class Namespace:
    """A network namespace with named links to the host.

    It lives as long as the process that holds it, and that ends with the process of the test,
    however that ends: nothing has a name on the machine that could be left behind.
    """

    def __init__(self, *links: str) -> None:
        """Needs root; see `unavailable`."""
        script = "echo held; exec cat"
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.links: dict[str, Link] = {}
        try:
            assert self._holder.stdout is not None
            if self._holder.stdout.readline() != b"held\n":
                _, told = self._holder.communicate(timeout=_COMMAND_SECONDS)
                raise OSError(f"no network namespace: {told.decode(errors='replace').strip()}")
            pid = self._holder.pid
            # What runs another command in the namespace.
            self.prefix = ("nsenter", f"--net=/proc/{pid}/ns/net", "--")
            _run(*self.prefix, "ip", "link", "set", "lo", "up")
            for number, name in enumerate(links):
                self.links[name] = Link(name, self.prefix, number, pid)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def unavailable() -> str | None:
        """Why there is none; None: there is."""
        if os.geteuid() != 0:
            return "only root can make network namespaces"
        missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
        if missing:
            return f"network namespaces need {', '.join(missing)}"
        try:
            with Namespace("probe") as probe:
                probe.links["probe"].lose()
        except OSError as error:
            return f"this machine makes no network namespaces: {error}"
        return None

    def close(self) -> None:
        """Ends it; processes in it stay, without links."""
        for link in self.links.values():
            link.remove()
        if self._holder.poll() is None:
            self._holder.communicate(timeout=_COMMAND_SECONDS)
        for pipe in (self._holder.stdin, self._holder.stdout, self._holder.stderr):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Namespace:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _free_network() -> ipaddress.IPv4Network:
    used = [ipaddress.IPv4Interface(word).network for word in _assigned()]
    for network in _ADDRESSES.subnets(new_prefix=30):
        if not any(network.overlaps(other) for other in used):
            return network
    raise RuntimeError("no address is free for a network of a test")


def _assigned() -> Iterator[str]:
    """The IPv4 addresses of the host's interfaces, with their prefix lengths."""
    for line in _run("ip", "-oneline", "-4", "address", "show").splitlines():
        words = line.split()
        yield words[words.index("inet") + 1]


def _run(*command: str) -> str:
    """What the command prints. Raises OSError with what it complains about."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS)
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
