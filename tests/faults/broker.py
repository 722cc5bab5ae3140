"""RabbitMQ as a test handles it from outside: its management API, its control tool, its life."""

import base64
import json
import urllib.request
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from shared.events import USAGE_EXCHANGE, routing_key
from tests.servers import Server

TIMEOUT_S = 10.0
ALARM, CALM = "0.0000001", "0.4"  # the share of memory at which publishers are blocked; RabbitMQ's default


class Broker:
    """The broker behind the services' link, reached without it."""

    def __init__(self, server: Server, url: str) -> None:
        self.server, self.url = server, url
        self._vhost = quote(unquote(urlsplit(url).path[1:]), safe="")

    def publish(self, body: bytes, shard: int = 0) -> None:
        """Put a message of whatever content on the exchange, beside the services' own."""
        message = {
            "properties": {"delivery_mode": 2},
            "routing_key": routing_key(shard),
            "payload": base64.b64encode(body).decode(),
            "payload_encoding": "base64",
        }
        answer = self._call("POST", f"exchanges/{self._vhost}/{USAGE_EXCHANGE}/publish", message)
        assert answer == {"routed": True}

    def depth(self, queue: str) -> int:
        """Messages in a queue, as the broker last counted them."""
        return int(self._call("GET", f"queues/{self._vhost}/{queue}").get("messages", 0))

    def block(self) -> None:
        """Raise the memory alarm: the broker stops reading from whoever publishes."""
        self.server.run("rabbitmqctl", "set_vm_memory_high_watermark", ALARM)

    def unblock(self) -> None:
        """End the alarm."""
        self.server.run("rabbitmqctl", "set_vm_memory_high_watermark", CALM)

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        parts = urlsplit(self.server.admin_url)
        login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        request = urllib.request.Request(
            f"{parts.scheme}://{parts.hostname}:{parts.port}/api/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return json.load(answer)
