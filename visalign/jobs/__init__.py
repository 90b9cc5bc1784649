"""What the commands do, from start to finish: one file per command, each usable as a function."""
