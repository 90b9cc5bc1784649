"""The page's framework object, which answers invalid values with one sentence instead of a traceback."""

import asyncio
import html
import logging

import gradio as gr

from visalign_demo.claims import Refused

_log = logging.getLogger("visalign.demo")
UNFIT = "A value that was sent does not fit its field; reload the page and try again."


class Page(gr.Blocks):
    """Blocks whose errors are one sentence each. Uploads are checked, as in an app that was launched."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.has_launched = True  # a mounted app is never launched, and then checks no paths
        self.state_session_capacity = 500  # a session holds a copy of the page's settings; 10,000 would be gigabytes

    def name_of(self, route: str, body: dict) -> str:
        """The endpoint that a request calls; empty where it calls none. Raises Refused when there is no such one."""
        kind, _, name = route.strip("/").partition("/")
        if kind not in ("run", "api", "call", "queue"):
            return ""
        function = self.fns.get(body["fn_index"]) if "fn_index" in body else next(
            (each for each in self.fns.values() if each.api_name == name and kind != "queue"), None)
        if function is None:
            raise Refused("There is no such endpoint.", 404)
        if len(body["data"]) > len(function.inputs):
            raise Refused(f"'{function.api_name}' takes {len(function.inputs)} values, not {len(body['data'])}.")
        return str(function.api_name)

    async def process_api(self, block_fn, inputs, *args, **more):
        try:
            return await super().process_api(block_fn, inputs, *args, **more)
        except asyncio.CancelledError:
            raise
        except gr.Error as error:
            raise said(error.message) from None
        except Exception as error:
            _log.warning("a request to %s was refused: %s", getattr(block_fn, "api_name", block_fn),
                         type(error).__name__)
            raise said(str(error) if isinstance(error, gr.exceptions.ComponentProcessingError) else UNFIT) from None

    def _format_processing_error(self, block_fn, index, block, value, is_input, original_error) -> str:
        """What gradio says of a value that a field cannot take."""
        name = getattr(block, "label", None) or f"Field {index + 1}"
        return f"{name}: {str(value)[:60]!r} is not a value that this field takes."


def said(sentence: str) -> gr.Error:
    """An error that the page shows and the log does not trace; escaped, since gradio would render its markup."""
    return gr.Error(html.escape(sentence, quote=False), print_exception=False)
