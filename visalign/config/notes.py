"""Settings that are allowed but probably not intended."""

from visalign.config.adapter import AdaptConfig
from visalign.config.common import Settings
from visalign.config.optim import OptimSettings


def notes(config: Settings) -> list[str]:
    """A sentence for each setting without effect in a run of this length."""
    if isinstance(config, AdaptConfig):
        return [*_warmed_up(config.sft.optim, config.sft.train.steps, "sft."),
                *_warmed_up(config.dpo.optim, config.dpo.train.steps, "dpo.")]
    train = config.train
    found = _warmed_up(config.optim, train.steps * getattr(train, "updates_per_epoch", 1))
    for section in ("eval", "guard"):
        every = getattr(getattr(config, section, None), "every", 0)
        if every > train.steps:
            found.append(f"{section}.every {every} lies beyond the run's {train.steps} steps, so nothing is measured "
                         "between its start and its end")
    if config.output.checkpoint_every > train.steps:
        found.append(f"output.checkpoint_every {config.output.checkpoint_every} lies beyond the run's {train.steps} "
                     "steps")
    return found


def _warmed_up(optim: OptimSettings, updates: int, section: str = "") -> list[str]:
    if optim.warmup_steps < updates:
        return []
    return [f"{section}optim.warmup_steps {optim.warmup_steps} is not shorter than the run's {updates} updates, so the "
            f"learning rate never reaches {section}optim.lr {optim.lr:g}"]
