"""What the description of a billing SKU says: which model, and which kind of token.

Descriptions are prose with a grammar, such as "Generate content output token count gemini 2.5 flash short input text"
or "Gemini 2.5 Pro Text Input - Predictions". What was counted comes first, so the first of input and output decides;
a cached token says so anywhere. A model is named in words; what follows its name says how it was used.
"""

import re

_BUCKET = re.compile(r"\b(input|output)\b")
_CACHED = re.compile(r"\bcach(?:ed|ing|e)\b")
_STORED = re.compile(r"\bstorage\b")  # token hours are no tokens
_FAMILY = re.compile(r"[a-z]+ (?:embedding )?[0-9]+(?:\.[0-9]+)?(?: (?:flash|pro|ultra|nano|lite|live|tts|embedding))*")
_NUMBERED = re.compile(r"(?<=[a-z])-(?=[0-9a-z])|(?<=[0-9])-(?=[a-z])")


def bucket_of(description: str) -> str | None:
    """The kind of token that a SKU counts; None where it counts something else."""
    words = description.lower()
    if _STORED.search(words):
        return None
    if _CACHED.search(words):
        return "cache_read"
    found = _BUCKET.search(words)
    return found and found[1]


def name_of(description: str) -> str:
    """The model that a SKU is about, as `same_name` writes it; the description itself where it names none."""
    found = _FAMILY.search(same_name(description))
    return found[0] if found else description


def same_name(text: str) -> str:
    """A model's name in words: `gemini-3-flash-preview` and "Gemini 3 Flash" are both `gemini 3 flash`."""
    return _NUMBERED.sub(" ", text.lower()).removesuffix(" preview")
