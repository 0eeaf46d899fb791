"""The nodes in /object_info, on which the front end and people's saved workflows rely."""

import asyncio

import pytest

from tests.host.client import Client
from tests.host.inprocess import pack
from tests.host.interface import STORED, inputs_of, interface, nodes_of

NODES = sorted(STORED)


@pytest.fixture(scope="module")
def nodes(server) -> dict:
    return nodes_of(Client(server))


def test_the_nodes_are_those_of_before(nodes):
    assert sorted(nodes) == NODES


@pytest.mark.parametrize("name", NODES)
def test_a_node_has_the_sockets_and_defaults_that_saved_workflows_hold(nodes, name):
    assert interface(name, nodes[name]) == STORED[name], (
        "People's workflows hold the old sockets. If the change is meant: python -m tests.host.interface"
    )


@pytest.mark.parametrize("name", NODES)
def test_a_node_explains_itself(nodes, name):
    info = nodes[name]
    assert info["description"].endswith(".")
    assert all(len(options.get("tooltip", "")) > 10 for _, options in inputs_of(info))
    assert len(info["output_tooltips"]) == len(info["output"])
    assert all(len(tooltip or "") > 10 for tooltip in info["output_tooltips"])


@pytest.mark.parametrize("name", NODES)
def test_a_number_has_a_range(nodes, name):
    numbers = [options for type_, options in inputs_of(nodes[name]) if type_ in ("INT", "FLOAT")]
    assert all({"default", "min", "max"} <= set(options) for options in numbers)
    assert all(options["min"] <= options["default"] <= options["max"] for options in numbers)


def test_no_output_has_the_id_of_an_input():
    """ComfyUI 0.3.64 refuses such a node, and all that come after it."""
    for node in asyncio.run(pack("nodes").TuneAVideo().get_node_list()):
        schema = node.GET_SCHEMA()
        assert not {each.id for each in schema.inputs} & {each.id for each in schema.outputs if each.id}, schema.node_id
