"""Embedded prompts for language models: questions about topics, of which eight are held out.

    topics:train      24 topics, each in 3 forms      topics:held_out   8 other topics, in the same forms
"""

QUESTION_FORMS = ("What is {}?", "Tell me about {}.", "Explain {} to a child.")
TRAIN_TOPICS = (
    "rain", "a bicycle", "honey", "the Moon", "a volcano", "bread", "a lighthouse", "salt", "a compass", "glass",
    "a violin", "the heart", "a desert", "paper", "a whale", "electricity", "a bridge", "cheese", "a magnet", "sleep",
    "an earthquake", "a library", "snow", "a telescope")
HELD_OUT_TOPICS = ("a rainbow", "the Sun", "a clock", "coffee", "a submarine", "wool", "a waterfall", "gravity")
SPLITS_OF_TOPICS = {"train": TRAIN_TOPICS, "held_out": HELD_OUT_TOPICS}


def topic_prompts(split: str) -> list[str]:
    """All forms of every topic of a split, topic by topic."""
    return [form.format(topic) for topic in SPLITS_OF_TOPICS[split] for form in QUESTION_FORMS]
