"""A client of billing's API, as small as a command line needs."""

import json
from typing import Any, Self
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

from services.cli.output import Failed
from services.cli.settings import CREDENTIALS, Settings
from shared.settings import load

TIMEOUT_S = 30.0  # an operator's patience; billing answers in milliseconds
PAGE = 1000  # rows in one call, the most that billing gives


class Billing:
    """Calls with the admin token. Every method raises Failed."""

    def __init__(self, settings: Settings) -> None:
        self._url, token = settings.url().rstrip("/"), settings.token()
        if not self._url.startswith(("http://", "https://")):
            raise Failed(f"OPENTOKEN_BILLING_URL must start with http:// or https://, but is {self._url!r}")
        if token is None:
            raise Failed(
                f"no admin token: set OPENTOKEN_ADMIN_TOKEN, or OPENTOKEN_DATA_DIR to where {CREDENTIALS} lies"
            )
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        if settings.actor is not None:
            # http.client writes headers in Latin-1: so the bytes of UTF-8, which billing reads, go through unharmed.
            try:
                self._headers["x-opentoken-actor"] = settings.actor.encode().decode("latin-1")
            except UnicodeEncodeError:
                raise Failed("OPENTOKEN_ACTOR is no UTF-8: use 1 to 64 printable characters") from None

    @classmethod
    def found(cls) -> Self:
        """By the settings in the environment."""
        return cls(load(Settings))

    def call(self, method: str, *path: str, body: dict[str, Any] | None = None, **query: Any) -> dict[str, Any]:
        """One call; the path is given in parts, which are quoted."""
        url = "/".join([self._url, *(quote(part, safe="") for part in path)])
        url += f"?{urlencode(query)}" if query else ""
        data = None if body is None else json.dumps(body).encode()
        request = Request(url, data, self._headers, method=method)  # noqa: S310 - the scheme was checked
        try:
            with urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310 - likewise
                return dict(json.load(answer))
        except HTTPError as error:
            with error:
                raise Failed(_message(error)) from None
        except (URLError, OSError) as error:
            raise Failed(f"billing at {self._url} cannot be reached: {getattr(error, 'reason', error)}") from None

    def list(self, *path: str, **query: Any) -> list[dict[str, Any]]:
        """All pages of a list."""
        page = self.call("GET", *path, limit=PAGE, **query)
        rows = list(page["data"])
        while page["has_more"]:
            page = self.call("GET", *path, limit=PAGE, cursor=page["next_cursor"], **query)
            rows += page["data"]
        return rows


def given(**members: Any) -> dict[str, Any]:
    """The members that have a value."""
    return {name: value for name, value in members.items() if value is not None}


def _message(error: HTTPError) -> str:
    try:
        return f"{json.load(error)['error']['message']} (HTTP {error.code})"
    except (ValueError, KeyError, TypeError):
        return f"billing answered HTTP {error.code}, and not in its own words: is OPENTOKEN_BILLING_URL right?"
