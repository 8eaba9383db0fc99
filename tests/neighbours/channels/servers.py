"""Real servers in this process, in its main thread, and what is done while they serve."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from django_poolkit.testing.waiting import wait_until

PATIENCE = 30.0

Tell = Callable[[int], object]


def _told(
    tell: Tell, port: Callable[[], int | None], stop: Callable[[], object]
) -> Callable[[], None]:
    """Run `tell` with the port in a thread, then stop the server; return what ends the thread.

    That raises what `tell` has raised.
    """
    errors: list[BaseException] = []

    def run() -> None:
        try:
            found = wait_until(port, PATIENCE)
            assert found is not None
            tell(found)
        except BaseException as error:
            errors.append(error)
        finally:
            stop()

    thread = threading.Thread(target=run)
    thread.start()

    def end() -> None:
        thread.join()
        if errors:
            raise errors[0]

    return end


def uvicorn(app: Any, tell: Tell) -> None:
    """Serve with uvicorn, lifespan and all."""
    from uvicorn import Config, Server

    server = Server(Config(app, port=0, lifespan="on", log_level="warning"))

    def port() -> int | None:
        if not server.started:
            return None
        return int(server.servers[0].sockets[0].getsockname()[1])

    def stop() -> None:
        server.should_exit = True

    end = _told(tell, port, stop)
    server.run()
    end()


def daphne(app: Any, tell: Tell) -> None:
    """Serve with daphne."""
    from daphne.server import Server
    from twisted.internet import reactor as only_reactor

    reactor: Any = only_reactor
    server = Server(app, endpoints=["tcp:0:interface=127.0.0.1"], signal_handlers=False)

    def port() -> int | None:
        found = server.listening_addresses
        return int(found[0][1]) if found else None

    end = _told(tell, port, lambda: reactor.callFromThread(reactor.stop))
    server.run()
    end()


SERVERS = {"uvicorn": uvicorn, "daphne": daphne}
