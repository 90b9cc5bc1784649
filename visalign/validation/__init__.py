"""Types of settings: the range of every number that a user may set."""
