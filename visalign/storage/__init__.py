"""Files that are whole or not there: text, YAML, weights, caches and the folder of a run."""
