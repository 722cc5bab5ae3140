"""Google: the Gemini API, and the same models on Vertex AI."""

from services.workers.google import embeddings, request, response, vertex
from services.workers.provider import Provider

PROVIDER = Provider(
    name="google",
    settings=vertex.Settings,
    suppliers=vertex.suppliers,
    plan=request.plan,
    answer=response.answer,
    stream=response.Stream,
    failure=vertex.failure,
    on_disconnect="drain",  # Google counts the whole answer whether or not anyone reads it
    embed=embeddings.embed,
)
