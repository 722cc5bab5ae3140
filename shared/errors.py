"""The errors a client can see, and the one envelope they travel in.

    ApiError
    ├── InvalidRequest            400  invalid_request_error
    │   ├── ModelNotFound         400  model_not_found
    │   ├── UnsupportedParameter  400  unsupported_parameter
    │   ├── EmbeddingsUnsupported 400  embeddings_unsupported
    │   ├── ChatUnsupported       400  chat_unsupported
    │   ├── InsufficientCredit    402  insufficient_credit
    │   ├── NotFound              404  not_found
    │   ├── MethodNotAllowed      405  method_not_allowed
    │   ├── IdempotencyConflict   409  idempotency_conflict
    │   ├── RequestTooLarge       413  request_too_large
    │   ├── SpendLimitExceeded    429  spend_limit_exceeded
    │   └── RequestRateExceeded   429  rate_limit_exceeded
    │       └── TokenRateExceeded 429  rate_limit_exceeded
    ├── AuthenticationError       401
    │   ├── MissingAuth           401  missing_auth
    │   ├── InvalidKey            401  invalid_key
    │   └── ExpiredKey            401  expired_key
    ├── UpstreamError             any  upstream_error       the provider's own status and words
    │   ├── UpstreamAuthFailed    502  upstream_auth_failed
    │   ├── VertexAuthFailed      502  vertex_auth_failed
    │   ├── NoSupplier            503  no_supplier
    │   └── UpstreamTimeout       504  upstream_timeout
    └── InternalError             500  api_error
        ├── WorkerLost            500
        └── BillingUnavailable    503  billing_unavailable

The types of the two rate limits, `requests` and `tokens`, are OpenAI's own.
An error that happens before the first byte of an answer is an HTTP status with `body()`; a later one is the same
body as an event inside the stream. The docstring is the default message.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Final

NEVER: Final = {"x-should-retry": "false"}  # without this header the official SDKs try every 409 and 429 again


class ApiError(Exception):
    """request failed"""

    status: int = 500
    type: ClassVar[str] = "api_error"
    code: ClassVar[str | None] = None

    def __init__(
        self, message: str | None = None, *, param: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        self.message = message or (type(self).__doc__ or "").split("\n")[0]
        self.param = param
        self.headers = dict(headers or {})
        super().__init__(self.message)

    def body(self, **more: Any) -> dict[str, Any]:
        """The envelope `{"error": {...}}`; `param` stands in it where one member of the request is at fault."""
        error: dict[str, Any] = {"message": self.message, "type": self.type, "code": self.code}
        if self.param is not None:
            error["param"] = self.param
        return {"error": error | more}


class InvalidRequest(ApiError):
    """invalid request"""

    status, type = 400, "invalid_request_error"


class ModelNotFound(InvalidRequest):
    """model not found"""

    code = "model_not_found"


class UnsupportedParameter(InvalidRequest):
    """unsupported parameter"""

    code = "unsupported_parameter"


class EmbeddingsUnsupported(InvalidRequest):
    """model does not support embeddings"""

    code = "embeddings_unsupported"


class ChatUnsupported(InvalidRequest):
    """model does not support chat completions"""

    code = "chat_unsupported"


class InsufficientCredit(InvalidRequest):
    """insufficient credit balance"""

    status, code = 402, "insufficient_credit"


class NotFound(InvalidRequest):
    """not found"""

    status, code = 404, "not_found"


class MethodNotAllowed(InvalidRequest):
    """method not allowed"""

    status, code = 405, "method_not_allowed"


class IdempotencyConflict(InvalidRequest):
    """this Idempotency-Key stands for another request, or for one that runs or cannot be answered again"""

    status, code = 409, "idempotency_conflict"


class RequestTooLarge(InvalidRequest):
    """request body is too large"""

    status, code = 413, "request_too_large"


class SpendLimitExceeded(InvalidRequest):
    """api key spend limit exceeded"""

    status, code = 429, "spend_limit_exceeded"


class RequestRateExceeded(InvalidRequest):
    """api key rate limit exceeded: requests per minute"""

    status, type, code = 429, "requests", "rate_limit_exceeded"


class TokenRateExceeded(RequestRateExceeded):
    """api key rate limit exceeded: tokens per minute"""

    type = "tokens"


class AuthenticationError(ApiError):
    """authentication failed"""

    status, type = 401, "authentication_error"


class MissingAuth(AuthenticationError):
    """missing bearer token"""

    code = "missing_auth"


class InvalidKey(AuthenticationError):
    """invalid api key"""

    code = "invalid_key"


class ExpiredKey(AuthenticationError):
    """api key has expired"""

    code = "expired_key"


class UpstreamError(ApiError):
    """provider error"""

    status, type, code = 502, "upstream_error", "upstream_error"

    @classmethod
    def refused(cls, status: int, message: str, headers: Mapping[str, str] | None = None) -> "UpstreamError":
        """The provider's own refusal: its status is kept, with its words and its Retry-After."""
        error = cls(message, headers=headers)
        error.status = status
        return error

    @classmethod
    def interrupted(cls, why: str) -> "UpstreamError":
        """A stream that broke after its first chunk."""
        return cls(f"stream interrupted: {why}")


class UpstreamAuthFailed(UpstreamError):
    """provider authentication failed"""

    status, code = 502, "upstream_auth_failed"


class VertexAuthFailed(UpstreamError):
    """provider authentication failed"""

    status, code = 502, "vertex_auth_failed"


class NoSupplier(UpstreamError):
    """provider overloaded or unavailable"""

    status, code = 503, "no_supplier"


class UpstreamTimeout(UpstreamError):
    """the provider did not answer in time"""

    status, code = 504, "upstream_timeout"


class InternalError(ApiError):
    """internal error"""


class WorkerLost(InternalError):
    """stream interrupted: the request was lost inside the gateway and is normally not billed; its receipt tells"""

    # A worker that died after its usage was durable, or that took a broken connection for the client's leaving, has
    # left a record that stands.


class BillingUnavailable(InternalError):
    """usage could not be recorded, so the request was not served; try again"""

    status, code = 503, "billing_unavailable"
