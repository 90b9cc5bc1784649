"""The prompt and seed in a ComfyUI graph: the inputs of a sampling node, followed back along its links.

Two forms of a graph are read: `prompt` ({id: {class_type, inputs}}, a link is [id, slot]) and `workflow` (nodes and
links as the editor draws them). Both are untrusted data: of any shape, deep, with cycles.
"""

from collections import deque
from collections.abc import Iterator

Graph = dict[str, dict]
"""{id: {"class_type": str, "inputs": {name: value or [id, slot]}}}"""

_TEXTS = ("text", "prompt", "positive", "positive_prompt", "populated_text", "wildcard_text", "text_g", "t5xxl",
          "clip_l", "text_l", "string", "string_a", "value", "text_positive")
_SEEDS = ("seed", "noise_seed", "value", "int")
_ASIDE = frozenset({"negative", "model", "clip", "vae", "image", "samples", "latent", "latent_image", "control_net",
                    "sigmas", "sampler"})
"""Links that do not lead to the prompt."""
_ENDS = ("save", "preview", "combine", "output")


def prompt_in_graph(raw: dict) -> tuple[str, object] | None:
    """(prompt, seed or None) of a graph of either form; None where there is no prompt in it."""
    graph = _of_workflow(raw) if isinstance(raw.get("nodes"), list) else _of_prompt(raw)
    for number in _samplers(graph):
        inputs = graph[number]["inputs"]
        starts = [inputs[name] for name in ("positive", "guider", "conditioning") if name in inputs]
        prompt = next((text for start in starts if (text := _text_behind(graph, start))), None)
        if prompt:
            return prompt, _seed_of(graph, inputs)
    return None


def _of_prompt(raw: dict) -> Graph:
    return {str(number): {"class_type": str(node.get("class_type", "")),
                          "inputs": node["inputs"] if isinstance(node.get("inputs"), dict) else {}}
            for number, node in raw.items() if isinstance(node, dict)}


def _of_workflow(raw: dict) -> Graph:
    """The editor's form converted to the other: widgets have no names there, so a node's first text is its text."""
    links = raw["links"] if isinstance(raw.get("links"), list) else []
    sources = {str(link[0]): [str(link[1]), 0] for link in links if isinstance(link, list) and len(link) > 1}
    graph: Graph = {}
    for node in raw["nodes"]:
        if not isinstance(node, dict):
            continue
        kind = str(node.get("type", ""))
        inputs: dict = {}
        widgets = node.get("widgets_values")
        if isinstance(widgets, dict):
            inputs |= widgets
        elif isinstance(widgets, list):
            inputs["text"] = next((w for w in widgets if isinstance(w, str)), None) if _says(kind, _WORDY) else None
            inputs["seed"] = next((w for w in widgets if type(w) is int), None) if _says(kind, _DRAWING) else None
        slots = node["inputs"] if isinstance(node.get("inputs"), list) else []
        inputs |= {str(slot.get("name")): sources[str(slot.get("link"))] for slot in slots
                   if isinstance(slot, dict) and str(slot.get("link")) in sources}
        graph[str(node.get("id"))] = {"class_type": kind, "inputs": inputs}
    return graph


_WORDY = ("text", "prompt", "string", "primitive")
_DRAWING = ("sampler", "noise", "seed")


def _says(kind: str, words: tuple[str, ...]) -> bool:
    return any(word in kind.lower() for word in words)


def _samplers(graph: Graph) -> list[str]:
    """Nodes with a prompt input; first those that lead to a saved image, the nearest first."""
    ends = [number for number, node in graph.items() if _says(node["class_type"], _ENDS)]
    reached = [number for number, _ in _behind(graph, [[number, 0] for number in ends])]
    return [number for number in dict.fromkeys([*reached, *graph]) if not graph[number]["inputs"].keys().isdisjoint(
        ("positive", "guider")) or ("conditioning" in graph[number]["inputs"] and
                                    _says(graph[number]["class_type"], ("sampler",)))]


def _behind(graph: Graph, starts: list, aside: frozenset[str] = frozenset()) -> Iterator[tuple[str, dict]]:
    """(id, inputs) of the nodes that links come from, the nearest first, each once."""
    waiting, seen = deque(starts), set()
    while waiting:
        link = waiting.popleft()
        if not isinstance(link, list) or not link or not isinstance(link[0], str | int):
            continue
        number = str(link[0])
        if number in seen or number not in graph:
            continue
        seen.add(number)
        inputs = graph[number]["inputs"]
        yield number, inputs
        waiting.extend(value for name, value in inputs.items() if isinstance(value, list) and name not in aside)


def _text_behind(graph: Graph, start) -> str | None:
    if isinstance(start, str):
        return start.strip() or None
    for _, inputs in _behind(graph, [start], _ASIDE):
        for name in _TEXTS:
            if isinstance(inputs.get(name), str) and inputs[name].strip():
                return inputs[name].strip()
    return None


def _seed_of(graph: Graph, inputs: dict):
    links = [inputs[name] for name in ("seed", "noise_seed", "noise") if isinstance(inputs.get(name), list)]
    for each in (inputs, *(found for _, found in _behind(graph, links))):
        for name in _SEEDS:
            if type(each.get(name)) is int:
                return each[name]
    return None
