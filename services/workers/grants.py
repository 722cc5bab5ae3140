"""Access tokens for a signed assertion: the JWT bearer grant of OAuth 2 (RFC 7523, section 2.1), without I/O."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from google.auth import jwt
from google.auth.crypt import RSASigner

from services.workers.provider import UpstreamReply, UpstreamRequest, json_object

GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ASSERTION_S = 3600  # the longest that token endpoints commonly accept


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """Who asks for tokens, where, and the key that proves it."""

    email: str
    token_uri: str
    project: str | None
    signer: RSASigner = field(repr=False)


def service_account(file: Path) -> ServiceAccount:
    """The account of a JSON key file. Raises ValueError."""
    try:
        info = json.loads(file.read_text("utf-8"))
        signer = RSASigner.from_service_account_info(info)  # type: ignore[no-untyped-call]
        return ServiceAccount(info["client_email"], info["token_uri"], info.get("project_id"), signer)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is not a service account's key file ({error})") from None


def token_request(account: ServiceAccount, scope: str, now_s: int) -> UpstreamRequest:
    """The call that asks for a token."""
    claims = {"iss": account.email, "scope": scope, "aud": account.token_uri, "iat": now_s, "exp": now_s + ASSERTION_S}
    assertion = jwt.encode(account.signer, claims).decode()  # type: ignore[no-untyped-call]
    headers = {"content-type": "application/x-www-form-urlencoded"}
    return UpstreamRequest(
        account.token_uri, headers, urlencode({"grant_type": GRANT, "assertion": assertion}).encode()
    )


def token_in(reply: UpstreamReply) -> tuple[str, int] | None:
    """The access token and its lifetime in seconds; None where the endpoint gave none."""
    body: dict[str, Any] = json_object(reply.body, or_else={}) if reply.status == 200 else {}
    token = body.get("access_token")
    return (str(token), int(body.get("expires_in", ASSERTION_S))) if token else None
