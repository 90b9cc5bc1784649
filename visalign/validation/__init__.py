"""Types of settings: the range of every number that a person may set."""
