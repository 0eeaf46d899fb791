"""Clips and weights on their ways in: files that change, uploads, links and sockets, over a real server."""

import io

import av
import numpy as np
import pytest
import torch

from tests import clips
from tests.host.test_workflows import saved_latents
from tests.host.workflows import FRAMES, SIZE, SMALL, changed, ending_in, new, small

NUMBERED = "numbered.mp4"


def loading(**inputs) -> dict:
    settings = {"start": 0, "stride": 0, "fit": "crop"} | SMALL["LoadVideoFrames"] | inputs
    return {"clip": new("LoadVideoFrames", **settings), "shown": new("PreviewImage", images=["clip", 0])}


def over_a_link(name: str) -> dict:
    """The clip's name out of a switch, for the host lets no STRING into a list."""
    name = {"name": new("PrimitiveString", value=name), "switch": new("ComfySwitchNode", switch=True)}
    name["switch"]["inputs"] |= {"on_true": ["name", 0], "on_false": ["name", 0]}
    return loading(video=["switch", 0]) | name


@pytest.fixture
def numbered(server):
    """A clip in the input folder, each of whose frames shows its number."""
    return clips.encode(server.base / "input" / NUMBERED, clips.numbered(9), fps=8)


def values_of(run) -> dict:
    return run.outputs["clip"]["tune_a_video"][0]


@pytest.mark.parametrize("prompt", [loading(video=NUMBERED), over_a_link(NUMBERED)], ids=["named", "over a link"])
def test_a_clip_is_read_again_when_its_file_has_changed(client, numbered, prompt):
    client.free()
    assert values_of(client.run(prompt))["fps"] == pytest.approx(2)  # 3 of 9 frames at 8 a second
    clips.encode(numbered, clips.numbered(17), fps=8)
    again = client.run(prompt)
    assert "clip" in again.executed
    assert values_of(again)["fps"] == pytest.approx(1)


def test_a_clip_is_not_read_again_when_nothing_has_changed(client, numbered):
    client.run(loading(video=NUMBERED))
    assert "clip" not in client.run(loading(video=NUMBERED)).executed
    assert "clip" in client.run(loading(video=NUMBERED, start=1)).executed


def test_the_chosen_frames_are_shown_in_the_node(client, numbered):
    client.free()
    reported = client.run(loading(video=NUMBERED)).outputs["clip"]
    assert reported["animated"] == [True]
    with av.open(io.BytesIO(client.view(reported["images"][0]))) as video:
        shown = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert [frame.shape for frame in shown] == [(SIZE, SIZE, 3)] * FRAMES
    assert values_of(client.run(loading(video=NUMBERED, start=1)))["note"] is None


def test_a_clip_with_fewer_frames_than_asked_for_gives_those_and_says_so(client, numbered):
    values = values_of(client.run(loading(video=NUMBERED, frames=500)))
    assert values["frames"] in (9, 17)  # as another test has changed the file
    assert "The clip has only" in values["note"]
    run = client.run(loading(video=NUMBERED, frames=500, strict=True))
    assert "500 frames are asked for" in run.message


def test_a_cut_between_two_shots_is_told(server, client):
    one, other = (np.full((SIZE, SIZE, 3), colour, np.uint8) for colour in ((200, 40, 40), (20, 60, 220)))
    clips.encode(server.base / "input" / "cut.mp4", [one] * 4 + [other] * 4, fps=8)
    assert "Frames 4 and 5 look like two shots" in values_of(client.run(loading(video="cut.mp4", frames=8)))["note"]


def test_frames_are_chosen_by_time_where_the_rate_varies_unless_a_socket_says_otherwise(server, client):
    times = [*range(0, 6000, 1000), *range(6000, 8000, 50)]  # milliseconds
    pictures = [np.full((SIZE, SIZE, 3), time // 40, np.uint8) for time in times]
    clips.encode(server.base / "input" / "varying.mp4", pictures, times=times)

    def seconds_shown(**inputs) -> list[int]:
        no = {"no": new("PrimitiveBoolean", value=False)}
        (reported,) = client.run(loading(video="varying.mp4", **inputs) | no).outputs["clip"]["images"]
        with av.open(io.BytesIO(client.view(reported))) as video:
            return [int(frame.to_ndarray(format="rgb24").mean() / 25 + 0.1) for frame in video.decode(video=0)]

    assert FRAMES == 3
    assert seconds_shown() == [0, 3, 7]
    assert seconds_shown(by_time=["no", 0]) == [0, 6, 7]
    assert seconds_shown(by_time=["no", 0], stride=5) == [0, 5, 6]


def test_a_damaged_frame_is_told(server, client):
    path = clips.encode(server.base / "input" / "damaged.avi", clips.moving(9), codec="mpeg4", options={"q": "3"})
    path.write_bytes(clips.broken(path, 5))
    assert "damaged.avi is damaged at frame 5" in values_of(client.run(loading(video="damaged.avi")))["note"]


def test_the_miniatures_clip_and_words_need_no_file(client):
    miniature = new("LoadMiniature", personalised=False)
    run = client.run(loading(video="gone.mp4", clip=["miniature", 3]) | {"miniature": miniature})
    assert run.status == "success", run.message
    assert values_of(run)["file"] is None
    (reported,) = run.outputs["miniature"]["tune_a_video"]
    assert set(reported["caption"].replace(",", "").split()) <= set(reported["words"].split())


def test_a_video_of_another_node_is_taken_in_place_of_a_file(client, numbered):
    file = {"latents_file": new("SaveLatent", samples=["latents", 0], filename_prefix="test")}
    direct = ending_in(small("tune-and-edit", {"clip": {"video": NUMBERED}} | file), "latents_file")
    own = saved_latents(client, client.run(direct))
    for name in ("", "gone.mp4"):  # a shared workflow names a file that others do not have
        link = {"loader": new("LoadVideo", file=NUMBERED), "clip": {"video": name, "clip": ["loader", 0]}}
        assert torch.equal(saved_latents(client, client.run(changed(direct, link))), own)


def test_an_uploaded_clip_is_a_choice_and_is_read(server, client, numbered):
    reported = client.upload("uploaded.mp4", numbered.read_bytes())
    assert values_of(client.run(loading(video=reported["name"])))["file"] == "uploaded.mp4"
    choices = client.get("/object_info/LoadVideoFrames")["LoadVideoFrames"]["input"]["required"]["video"]
    assert "uploaded.mp4" in str(choices)
