"""What a graph in API format says of a node's inputs: the prompt, the LoRAs, the controls and the clip upstream."""

import pytest

from tests.host.inprocess import pack

ENCODE = {"inputs": {"text": "a man is skiing", "clip": ["checkpoint", 1]}}
TUNE = {"inputs": {"positive": ["caption", 0], "steps": 2}}


@pytest.mark.parametrize(
    ("graph", "prompt"),
    [
        ({"tune": TUNE, "caption": ENCODE}, "a man is skiing"),
        (
            {
                "tune": TUNE,
                "caption": {"inputs": {"positive": ["encode", 0], "negative": ["nothing", 0]}},
                "encode": ENCODE,
                "nothing": {"inputs": {"text": ""}},
            },
            "a man is skiing",
        ),
        (
            {
                "tune": TUNE,
                "caption": {"inputs": {"text": ["words", 0], "clip": ["checkpoint", 1]}},
                "words": {"inputs": {"value": "a dog"}},
            },
            "a dog",
        ),
        ({"tune": TUNE, "caption": {"inputs": {"conditioning": ["tune", 0]}}}, ""),
        ({"tune": TUNE}, ""),
        ({"tune": {"inputs": {}}}, ""),
        ({}, ""),
        (None, ""),
    ],
)
def test_the_nearest_text_upstream_is_the_prompt(graph, prompt):
    assert pack("nodes.host.graph").prompt_behind(graph, "tune") == prompt


def lora(name, model, strength=1.0):
    return {"inputs": {"model": [model, 0], "lora_name": name, "strength_model": strength, "strength_clip": 1.0}}


LOADER = {"inputs": {"ckpt_name": "sd15.safetensors"}}
LOADED = {"file": "a.safetensors", "strength": 1.0}


@pytest.mark.parametrize(
    ("graph", "loras"),
    [
        ({"load": LOADER}, []),
        ({"load": lora("styles/a.safetensors", "base"), "base": LOADER}, [LOADED]),
        ({"load": lora("styles\\a.safetensors", "base"), "base": LOADER}, [LOADED]),
        (
            {"load": {"inputs": {"model": ["b", 0]}}, "b": lora("b.pt", "a", 0.5), "a": lora("a.safetensors", "base")},
            [LOADED, {"file": "b.pt", "strength": 0.5}],
        ),
        (
            {
                "load": {
                    "inputs": {"model": ["base", 0], "lora_1": "a.safetensors", "lora_2": "None", "strength": 1.0}
                },
                "base": LOADER,
            },
            [LOADED],
        ),
        ({"load": lora("a.safetensors", "base", 0.0), "base": LOADER}, []),
        ({"load": lora("a.safetensors", "base", ["number", 0])}, [LOADED | {"strength": None}]),
        ({"load": lora(["name", 0], "base"), "name": {"inputs": {"value": "a.safetensors"}}}, []),
        ({"load": {"inputs": {"model1": ["a", 0], "model2": ["b", 0]}}, "a": lora("a.safetensors", "base")}, [LOADED]),
        ({"load": lora("a.safetensors", "tune"), "base": LOADER}, [LOADED] * 2),  # a loop ends
        ({}, []),
        (None, []),
    ],
)
def test_loras_are_named_in_the_order_they_are_applied(graph, loras):
    graph = graph and {"tune": {"inputs": {"model": ["load", 0]}}} | graph
    assert pack("nodes.host.graph").loras_behind(graph, "tune") == loras


def apply(positive, net, image):
    return {"inputs": {"positive": [positive, 0], "control_net": [net, 0], "image": [image, 0], "strength": 0.8}}


NETS = {
    "pose": {"inputs": {"control_net_name": "sd15/openpose.pth"}},
    "typed": {"inputs": {"control_net": ["depth", 0], "type": "depth"}},
    "depth": {"inputs": {"control_net_name": "depth.safetensors"}},
}
IMAGES = {
    "poses": {"inputs": {"video": "", "frames": 3, "clip": ["drawn", 0]}},
    "drawn": {"inputs": {"shows": "poses"}},
    "resized": {"inputs": {"image": ["file", 0], "width": 64}},
    "file": {"inputs": {"image": "folder/depth.png"}},
    "computed": {"inputs": {"color": 0}},
}


@pytest.mark.parametrize(
    ("graph", "controls"),
    [
        ({"encode": ENCODE}, []),
        ({"encode": apply("caption", "pose", "poses"), "caption": ENCODE}, [("openpose.pth", "poses")]),
        (
            {
                "encode": apply("first", "typed", "resized"),
                "first": apply("masked", "pose", "computed"),
                "masked": {"inputs": {"conditioning": ["caption", 0]}},
                "caption": ENCODE,
            },
            [("depth.safetensors", "depth.png"), ("openpose.pth", None)],
        ),
        ({"encode": apply("caption", "gone", "gone"), "caption": ENCODE}, [(None, None)]),
        ({"encode": {"inputs": {"conditioning": ["encode", 0]}}}, []),  # a loop ends
        (None, []),
    ],
)
def test_controls_are_named_from_the_nearest_on(graph, controls):
    graph = graph and {"tune": {"inputs": {"positive": ["encode", 1]}}} | NETS | IMAGES | graph
    assert pack("nodes.host.graph").controls_behind(graph, "tune") == controls


def test_a_loop_of_controls_ends():
    graph = {"tune": {"inputs": {"positive": ["tune", 0], "control_net": ["tune", 0], "image": ["tune", 0]}}}
    assert set(pack("nodes.host.graph").controls_behind(graph, "tune")) == {(None, None)}


LOAD = {"video": "takes/man-skiing.mp4 [output]", "frames": 24, "start": 0, "stride": 0, "width": 512, "fit": "crop"}
EVENLY = {"clip": "man-skiing.mp4", "start": 0, "fit": "crop", "by_time": None}


def loading(kind="LoadVideoFrames", encoder="VAEEncode", output=0, opener="LoadVideo", **changes):
    """A graph that tunes on a clip. changes: of the loader's inputs."""
    return {
        "tune": {"inputs": {"latents": ["encode", 0]}},
        "encode": {"class_type": encoder, "inputs": {"pixels": ["frames", output], "vae": ["checkpoint", 2]}},
        "frames": {"class_type": kind, "inputs": LOAD | changes},
        "opened": {"class_type": opener, "inputs": {"file": "walk.webm"}},
    }


@pytest.mark.parametrize(
    ("graph", "clip"),
    [
        (loading(), EVENLY),
        (loading(encoder="VAEEncodeTiled", by_time=True), EVENLY | {"stride": 0, "by_time": True}),
        (loading(start=3, stride=2, by_time=True), EVENLY | {"start": 3, "stride": 2, "by_time": False}),
        (loading(clip=["opened", 0]), EVENLY | {"clip": "walk.webm"}),
        (loading(clip=["opened", 0], opener="TrimVideo"), {}),
        (loading(clip=["gone", 0]), {}),
        (loading(start=["number", 0]), {}),
        (loading(by_time=["number", 0]), {}),
        (loading(video=""), {}),
        (loading("ImageBatch"), {}),
        (loading(encoder="RepeatLatentBatch"), {}),
        (loading(output=1), {}),
        ({"tune": {"inputs": {"latents": ["tune", 0]}}}, {}),
        ({"tune": {"inputs": {"latents": []}}}, {}),
        (None, {}),
    ],
)
def test_the_clip_is_named_where_its_frames_arrive_as_they_were_loaded(graph, clip):
    assert pack("nodes.host.graph").clip_behind(graph, "tune") == clip
