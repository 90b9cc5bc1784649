"""Learning a pipeline's conventions by watching it run a short call with its network replaced."""
