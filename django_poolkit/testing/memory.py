"""What a lasting cluster remembers from one run to the next."""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from django_poolkit.pools.chance import chance
from django_poolkit.testing.errors import ClusterError

# Below the range that systems take for outgoing connections, so that a stopped
# node finds its port free when it starts again.
_PORTS = range(15_000, 32_000)
_ATTEMPTS = 20


@dataclass(slots=True)
class Memory:
    """The secrets and addresses of a cluster, in a file only its owner can read."""

    path: Path
    run: str = ""
    """The last run, whose servers may still live if its owner was killed."""
    password: str = field(default_factory=lambda: secrets.token_urlsafe(12), repr=False)
    ports: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, home: Path) -> Memory:
        """Read the memory of a home; a new home has a fresh one.

        Raises:
            ClusterError: it cannot be read.
        """
        path = home / "cluster.json"
        try:
            return cls(path, **json.loads(path.read_text()))
        except FileNotFoundError:
            return cls(path)
        except (OSError, ValueError, TypeError) as error:
            raise ClusterError(f"{path} cannot be read: {error}") from error

    def write(self) -> None:
        """Write it down, whole or not at all."""
        values = asdict(self)
        del values["path"]
        draft = self.path.with_suffix(".new")
        draft.touch(mode=0o600)
        draft.write_text(json.dumps(values))
        draft.rename(self.path)

    def candidates(self, name: str, host: str) -> Iterator[int]:
        """Yield ports for a node: the one it had, then free ones at random."""
        if name in self.ports:
            yield self.ports[name]
        for _ in range(_ATTEMPTS):
            port = chance.choice(_PORTS)
            if _is_free(host, port):
                yield port


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
