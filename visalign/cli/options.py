"""What several verbs take in the same way."""

import click


class Overridable(click.Command):
    """A verb that takes `key=value`; settings typed like options are answered with the form that is meant."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = {word for param in self.get_params(ctx) for word in (*param.opts, *param.secondary_opts)}
        for i, word in enumerate(args):
            name, equals, value = word.partition("=")
            if word.startswith("--") and name not in known and (equals or "." in name):
                value = value if equals else (args[i + 1] if i + 1 < len(args) else "VALUE")
                raise click.UsageError(f"settings are written without dashes: write {name[2:]}={value}", ctx)
        return super().parse_args(ctx, args)


class Names(click.ParamType):
    """Names separated by commas, with or without spaces, as a tuple."""

    name = "names"

    def __init__(self, may_be_none: bool = False):
        self.may_be_none = may_be_none

    def convert(self, value, param, ctx) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = tuple(name.strip() for name in value.split(",") if name.strip())
        if not names and not self.may_be_none:
            self.fail("names nothing; give at least one name, several with commas between them", param, ctx)
        return names
