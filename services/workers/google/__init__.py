"""Google: the Gemini API."""

from services.workers.google import embeddings, request, response, wire
from services.workers.provider import Embeddings, Provider

PROVIDER = Provider(
    name="google",
    settings=wire.Settings,
    suppliers=wire.suppliers,
    plan=request.plan,
    answer=response.answer,
    stream=response.Stream,
    failure=wire.failure,
    on_disconnect="drain",  # Google counts the whole answer whether or not anyone reads it
    embeddings=Embeddings(plan=embeddings.plan),
)
