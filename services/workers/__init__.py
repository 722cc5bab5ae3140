"""Provider workers: OpenAI-compatible servers, one process kind per provider, all on one host (`host.py`)."""
