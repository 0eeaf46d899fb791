"""The blueprints in subgraphs/: a part of a workflow as one node, made of workflows/api and subgraphs/layout/NAME.yaml,
which says what comes in, which settings the node shows, and what goes out. tests.host.templates writes them, too."""

import uuid

import yaml

from tests.host.server import PACK
from tests.host.templates import BADGE, GAP, TITLE, height, node_of
from tests.host.workflows import workflow

FOLDER = PACK / "subgraphs"
NAMES = sorted(path.stem for path in (FOLDER / "layout").glob("*.yaml"))
CATEGORY = "Tune-A-Video"
INPUTS, OUTPUTS = -10, -20  # the numbers of the two ends of a subgraph
WIDTH, LEFT = 300, 200


def layout(name: str) -> dict:
    return yaml.safe_load((FOLDER / "layout" / f"{name}.yaml").read_text(encoding="utf-8"))


def blueprint(name: str, object_info: dict, ours: set[str]) -> dict:
    """A blueprint as the front end publishes one: a node, whose type is the subgraph that it stands for."""
    plan = layout(name)
    nodes, links = inside(plan, workflow(plan["workflow"]), object_info, ours)
    right = arrange(plan["columns"], nodes, ours)
    first = {setting: places[0].split(".") for setting, places in plan["settings"].items()}
    given = [(entry, kind_at(links, "origin", INPUTS, slot)) for slot, entry in enumerate([*plan["inputs"], *first])]
    gone = [(entry, kind_at(links, "target", OUTPUTS, slot)) for slot, entry in enumerate(plan["outputs"])]
    identity = str(uuid.uuid5(uuid.NAMESPACE_URL, f"tune-a-video/subgraphs/{name}"))
    subgraph = {
        "id": identity,
        "version": 1,
        "state": {"lastGroupId": 0, "lastNodeId": len(nodes), "lastLinkId": len(links), "lastRerouteId": 0},
        "revision": 0,
        "config": {},
        "name": name,
        "inputNode": {"id": INPUTS, "bounding": [0, 0, 120, 20 * len(given) + 40]},
        "outputNode": {"id": OUTPUTS, "bounding": [right + 60, 0, 120, 20 * len(gone) + 40]},
        "inputs": [end(name, *entry, links_at(links, "origin", INPUTS, slot)) for slot, entry in enumerate(given)],
        "outputs": [end(name, *entry, links_at(links, "target", OUTPUTS, slot)) for slot, entry in enumerate(gone)],
        "widgets": [],
        "nodes": list(nodes.values()),
        "groups": [],
        "links": links,
        "extra": {"workflowRendererVersion": "LG"},
        "category": CATEGORY,
        "description": plan["description"],
    }
    node = {"id": 1, "type": identity, "pos": [0, 0], "size": [400, 480], "flags": {}, "order": 0, "mode": 0} | {
        "inputs": [
            {"name": entry, "type": kind, **({"widget": {"name": entry}} if entry in first else {}), "link": None}
            for entry, kind in given
        ],
        "outputs": [{"name": entry, "type": kind, "links": None} for entry, kind in gone],
        "title": name,
        "properties": {"proxyWidgets": [[str(nodes[key]["id"]), setting] for key, setting in first.values()]},
        "widgets_values": [],
    }
    return {
        "revision": 0,
        "last_node_id": 1,
        "last_link_id": 0,
        "nodes": [node],
        "links": [],
        "version": 0.4,
        "definitions": {"subgraphs": [subgraph]},
        "extra": {"BlueprintDescription": plan["description"], "BlueprintSearchAliases": plan["aliases"]},
    }


def inside(plan: dict, prompt: dict, object_info: dict, ours: set[str]) -> tuple[dict, list[dict]]:
    """The nodes of a subgraph, by their names in the workflow, and the links among them and to both ends."""
    numbers = {key: number for number, key in enumerate((key for column in plan["columns"] for key in column), start=1)}
    came = {place: (INPUTS, slot) for slot, place in enumerate(plan["inputs"].values())}
    shown = {place: slot for slot, places in enumerate(plan["settings"].values(), len(came)) for place in places}
    nodes, links = {}, []
    for key, number in numbers.items():
        kind = prompt[key]["class_type"]
        exposed = {place.partition(".")[2] for place in shown if place.startswith(f"{key}.")}
        nodes[key] = node_of(prompt[key], object_info[kind], number, kind in ours, exposed)
        for slot, socket in enumerate(nodes[key]["inputs"]):
            source, place = prompt[key]["inputs"].get(socket["name"]), f"{key}.{socket['name']}"
            if place in shown:
                origin = INPUTS, shown[place]
            elif isinstance(source, list):
                origin = came.get(f"{source[0]}.{source[1]}") or (numbers[source[0]], source[1])
            else:
                continue
            links.append(link(len(links) + 1, *origin, number, slot, socket["type"]))
    for slot, place in enumerate(plan["outputs"].values()):
        key, _, output = place.partition(".")
        kind = nodes[key]["outputs"][int(output)]["type"]
        links.append(link(len(links) + 1, numbers[key], int(output), OUTPUTS, slot, kind))
    connect(nodes.values(), links)
    return nodes, links


def link(number: int, origin: int, output: int, target: int, slot: int, kind: str) -> dict:
    ends = {"origin_id": origin, "origin_slot": output, "target_id": target, "target_slot": slot}
    return {"id": number, **ends, "type": kind}


def links_at(links: list[dict], side: str, node: int, slot: int) -> list[int]:
    return [entry["id"] for entry in links if (entry[f"{side}_id"], entry[f"{side}_slot"]) == (node, slot)]


def kind_at(links: list[dict], side: str, node: int, slot: int) -> str:
    """The type of what comes in, or goes out, at one place of an end."""
    return next(entry["type"] for entry in links if (entry[f"{side}_id"], entry[f"{side}_slot"]) == (node, slot))


def connect(nodes, links: list[dict]) -> None:
    """Writes the links' numbers into the sockets of the nodes."""
    for node in nodes:
        for slot, socket in enumerate(node["inputs"]):
            socket["link"] = next(iter(links_at(links, "target", node["id"], slot)), None)
        for slot, socket in enumerate(node["outputs"]):
            socket["links"] = links_at(links, "origin", node["id"], slot) or None


def end(blueprint: str, name: str, kind: str, links: list[int]) -> dict:
    identity = uuid.uuid5(uuid.NAMESPACE_URL, f"tune-a-video/subgraphs/{blueprint}/{name}")
    return {"id": str(identity), "name": name, "type": kind, "linkIds": links}


def arrange(columns: list[list[str]], nodes: dict, ours: set[str]) -> int:
    """Gives each node its place and size; returns where the last column ends."""
    left = LEFT
    for order, key in enumerate(key for column in columns for key in column):
        nodes[key]["order"] = order
    for column in columns:
        top = 0
        for node in (nodes[key] for key in column):
            top += TITLE + (BADGE if node["type"] in ours else 0)
            node |= {"pos": [left, top], "size": [WIDTH, height(node, WIDTH)]}
            top += node["size"][1] + GAP
        left += WIDTH + 40
    return left
