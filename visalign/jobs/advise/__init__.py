"""`visalign advise`: which recipe fits data and a model, and that recipe made ready to run."""
