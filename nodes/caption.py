"""The sentence that a graph holds in words, for notes; nodes themselves only get what the text encoder made of it."""

from collections.abc import Mapping

WORDS = ("text", "value", "string")  # what core's nodes call a sentence: CLIP Text Encode, and primitives behind it
BEFORE = ("conditioning", "positive", *WORDS)


def caption_behind(graph: Mapping[str, dict] | None, node_id: str | None, socket: str = "positive") -> str:
    """The text of the nearest node with one, upstream of a socket; "" where there is none.

    graph: in API format, {id: {"inputs": {name: value or [id, output]}}}, as a hidden `prompt` input holds it.
    """
    inputs = (graph or {}).get(node_id, {}).get("inputs", {})
    for _ in graph or ():
        link = inputs.get(socket)
        if not isinstance(link, list):
            return ""
        inputs = graph.get(str(link[0]), {}).get("inputs", {})
        if words := next((inputs[name] for name in WORDS if isinstance(inputs.get(name), str)), ""):
            return words
        socket = next((name for name in BEFORE if isinstance(inputs.get(name), list)), "")
    return ""
