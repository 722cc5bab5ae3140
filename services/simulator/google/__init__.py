"""Google's half of the simulator: the Gemini API at version v1beta, and the same models on Vertex AI at v1."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from services.simulator.google import accounts, embeddings, generate, tenants
from services.simulator.google.accounts import Accounts
from services.simulator.google.caches import Caches
from services.simulator.google.errors import Refusal
from services.simulator.google.replies import refused
from services.simulator.google.tenants import Tenant
from services.simulator.script import Call, Script

GEMINI = "/v1beta"
VERTEX = "/v1/projects/{project}/locations/{location}"

Method = Callable[[Call, Tenant], Script]


class Route(NamedTuple):
    """`operation` is its name in the served log, None where the path tells."""

    verb: str
    path: str
    operation: str | None
    respond: Callable[[Call], Script]


class Google:
    """What both of its APIs remember, and their routes."""

    def __init__(self) -> None:
        self.accounts = Accounts()
        self._caches = Caches()
        both = {"generateContent": self._generate, "streamGenerateContent": self._generate}
        counts = {"countTokens": embeddings.counted}
        self._gemini: Mapping[str, Method] = both | counts | {"batchEmbedContents": embeddings.embed}
        self._vertex: Mapping[str, Method] = both | counts | {"predict": embeddings.predict}

    @property
    def routes(self) -> Iterator[Route]:
        """All of them."""
        caches = self._caches
        yield Route("POST", accounts.PATH, "token", self.accounts.exchange)
        yield Route("POST", GEMINI + "/models/{model}:{method}", None, self.respond)
        yield Route("POST", VERTEX + "/publishers/google/models/{model}:{method}", None, self.respond)
        for api in (GEMINI, VERTEX):
            all_of_them, one = f"{api}/cachedContents", api + "/cachedContents/{cache}"
            yield Route("POST", all_of_them, "cachedContents.create", self._admitted(caches.create))
            yield Route("GET", all_of_them, "cachedContents.list", self._admitted(caches.listed))
            yield Route("GET", one, "cachedContents.get", self._admitted(caches.read))
            yield Route("PATCH", one, "cachedContents.patch", self._admitted(caches.prolonged))
            yield Route("DELETE", one, "cachedContents.delete", self._admitted(caches.deleted))

    def respond(self, call: Call) -> Script:
        """The answer to a request to a model, or its refusal."""
        return self._admitted(self._of_model)(call)

    def _admitted(self, method: Method) -> Callable[[Call], Script]:
        """The method, once it is known who calls; whatever it refuses becomes an answer."""

        def respond(call: Call) -> Script:
            try:
                known = tenants.in_project(call, self.accounts) if "project" in call.path else tenants.by_key(call)
                return method(call, known)
            except Refusal as refusal:
                return refused(call, refusal)

        return respond

    def _of_model(self, call: Call, tenant: Tenant) -> Script:
        methods = self._gemini if tenant.location is None else self._vertex
        method = methods.get(call.path["method"])
        if method is None:
            raise Refusal(404, f"method {call.path['method']!r} is not simulated")
        return method(call, tenant)

    def _generate(self, call: Call, tenant: Tenant) -> Script:
        return generate.respond(call, tenant, self._caches)
