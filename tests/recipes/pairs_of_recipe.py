"""What a recipe asks of its pairs beside their images."""

import json
from pathlib import Path


def write_what_is_asked(file: Path, config) -> None:
    """Add the columns without which an offline recipe's method has nothing to learn from to a set of pairs."""
    rates = {"chosen_reward": 0.9, "rejected_reward": 0.2} if config.objective.get("link") == "calibrated" else {}
    opinion = {"flip_chance": 0.1, "margin": 2.0} if config.data.strength else {}
    whose = {"user": "someone"} if config.data.users else {}
    if rates or opinion or whose:
        file.write_text("".join(json.dumps(json.loads(line) | rates | opinion | whose) + "\n"
                                for line in file.read_text().splitlines()))
