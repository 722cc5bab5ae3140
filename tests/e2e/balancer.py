"""What stands in front of replicas: a TCP balancer for billing, and a client that keeps to edges that are ready."""

import contextlib
import itertools
import socket
import threading
from collections.abc import Iterator, Sequence

import httpx2

PIECE_BYTES = 65536
LOOK_EVERY_S = 0.5  # at /ready; a service that drains gives its balancers LINGER_S to look
CONNECT_TIMEOUT_S = 5.0


@contextlib.contextmanager
def in_front_of(ports: Sequence[int]) -> Iterator[str]:
    """The URL that leads to whichever of these ports of this machine takes a connection, in turn."""
    turns = itertools.cycle([[*ports[n:], *ports[:n]] for n in range(len(ports))])
    with socket.create_server(("127.0.0.1", 0)) as listening:
        accepting = threading.Thread(target=_accept, args=(listening, turns), daemon=True)
        accepting.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        accepting.join()


def _accept(listening: socket.socket, turns: Iterator[Sequence[int]]) -> None:
    with contextlib.suppress(OSError):  # which is how a closed listener ends the thread
        while True:
            client, _ = listening.accept()
            server = _connected(next(turns))
            if server is None:
                client.close()
                continue
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=_pass_on, args=(one, other), daemon=True).start()


def _connected(ports: Sequence[int]) -> socket.socket | None:
    for port in ports:
        with contextlib.suppress(OSError):
            return socket.create_connection(("127.0.0.1", port), timeout=CONNECT_TIMEOUT_S)
    return None


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    """Copy until one end closes, then close both."""
    with contextlib.suppress(OSError):
        source.settimeout(None)
        while data := source.recv(PIECE_BYTES):
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


class Edges(httpx2.BaseTransport):
    """Sends each request to the next edge that is ready; a connection that is refused moves on to another one."""

    def __init__(self, base_urls: Sequence[str]) -> None:
        self._urls = [httpx2.URL(url) for url in base_urls]
        self._numbers = itertools.count()
        self._ready = dict.fromkeys(self._urls, True)
        self._wire, self._closed = httpx2.HTTPTransport(), threading.Event()
        self._looking = threading.Thread(target=self._look, daemon=True)
        self._looking.start()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        first = next(self._numbers)
        turn = [self._urls[(first + n) % len(self._urls)] for n in range(len(self._urls))]
        for url in sorted(turn, key=lambda one: not self._ready[one]):
            request.url = request.url.copy_with(host=url.host, port=url.port)
            with contextlib.suppress(httpx2.ConnectError):
                return self._wire.handle_request(request)
        raise httpx2.ConnectError("no edge takes a connection", request=request)

    def close(self) -> None:
        self._closed.set()
        self._looking.join()
        self._wire.close()

    def _look(self) -> None:
        with httpx2.Client() as client:
            while not self._closed.wait(LOOK_EVERY_S):
                for url in self._urls:
                    try:
                        self._ready[url] = client.get(url.copy_with(path="/ready")).status_code == 200
                    except httpx2.TransportError:
                        self._ready[url] = False
