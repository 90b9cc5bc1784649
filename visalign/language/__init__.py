"""Language models: TRL trains them with the objectives and advantages of this package, which scores and guards them."""
