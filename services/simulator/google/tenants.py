"""Who calls: a key on the Gemini API, or a service account in a project at a location of Vertex AI."""

from dataclasses import dataclass

from services.simulator.google import errors
from services.simulator.google.accounts import Accounts
from services.simulator.google.errors import Refusal
from services.simulator.script import Call

GLOBAL = "global"
FLEX_HEADERS = {"X-Vertex-AI-LLM-Request-Type": "shared", "X-Vertex-AI-LLM-Shared-Request-Type": "flex"}


@dataclass(frozen=True, slots=True)
class Tenant:
    """`owner` holds caches; `parent` begins the names of resources and is "" on the Gemini API, as location is None."""

    owner: str
    parent: str = ""
    location: str | None = None
    flex: bool = False

    def model_name(self, model: str) -> str:
        """A model's resource name."""
        return f"models/{model}" if self.location is None else f"{self.parent}publishers/google/models/{model}"

    @property
    def traffic(self) -> str | None:
        """The trafficType of an answer, of which Vertex AI alone tells."""
        if self.location is None:
            return None
        return "ON_DEMAND_FLEX" if self.flex else "ON_DEMAND"


def by_key(call: Call) -> Tenant:
    """The caller of the Gemini API. Raises Refusal."""
    key = call.headers.get("x-goog-api-key")
    if not key:
        raise Refusal(403, "Method doesn't allow unregistered callers. Please use API Key to call this API.")
    if key == "invalid":
        raise errors.key_invalid()
    if key == "exhausted":
        raise errors.exhausted(errors.PER_DAY, None, None)
    return Tenant(key)


def in_project(call: Call, accounts: Accounts) -> Tenant:
    """The caller of Vertex AI. Raises Refusal."""
    if not accounts.admit(call.headers.get("authorization", "")):
        raise Refusal(401)
    location = call.path["location"]
    flex = any(name in call.headers for name in FLEX_HEADERS)
    if flex and any(call.headers.get(name) != value for name, value in FLEX_HEADERS.items()):
        raise Refusal(400, f"only these headers together are simulated: {FLEX_HEADERS}")
    if flex and location != GLOBAL:
        raise Refusal(400, f"Flex PayGo is not supported at location {location}. Use the global endpoint.")
    parent = f"projects/{call.path['project']}/locations/{location}/"
    return Tenant(parent, parent, location, flex)


def not_found(call: Call, tenant: Tenant) -> Refusal:
    """A model, or a method of it, that does not exist here."""
    model, method = tenant.model_name(call.path["model"]), call.path["method"]
    if tenant.location is None:
        return Refusal(404, f"{model} is not found for API version v1beta, or is not supported for {method}.")
    return Refusal(404, f"Publisher Model `{model}` was not found, or does not support {method}.")
