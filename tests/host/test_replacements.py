"""Workflows with nodes that are gone."""

from tests.host.client import Client
from tests.host.interface import nodes_of
from tests.host.workflows import ending_in, new, small


def test_the_earlier_ports_tuning_is_ours_with_its_settings(client):
    prompt = small("try-with-the-miniature")
    its = {"samples": prompt["tune"]["inputs"]["latents"], "context": prompt["tune"]["inputs"]["positive"], "steps": 2}
    prompt["tune"] = new("TrainUnetSequence", model=prompt["tune"]["inputs"]["model"], **its)
    for node in prompt.values():
        node["_meta"] = {"title": ""}  # the host takes it for granted
    prompt["save"] = new("SaveTunedWeights", tuned_weights=["tune", 1], filename_prefix="replaced")
    run = client.run(ending_in(prompt, "save"))
    assert run.status == "success", run.message
    assert run.outputs["tune"]["tune_a_video"][0]["steps"] == 2


def test_a_replacement_names_sockets_that_exist(server):
    client = Client(server)
    nodes, replacements = nodes_of(client), client.get("/node_replacements")
    ours = [each for many in replacements.values() for each in many if each["new_node_id"] in nodes]
    assert [each["old_node_id"] for each in ours] == ["TrainUnetSequence"]
    for each in ours:
        info = nodes[each["new_node_id"]]["input"]
        given = {one["new_id"] for one in each["input_mapping"]}
        assert set(info["required"]) <= given <= {*info["required"], *info["optional"]}
