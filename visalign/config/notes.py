"""Settings that are allowed but probably not intended."""

from visalign.config.common import Settings


def notes(config: Settings) -> list[str]:
    """A sentence for each setting without effect in a run of this length."""
    train, optim = config.train, config.optim
    updates = train.steps * getattr(train, "updates_per_epoch", 1)
    found = []
    if optim.warmup_steps >= updates:
        found.append(f"optim.warmup_steps {optim.warmup_steps} is not shorter than the run's {updates} updates, so the "
                     f"learning rate never reaches optim.lr {optim.lr:g}")
    for section in ("eval", "guard"):
        every = getattr(getattr(config, section, None), "every", 0)
        if every > train.steps:
            found.append(f"{section}.every {every} lies beyond the run's {train.steps} steps, so nothing is measured "
                         "between its start and its end")
    if config.output.checkpoint_every > train.steps:
        found.append(f"output.checkpoint_every {config.output.checkpoint_every} lies beyond the run's {train.steps} "
                     "steps")
    return found
