"""What the command line does besides training: one file a verb, each usable as a function."""
