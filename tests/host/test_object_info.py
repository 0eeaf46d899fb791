"""What /object_info tells of the nodes: the front end and people's saved workflows rest on it."""

import pytest

from tests.host.client import Client
from tests.host.interface import STORED, inputs_of, interface, nodes_of

NODES = sorted(STORED)


@pytest.fixture(scope="module")
def told(server) -> dict:
    return nodes_of(Client(server))


def test_the_nodes_are_those_of_before(told):
    assert sorted(told) == NODES


@pytest.mark.parametrize("name", NODES)
def test_a_node_has_the_sockets_and_defaults_that_saved_workflows_hold(told, name):
    assert interface(name, told[name]) == STORED[name], (
        "People's workflows hold the old sockets. If the change is meant: python -m tests.host.interface"
    )


@pytest.mark.parametrize("name", NODES)
def test_a_node_explains_itself(told, name):
    info = told[name]
    assert info["description"].endswith(".")
    assert all(len(options.get("tooltip", "")) > 10 for _, options in inputs_of(info))
    assert len(info["output_tooltips"]) == len(info["output"])
    assert all(len(tooltip or "") > 10 for tooltip in info["output_tooltips"])


@pytest.mark.parametrize("name", NODES)
def test_a_number_says_its_range(told, name):
    numbers = [options for type_, options in inputs_of(told[name]) if type_ in ("INT", "FLOAT")]
    assert all({"default", "min", "max"} <= set(options) for options in numbers)
    assert all(options["min"] <= options["default"] <= options["max"] for options in numbers)
