"""How a language model's answers are drawn; every setting that draws some has these."""

from visalign.config.common import Settings, Text
from visalign.validation.ranges import AnswerTokens, BatchSize, Share, Temperature


class AnswerSettings(Settings):
    """How answers are drawn: at most max_tokens of them, at this temperature (0: the likeliest token each time), from
    the likeliest tokens that hold the share top_p. batch_size: answers drawn at once."""

    max_tokens: AnswerTokens = 128
    temperature: Temperature = 1.0
    top_p: Share = 1.0
    batch_size: BatchSize = 32


class AskedSettings(AnswerSettings):
    """How a language model is asked from outside of a run; system: text in the system's turn (null: its template's)."""

    system: Text | None = None
