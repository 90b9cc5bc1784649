"""Files written atomically: text, YAML, weights, caches and the folder of a run."""
