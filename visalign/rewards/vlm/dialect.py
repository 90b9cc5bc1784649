"""The parts of the chat-completions API that a server supports, learnt from its refusals."""

import re
from dataclasses import dataclass, replace
from typing import Any

LIKELIEST, FEWER = 20, 5
"""Most likely tokens requested, and the number for servers that refuse so many."""
HINTS = (
    (r"logprob", "set logprobs: false"),
    (r"temperature", "set temperature to what the server takes"),
    (r"context length|context_length|maximum context|too many tokens", "lower frames or max_tokens, or let the server "
     "take a longer context"),
    (r"at most \d+ image|too many images|limit.mm.per.prompt", "lower frames, or let the server take more images"),
    (r"insufficient_quota|billing|credit", "the account has nothing left to spend"),
)
"""Advice by words in a server's refusal."""


@dataclass(frozen=True)
class Dialect:
    """schema: whether `response_format` is sent. top: most likely tokens requested. limit: the token limit's name."""

    schema: bool = True
    top: int = LIKELIEST
    limit: str = "max_tokens"

    def fields(self, form, max_tokens: int, logprobs: bool) -> dict[str, Any]:
        """The parts of a request in which servers differ."""
        found: dict[str, Any] = {self.limit: max_tokens}
        if form and logprobs:
            found |= {"logprobs": True, "top_logprobs": self.top}
        if form and self.schema:
            found["response_format"] = form.schema
        return found

    def after(self, refusal: str, asked: dict[str, Any]) -> "Dialect | None":
        """What to try next after a refusal (status 400, 422 or 501); None where nothing is left.

        asked: the request. A schema is what servers most often lack, and many do not say so; it goes last.
        """
        said = refusal.lower()
        if "max_completion_tokens" in said and self.limit == "max_tokens":
            return replace(self, limit="max_completion_tokens")
        if re.search(r"logprob", said) and asked.get("top_logprobs", 0) > FEWER:
            return replace(self, top=FEWER)
        if "response_format" in asked and not re.search(r"logprob|temperature", said):
            return replace(self, schema=False)
        return None


def hint(refusal: str) -> str:
    """'; set ...' where a refusal's words suggest a remedy."""
    return next((f"; {remedy}" for words, remedy in HINTS if re.search(words, refusal, re.IGNORECASE)), "")
