"""A service account whose key was made here, and Vertex AI as it is spoken to without an SDK."""

from dataclasses import dataclass
from functools import cache
from time import time
from typing import Any
from urllib.parse import urlencode

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import jwt
from google.auth.crypt import RSASigner

from tests.unit.simulator.peers import Answer, Peer

EMAIL = "gateway@acme-prod-1.iam.gserviceaccount.com"
PROJECT = "acme-prod-1"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
FLEX = {"X-Vertex-AI-LLM-Request-Type": "shared", "X-Vertex-AI-LLM-Shared-Request-Type": "flex"}


@dataclass(frozen=True)
class KeyPair:
    """Both halves as PEM."""

    private: str
    public: str

    def info(self, url: str) -> dict[str, str]:
        """What a service account's key file holds; its tokens come from this simulator."""
        return {
            "type": "service_account",
            "project_id": PROJECT,
            "client_email": EMAIL,
            "private_key_id": "1",
            "private_key": self.private,
            "token_uri": f"{url}/token",
        }

    def assertion(self, url: str, **claims: Any) -> str:
        now = int(time())
        usual = {"iss": EMAIL, "aud": f"{url}/token", "iat": now, "exp": now + 3600}
        return jwt.encode(RSASigner.from_string(self.private), usual | claims).decode()  # type: ignore[no-untyped-call]


@cache
def key_pair(number: int = 1) -> KeyPair:
    """A pair; another number is another pair. Made once a run, since that takes a while."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return KeyPair(private.decode(), public.decode())


async def tell(simulator: Any, keys: KeyPair, **members: Any) -> None:
    """Let the simulator know the account from now on."""
    account = {"public_key": keys.public} | members
    async with simulator.session.put(f"{simulator.url}/simulator/accounts/{EMAIL}", json=account) as response:
        assert response.status == 204, await response.text()


async def token(simulator: Peer, **claims: Any) -> Answer:
    """The token endpoint's answer to an assertion of the account."""
    return await granted(simulator, assertion=key_pair().assertion(simulator.url, **claims))


async def granted(simulator: Peer, **form: str) -> Answer:
    body = urlencode({"grant_type": GRANT} | form)
    headers = {"content-type": "application/x-www-form-urlencoded"}
    async with simulator.session.post(f"{simulator.url}/token", data=body, headers=headers) as response:
        return Answer(response.status, response.headers, await response.read(), broken=False)


async def vertex(
    simulator: Peer, method: str, body: Any, location: str = "us-central1", *, bearer: str, **headers: str
) -> Answer:
    """A call to a model."""
    path = f"/v1/projects/{PROJECT}/locations/{location}/publishers/google/models/{method}"
    return await simulator.post(path, body, {"authorization": f"Bearer {bearer}"} | headers)
