"""Service accounts and their access tokens (RFC 7523; developers.google.com, "OAuth 2.0 for server applications").

An account signs an assertion with its private key and is given a token for it. The simulator is told of the public
half, and of how the token endpoint is to behave; telling it anew ends the tokens that the account has.
"""

from collections import OrderedDict
from time import time
from typing import Annotated
from urllib.parse import parse_qsl

from google.auth import jwt
from google.auth.crypt import RSAVerifier
from google.auth.exceptions import GoogleAuthError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from services.simulator.google.replies import grant_refused, told
from services.simulator.script import Call, Script

PATH = "/token"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
LONGEST_S = 3600  # Google's limit, for assertions as for tokens
SKEW_S = 10  # clocks differ
MAX_ACCOUNTS = 100  # a test has one or two
MAX_TOKENS = 1_000  # at a time; the oldest goes first


def _pem(text: str) -> str:
    RSAVerifier.from_string(text)  # type: ignore[no-untyped-call]  # raises ValueError
    return text


class Account(BaseModel):
    """What the simulator is told of an account. With a `status`, the token endpoint answers it with nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    public_key: Annotated[str, AfterValidator(_pem)]
    expires_in: Annotated[int, Field(ge=0, le=LONGEST_S)] = LONGEST_S
    status: Annotated[int, Field(ge=400, le=599)] | None = None


class NotGranted(Exception):
    """A grant that the token endpoint refuses: a code of RFC 6749, and words."""

    def __init__(self, code: str, words: str, status: int = 400) -> None:
        super().__init__(words)
        self.code, self.words, self.status = code, words, status


class Accounts:
    """The accounts told of, and the tokens given to them."""

    def __init__(self) -> None:
        self._accounts: OrderedDict[str, Account] = OrderedDict()
        self._tokens: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def tell(self, email: str, account: Account) -> None:
        """Know an account from now on; the tokens that it has end."""
        self._accounts[email] = account
        self._tokens = OrderedDict((token, held) for token, held in self._tokens.items() if held[0] != email)
        if len(self._accounts) > MAX_ACCOUNTS:
            self._accounts.popitem(last=False)

    def admit(self, authorization: str) -> bool:
        """Whether the header holds a token that has not ended."""
        scheme, _, token = authorization.partition(" ")
        _, end = self._tokens.get(token, ("", 0.0))
        return scheme.lower() == "bearer" and time() < end

    def exchange(self, call: Call) -> Script:
        """`POST /token`: an access token for a signed assertion."""
        try:
            email, account = self._signed_by(call)
        except NotGranted as refusal:
            return grant_refused(call, refusal.status, refusal.code, refusal.words)
        token = f"ya29.{call.id}"
        self._tokens[token] = email, time() + account.expires_in
        if len(self._tokens) > MAX_TOKENS:
            self._tokens.popitem(last=False)
        return told(call, {"access_token": token, "expires_in": account.expires_in, "token_type": "Bearer"})

    def _signed_by(self, call: Call) -> tuple[str, Account]:
        """The account whose assertion this is. Raises NotGranted."""
        form = dict(parse_qsl(call.body.decode(errors="replace")))
        if form.get("grant_type") != GRANT:
            raise NotGranted("unsupported_grant_type", f"Invalid grant_type: {form.get('grant_type')}")
        assertion = form.get("assertion", "")
        try:
            email = str(jwt.decode(assertion, verify=False).get("iss"))  # type: ignore[no-untyped-call]
            if (account := self._accounts.get(email)) is None:
                raise NotGranted("invalid_grant", "Invalid grant: account not found")
            claims = jwt.decode(assertion, account.public_key, audience=_audiences(call), clock_skew_in_seconds=SKEW_S)  # type: ignore[no-untyped-call]
        except (GoogleAuthError, ValueError, TypeError) as error:
            raise NotGranted("invalid_grant", f"Invalid JWT: {error}") from None
        if claims["exp"] - claims["iat"] > LONGEST_S:
            raise NotGranted("invalid_grant", "Invalid JWT: Token must be a short-lived token (60 minutes)")
        if account.status is not None:
            raise NotGranted("internal_failure", f"simulated status {account.status}", account.status)
        return email, account


def _audiences(call: Call) -> list[str]:
    """The token endpoint's address as the caller knows it; Google's libraries name the real one whatever they call."""
    return [f"http://{call.headers.get('host')}{PATH}", "https://oauth2.googleapis.com/token"]
