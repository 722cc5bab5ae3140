"""`python -m services.workers.google`: the worker process for Google."""

from services.workers.google import PROVIDER
from services.workers.process import main

if __name__ == "__main__":
    main(PROVIDER)
