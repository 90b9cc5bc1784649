"""Reading chat completions: the answer's words, and the probabilities of the choices at their place."""

import math
from typing import Any

from visalign.rewards.pairwise import Failure
from visalign.rewards.vlm.forms import Form, form_shown
from visalign.rewards.vlm.questions import Reply
from visalign.rewards.web.replies import Unreadable, parsed, plain_text, without_key, words_of_page

COMPLETION = "chat completion"


def read_completion(body: bytes, form: Form | None, max_tokens: int, key: str | None) -> Reply | Failure:
    """The answer of a chat completion. Raises Unreadable for anything else."""
    said = parsed(body, key, COMPLETION)
    try:
        choice = said["choices"][0]
        message = choice["message"]
        text = without_key(text_of(message.get("content")), key)
        refusal, finish = message.get("refusal"), choice.get("finish_reason")
        thoughts = message.get("reasoning_content") or message.get("reasoning")
    except (LookupError, TypeError, AttributeError):
        raise Unreadable(f"the body is no {COMPLETION}: {words_of_page(body, key)[:120]!r}") from None
    if refusal:
        return Failure(f"the model refused: {plain_text(without_key(str(refusal), key))[:120]}")
    if finish in ("length", "max_tokens"):
        where = "while the model was still reasoning" if thoughts and not text.strip() else "before it ended"
        return Failure(f"the answer was cut off at max_tokens ({max_tokens}) {where}; raise max_tokens"
                       + (f": {form_shown(text)}" if text.strip() else ""))
    if finish == "content_filter":
        return Failure("the server's filter of content held the answer back")
    if not text.strip():
        return Failure("the whole answer is reasoning, nothing follows it; raise max_tokens, or turn the model's "
                       "reasoning off" if thoughts else "the model's answer is empty")
    chances, note = chances_of(choice.get("logprobs"), text, form)
    return Reply(text, chances, note)


def text_of(content: Any) -> str:
    """A message's words, given as one text or as a list of parts. Raises TypeError for anything else."""
    if content is None:
        return ""
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part.get("type") in ("text", "output_text"))
    if not isinstance(content, str):
        raise TypeError
    return content.encode("utf-8", "replace").decode()


def chances_of(told: Any, text: str, form: Form | None) -> tuple[dict[str, float] | None, str | None]:
    """(probability of each of the form's choices at the answer's place, a note where they are not usable)."""
    tokens = told.get("content") if isinstance(told, dict) else None
    if form is None or not tokens:
        return None, None
    try:
        place = form.token(text, [token["token"] for token in tokens])
        if place is None:
            return None, None
        token = tokens[place]
        options = {option["token"]: probability(option["logprob"])
                   for option in [*(token.get("top_logprobs") or ()), token]}
    except (LookupError, TypeError, AttributeError, ValueError):
        return None, "the server's log-probabilities are not usable, so the answer's words count"
    found = {str(choice): sum(p for option, p in options.items() if option.strip() == str(choice))
             for choice in form.choices}
    if sum(found.values()) > 1.01:
        return None, "the server's log-probabilities add to more than 1, so the answer's words count"
    return found, None


def probability(logprob: Any) -> float:
    """exp of a log-probability. Raises ValueError or TypeError for anything else."""
    if isinstance(logprob, bool) or not isinstance(logprob, int | float):
        raise TypeError
    if not logprob <= 0.01:  # NaN among others
        raise ValueError
    return math.exp(min(logprob, 0.0))
