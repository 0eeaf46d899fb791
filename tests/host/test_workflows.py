"""Every workflow of workflows/api, run by the server as a headless client would have it run."""

import io
import math
import shutil

import av
import pytest
import torch
from safetensors.torch import load, load_file

from tav_core.files import read_facts
from tav_core.tuned import FORMAT
from tests.host.workflows import FRAMES, NAMES, SIZE, new, small, workflow

LATENTS = {"latents_file": new("SaveLatent", samples=["sample", 0], filename_prefix="test")}


def saved_latents(client, run) -> torch.Tensor:
    (file,) = run.outputs["latents_file"]["latents"]
    return load(client.view(file))["latent_tensor"]


def saved_video(client, run) -> av.VideoStream:
    (file,) = run.outputs["save"]["images"]
    return av.open(io.BytesIO(client.view(file)))


def test_there_is_a_workflow_for_each_use():
    assert NAMES == [
        "edit-with-saved-weights",
        "ksampler-from-inverted",
        "personalised-lora",
        "pose-control",
        "text-to-video",
        "try-with-the-miniature",
        "tune-and-edit",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_each_node_says_what_it_is_for(name):
    assert all(node["_meta"]["title"] for node in workflow(name).values())


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_gives_a_video_of_the_asked_size_and_the_same_one_again(server, client, tuned, name):
    first = client.run(small(name) | LATENTS)
    assert first.status == "success", first.sentence
    latents = saved_latents(client, first)
    assert latents.shape == (FRAMES, 4, SIZE // 8, SIZE // 8)
    assert latents.isfinite().all()
    assert latents.std() > 0.1
    with saved_video(client, first) as video:
        pictures = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert [picture.shape for picture in pictures] == [(SIZE, SIZE, 3)] * FRAMES
    assert all(picture.std() > 1 for picture in pictures)

    client.free()
    shutil.rmtree(server.base / "models" / "tune_a_video" / ".runs", ignore_errors=True)
    again = client.run(small(name) | LATENTS)
    assert {"checkpoint", "sample"} <= again.executed  # nothing was taken from the host's cache
    assert torch.equal(saved_latents(client, again), latents)


def test_another_sentence_a_seed_and_guidance_each_give_another_video(client, tuned):
    def latents(name, changes):
        return saved_latents(client, client.run(small(name, changes) | LATENTS))

    plain = latents("edit-with-saved-weights", {})
    assert not torch.equal(plain, latents("edit-with-saved-weights", {"edit": {"text": "a dog"}}))
    assert not torch.equal(plain, latents("edit-with-saved-weights", {"sample": {"cfg": 2.0}}))
    assert torch.equal(plain, latents("edit-with-saved-weights", {"sample": {"seed": 1}}))  # an inversion draws nothing
    plain = latents("text-to-video", {})
    assert not torch.equal(plain, latents("text-to-video", {"sample": {"seed": 1}}))


def test_the_lora_and_the_poses_have_a_say(client, tuned):
    def latents(name, changes):
        return saved_latents(client, client.run(small(name, changes) | LATENTS))

    lora = {strength: {"lora": {"strength_model": strength}} for strength in (0.0, 0.8)}
    assert not torch.equal(latents("personalised-lora", lora[0.8]), latents("personalised-lora", lora[0.0]))
    poses = {strength: {"control": {"strength": strength}} for strength in (0.0, 0.8)}
    assert not torch.equal(latents("pose-control", poses[0.8]), latents("pose-control", poses[0.0]))


def test_saved_weights_edit_as_those_just_tuned_do(server, client, tuned):
    """Tuning in the graph, and loading what it saved, give the same model."""
    prompt = small("tune-and-edit") | LATENTS
    (fresh, ours) = ("fresh/skiing", "fresh/skiing_00001.safetensors")
    prompt["save_weights"]["inputs"]["filename_prefix"] = fresh
    direct = client.run(prompt)
    loaded = client.run(
        small(
            "edit-with-saved-weights",
            {"weights": {"tuned_weights_name": ours}, "edit": {"text": prompt["edit"]["inputs"]["text"]}},
        )
        | LATENTS
    )
    torch.testing.assert_close(saved_latents(client, loaded), saved_latents(client, direct), atol=1e-4, rtol=0)
    assert load_file(server.base / "models" / "tune_a_video" / ours)


def test_a_checked_inversion_tells_of_pixels_where_there_is_a_vae(client, tuned):
    client.free()
    run = client.run(small("edit-with-saved-weights", {"invert": {"check": True, "vae": ["checkpoint", 2]}}))
    (told,) = run.outputs["invert"]["tune_a_video"]
    assert told["psnr_of"] == "pixels"
    (shown,) = run.of("invert", "text")
    assert shown.data["text"] == f"{told['psnr']:.1f} dB to the clip, in pixels"


def test_the_saved_weights_hold_the_clips_fps_and_sentence(server, client, tuned):
    facts = read_facts(server.base / "models" / "tune_a_video" / tuned, FORMAT)
    assert facts["prompt"] == "a man is skiing"
    assert facts["fps"] == pytest.approx(8 / 5.5)  # 3 of 12 frames at 8 a second, 5.5 apart


def test_every_node_of_ours_tells_its_facts_in_the_history(server, client, tuned):
    client.free()  # the host tells of nodes that run, and not of those behind a result that it still has
    told = {}
    for name in ("tune-and-edit", "edit-with-saved-weights"):
        prompt = small(name, {"invert": {"check": True}, "edit": {"text": "facts"}})
        run = client.run(prompt)
        assert run.status == "success", run.sentence
        told |= {
            prompt[node]["class_type"]: outputs["tune_a_video"][0]
            for node, outputs in run.outputs.items()
            if "tune_a_video" in outputs
        }
    assert told["LoadVideoFrames"]["frames"] == FRAMES
    assert told["LoadVideoFrames"]["file"] == "man-skiing.mp4"
    assert told["InflateUNet"]["attention"] == "sparse-causal"
    assert len(told["OneShotTune"]["losses"]) == told["OneShotTune"]["steps"] == 2
    assert (server.base / "models" / "tune_a_video" / told["SaveTunedWeights"]["name"]).is_file()
    assert told["LoadTunedWeights"]["strength"] == 1.0
    assert told["LoadTunedWeights"]["name"] == tuned
    assert all(told[kind]["seconds"] > 0 for kind in ("OneShotTune", "DDIMInvert", "TAVSample"))
    assert told["LoadTunedWeights"]["frames"] == FRAMES
    assert math.isfinite(told["DDIMInvert"]["psnr"])
    assert told["DDIMInvert"]["psnr_of"] == "latents"
    assert told["TAVSample"]["steps"] == 2
    assert (told["TAVSample"]["cfg"], told["TAVSample"]["frames"]) == (12.5, FRAMES)
