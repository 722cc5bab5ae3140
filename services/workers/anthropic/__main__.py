"""`python -m services.workers.anthropic`: the worker process for Anthropic."""

from services.workers.anthropic import PROVIDER
from services.workers.process import main

if __name__ == "__main__":
    main(PROVIDER)
