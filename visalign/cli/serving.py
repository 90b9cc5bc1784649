"""`visalign reward serve`: rewards over HTTP."""

from pathlib import Path

import click

from visalign.cli.options import device_option, ranged
from visalign.cli.verbs import Verb
from visalign.errors import check_package
from visalign.validation.ranges import BatchSize, Limit, Megabytes, Milliseconds


@click.command("serve", cls=Verb)
@click.argument("rewards", metavar="REWARD...", nargs=-1, required=True)
@click.option("--host", default="127.0.0.1", show_default=True,
              help="Address to listen at; another than this machine's own needs --token-file.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65_535), help="0 is any free one.")
@click.option("--batch", default=64, show_default=True, type=ranged(BatchSize),
              help="Samples scored together at most, from all requests.")
@click.option("--wait-ms", default=20.0, show_default=True, type=ranged(Milliseconds),
              help="How long a sample waits for others while the reward is idle.")
@click.option("--max-mb", default=256.0, show_default=True, type=ranged(Megabytes), help="Of one request.")
@click.option("--max-samples", default=256, show_default=True, type=ranged(Limit), help="Of one request.")
@click.option("--queue", default=1024, show_default=True, type=ranged(Limit),
              help="Samples in the server at once; more are answered with 503.")
@click.option("--max-megapixels", default=1024.0, show_default=True, type=ranged(Megabytes),
              help="Decoded images in the server at once, 3 MB of memory each.")
@click.option("--token-file", type=click.Path(path_type=Path), help="A file with the token that clients must send.")
@click.option("--allow-folder", "folders", multiple=True, type=click.Path(path_type=Path),
              help="A folder whose files requests may name by path; may be repeated.")
@device_option
def serve(rewards: tuple[str, ...], device: str, token_file: Path | None, **given) -> None:
    """Serve each REWARD over HTTP, in batches across requests, until a signal.

    A REWARD is named as for `score`. Runs use it as {kind: http, url: http://HOST:PORT}; Flow-Factory, UniRL and
    cosmos-rl in their own forms (docs/reward-server.md).

    \b
    visalign reward serve pickscore sharpness --port 8000
    """
    for module in ("fastapi", "uvicorn", "prometheus_client", "python_multipart"):
        check_package("visalign reward serve", module, "'visalign[serve]'")
    from visalign.generators.hardware.devices import pick_device
    from visalign.serving.run import serve_rewards
    from visalign.serving.settings import ServeSettings, read_token

    token = None if token_file is None else read_token(token_file)
    settings = ServeSettings(token=token, **given)
    serve_rewards(list(rewards), settings, str(pick_device(device)), click.echo)
