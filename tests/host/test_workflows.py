"""Every workflow of workflows/api, run by the server as a headless client would have it run."""

import io
import json
import math
import re
import shutil
from functools import cache
from pathlib import Path

import av
import pytest
import torch
from safetensors.torch import load, load_file
from torch.nn.functional import interpolate

from tav_core.checkpoints.lora import Lora
from tav_core.files import read_metadata
from tav_core.jobs.control_choice import ControlChoice
from tav_core.jobs.edit_config import EditConfig
from tav_core.jobs.editing import prepare_edit
from tav_core.tuned import FORMAT
from tests import clips
from tests.host import blueprints, templates
from tests.host.assets import CHECKPOINT, CLIP, CONTROLNET, LORA, PERSONALISED, T2I_ADAPTER
from tests.host.client import Client
from tests.host.interface import nodes_of
from tests.host.workflows import FRAMES, NAMES, SIZE, changed, ending_in, new, small, workflow

VIDEOS = {"list-of-clips": 2}
LENGTHS = {"interpolate-and-extend": 2 * (FRAMES + 2) - 1}
WIDTHS = {"compare-edits": 4 * SIZE + 3 * 8}  # the clip, three edits, and a line between them
TWICE = (
    "change-one-thing",
    "edit-with-saved-weights",
    "interpolate-and-extend",
    "long-clip",
    "per-frame-prompts",
    "text-to-video",
    "try-with-the-miniature",
    "tune-and-edit",
)
KEPT = {"kept": new("SaveTunedWeights", tuned_weights=["tune", 1], filename_prefix="kept")}
LATENTS = {"latents_file": new("SaveLatent", samples=["sample", 0], filename_prefix="test")}


def sampled(prompt: dict) -> dict:
    """A workflow up to the latents of its video, for decoding takes longer than all else."""
    return ending_in(prompt | LATENTS, "latents_file")


def saved_latents(client, run) -> torch.Tensor:
    file, *_ = run.outputs["latents_file"]["latents"]
    return load(client.view(file))["latent_tensor"]


def saved_video(client, run) -> av.VideoStream:
    file, *_ = run.outputs["save"]["images"]
    return av.open(io.BytesIO(client.view(file)))


@pytest.fixture(scope="module")
def drawn(server, tuned):
    """Runs a workflow as it is, once: drawn(name) -> (its run, the latents of its video)."""
    client = Client(server)

    @cache
    def run_once(name: str):
        run = client.run(small(name) | LATENTS | (KEPT if "tune" in workflow(name) else {}))
        assert run.status == "success", run.message
        return run, saved_latents(client, run)

    return run_once


@pytest.fixture(scope="module")
def object_info(server) -> dict:
    return Client(server).get("/object_info")


@pytest.mark.parametrize("name", NAMES)
def test_each_title_is_its_nodes_name_or_tells_several_of_one_kind_apart(object_info, name):
    """Other titles hide the names that messages, help and README speak of, and stay English in a Chinese front end."""
    nodes = workflow(name).values()
    names = {kind: object_info[kind]["display_name"] for kind in {node["class_type"] for node in nodes}}
    own = [node for node in nodes if node["_meta"]["title"] != names[node["class_type"]]]
    assert len({node["_meta"]["title"] for node in nodes}) == len(nodes)
    for node in own:
        name = re.search(r"\(([^,)]+)", node["_meta"]["title"])[1]  # or its beginning, for a title widens a narrow node
        assert names[node["class_type"]].startswith(name)
        assert sum(other["class_type"] == node["class_type"] for other in nodes) > 1, node


@pytest.mark.parametrize("name", NAMES)
def test_a_template_is_made_of_its_workflow_and_its_layout(client, object_info, name):
    stored = json.loads((templates.FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    assert stored == templates.template(name, object_info, set(nodes_of(client))), (
        "python -m tests.host.templates makes it anew"
    )


@pytest.mark.parametrize("name", blueprints.NAMES)
def test_the_server_hands_out_a_blueprint_made_of_its_workflow_and_its_layout(client, object_info, name):
    ours = set(nodes_of(client))
    (number,) = (key for key, entry in client.get("/global_subgraphs").items() if entry["name"] == name)
    entry = client.get(f"/global_subgraphs/{number}")
    assert entry["info"]["node_pack"] == "custom_nodes.tune-a-video"
    made = blueprints.blueprint(name, object_info, ours)
    assert json.loads(entry["data"]) == made, "python -m tests.host.templates makes it anew"
    assert made["extra"]["BlueprintDescription"]
    assert "video to video" in made["extra"]["BlueprintSearchAliases"]


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_gives_a_video_of_the_asked_size(client, drawn, name):
    run, latents = drawn(name)
    frames = LENGTHS.get(name, FRAMES)
    assert latents.shape == (frames, 4, SIZE // 8, SIZE // 8)
    assert latents.isfinite().all()
    assert latents.std() > 0.1
    with saved_video(client, run) as video:
        images = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert [image.shape for image in images] == [(SIZE, WIDTHS.get(name, SIZE), 3)] * frames
    assert len(run.outputs["save"]["images"]) == VIDEOS.get(name, 1)
    assert all(image.std() > 1 for image in images)


SILENT = {"list-of-clips", "interpolate-and-extend", "text-to-video"}
"""Several clips, a video that plays more slowly than its clip, and one without a clip."""


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("try-")])
def test_a_workflow_that_edits_one_clip_keeps_its_sound(name):
    audio = workflow(name)["video"]["inputs"].get("audio")
    assert audio == (None if name in SILENT else ["clip", 3])


def test_an_edit_plays_with_the_sound_of_its_frames(server, client, tuned):
    clips.with_sound(server.base / "input" / "loud.mkv")  # t / 4 at t seconds
    some = {"video": "loud.mkv", "start": 20, "stride": 4, "frames": 4}  # from 1 s to 1.8 s
    run = client.run(small("edit-with-saved-weights", {"clip": some}))
    assert run.status == "success", run.message
    with saved_video(client, run) as video:
        (stream,) = video.streams.audio
        sound = torch.cat([torch.from_numpy(frame.to_ndarray()[0]) for frame in video.decode(stream)])
    assert len(sound) / stream.rate == pytest.approx(0.8, abs=2 * 1024 / stream.rate)  # AAC's blocks
    early, late = sound[: len(sound) // 2].median().item(), sound[len(sound) // 2 :].median().item()
    assert (early, late) == pytest.approx((1.2 / 4, 1.6 / 4), abs=0.05)


@pytest.mark.parametrize("name", TWICE)
def test_the_same_video_comes_again_where_nothing_was_kept(server, client, drawn, name):
    _, latents = drawn(name)
    client.free()
    shutil.rmtree(server.base / "models" / "tune_a_video" / ".runs", ignore_errors=True)
    again = client.run(sampled(small(name)))
    assert {"checkpoint", "sample"} <= again.executed
    assert torch.equal(saved_latents(client, again), latents)


def test_every_kind_of_node_of_ours_is_in_a_workflow_that_runs_twice(server):
    kinds = {node["class_type"] for name in TWICE for node in workflow(name).values()}
    once = set(nodes_of(Client(server))) - kinds
    # they call what Load Tuned Weights and TAV Sample call
    assert once == {"ApplyTunedWeights", "TAVDDIMSampler"}


def test_another_prompt_seed_and_guidance_each_give_another_video(client, drawn):
    def latents(name, changes):
        return saved_latents(client, client.run(sampled(small(name, changes))))

    _, plain = drawn("edit-with-saved-weights")
    assert not torch.equal(plain, latents("edit-with-saved-weights", {"edit": {"text": "a dog"}}))
    assert not torch.equal(plain, latents("edit-with-saved-weights", {"sample": {"cfg": 2.0}}))
    assert torch.equal(plain, latents("edit-with-saved-weights", {"sample": {"seed": 1}}))  # an inversion draws nothing
    assert not torch.equal(drawn("text-to-video")[1], latents("text-to-video", {"sample": {"seed": 1}}))


def changed_by(client, name: str, changes: dict, *, of: dict | None = None) -> torch.Tensor:
    """How far changes move each place of the video's latents (f, h, w), beside a run with the inputs `of`."""
    before = saved_latents(client, client.run(sampled(small(name, of))))
    run = client.run(sampled(changed(small(name, of), changes)))
    assert run.status == "success", run.message
    return (saved_latents(client, run) - before).abs().amax(1)


ONE_STEP = {"sample": {"steps": 1}}  # after more, places that a change did not reach have seen those that it did


def test_a_lora_and_a_sibling_have_a_say(client, drawn):
    for name, changes in {
        "personalised-lora": {"lora": {"strength_model": 0.0}},
        "sibling-checkpoint": {"weights": {"strength": 0.0}},
    }.items():
        run = client.run(sampled(small(name, changes)))
        assert not torch.equal(saved_latents(client, run), drawn(name)[1]), name


def losses_of(run) -> list[float]:
    return run.outputs["tune"]["tune_a_video"][0]["losses"]


def test_a_lora_before_tuning_is_tuned_with_and_one_after_it_only_drawn_with(client, drawn):
    plain, latents = drawn("tune-with-lora")
    after = client.run(sampled(small("tune-with-lora", {"lora_after": {"strength_model": 0.0}})))
    assert "tune" not in after.outputs or losses_of(after) == losses_of(plain)  # the host shows no cached node again
    assert not torch.equal(saved_latents(client, after), latents)
    before = client.run(ending_in(small("tune-with-lora", {"lora": {"strength_model": 0.0}}), "save_weights"))
    assert losses_of(before) != losses_of(plain)


def kept_file(server, run) -> Path:
    """The weights that a workflow tuned."""
    return server.base / "models" / "tune_a_video" / run.outputs["kept"]["tune_a_video"][0]["name"]


def note_of(run, node: str) -> str | None:
    return run.outputs[node]["tune_a_video"][0]["note"]


POSES = {"kind": "controlnet", "network": CONTROLNET, "pictures": "poses", "strength": 0.8, "start": 0.0, "end": 1.0}
DEPTH = {"kind": "t2i-adapter", "network": T2I_ADAPTER, "pictures": "depth", "strength": 0.7, "start": 0.0, "end": 0.6}


@pytest.mark.parametrize(
    ("name", "recorded"),
    [
        ("tune-with-lora", {"loras": [{"file": LORA, "strength": 0.5}]}),
        ("pose-control", {"controls": [POSES]}),
        ("two-controls", {"controls": [DEPTH, POSES]}),
        ("tune-and-edit", {}),
    ],
)
def test_saved_weights_record_their_loras_and_controls_as_the_shell_does(server, drawn, name, recorded):
    metadata = read_metadata(kept_file(server, drawn(name)[0]), FORMAT)
    assert {key: metadata[key] for key in ("loras", "controls") if key in metadata} == recorded
    for lora in recorded.get("loras", []):
        assert lora == Lora(Path(lora["file"]), lora["strength"]).as_metadata()
    for control in recorded.get("controls", []):
        assert (
            control == ControlChoice(**control | {k: Path(control[k]) for k in ("network", "pictures")}).as_metadata()
        )


def test_an_edit_in_the_shell_warns_of_a_lora_that_weights_were_tuned_with_in_a_graph(server, drawn, models, tmp_path):
    weights = kept_file(server, drawn("tune-with-lora")[0])
    clip = server.base / "input" / CLIP
    config, device = EditConfig(num_steps=1, inversion_steps=1), torch.device("cpu")
    run = prepare_edit(
        clip, weights, models / "checkpoints" / CHECKPOINT, ["a dog"], tmp_path, config=config, device=device
    )
    assert [note for note in run.notes if f"tuned with {LORA}" in note]


def test_an_edit_without_the_lora_that_was_there_while_tuning_warns(server, client, drawn):
    """A LoRA loaded after the weights is as good as one before them."""
    name = kept_file(server, drawn("tune-with-lora")[0]).name
    loaded = {"tune": new("LoadTunedWeights", model=["checkpoint", 0], tuned_weights_name=name, strength=1.0)}
    noise = {"noise": new("SaveLatent", samples=["invert", 0], filename_prefix="noise")}
    prompt = ending_in(small("tune-with-lora", loaded | noise), "noise")
    run = client.run(prompt)
    assert (note_of(run, "tune"), note_of(run, "invert")) == (None, None)
    run = client.run(changed(prompt, {"invert": {"model": ["tune", 0]}}))
    assert f"tuned with {LORA}" in note_of(run, "invert")
    assert note_of(run, "invert") in server.log


def test_an_edit_without_the_control_that_was_there_while_tuning_warns(server, client, drawn):
    run, _ = drawn("pose-control")
    assert (note_of(run, "invert"), note_of(run, "sample")) == (None, None)
    without = {"invert": {"positive": ["nothing", 0]}, "sample": {"positive": ["edit", 0], "negative": ["nothing", 0]}}
    run = client.run(small("pose-control", without))
    assert all(f"tuned with {CONTROLNET}" in note_of(run, node) for node in ("invert", "sample"))
    (shown,) = run.of("sample", "text")
    assert shown.data["text"] == note_of(run, "sample")
    assert note_of(run, "sample") in server.log


def test_weights_on_a_sibling_warn(drawn):
    note = note_of(drawn("sibling-checkpoint")[0], "weights")
    assert CHECKPOINT in note
    assert PERSONALISED in note


def test_saved_weights_do_not_hold_the_lora_that_was_there_while_tuning(server, models, drawn):
    tensors = load_file(kept_file(server, drawn("tune-with-lora")[0]))
    queries = [tensor for key, tensor in tensors.items() if ".to_q." in key and "temp" not in key]
    lora = load_file(models / "loras" / LORA)
    ups = [tensor for key, tensor in lora.items() if "to_q" in key and "lora_up" in key]
    assert max(tensor.abs().max() for tensor in queries) < 1e-3 < min(tensor.abs().max() for tensor in ups)


@pytest.mark.parametrize(("name", "images"), [("pose-control", "poses"), ("depth-control", "depth")])
def test_a_control_image_changes_its_own_frame_most(client, tuned, name, images):
    """Of the poses or the depth, the last image is made black."""
    nodes = {
        "first_two": new("ImageFromBatch", image=[images, 0], batch_index=0, length=FRAMES - 1),
        "nothing_drawn": new("EmptyImage", width=SIZE, height=SIZE, batch_size=1, color=0),
        "other": new("ImageBatch", image1=["first_two", 0], image2=["nothing_drawn", 0]),
        "control": {"image": ["other", 0]},
    }
    moved = changed_by(client, name, nodes, of=ONE_STEP).amax((1, 2))
    assert moved[-1] > 2 * moved[:-1].max(), moved


def test_each_of_two_controls_has_a_say_and_only_in_its_part_of_sampling(client, drawn):
    """Two steps of sampling are at the timesteps 501 and 1."""
    runs = {
        name: saved_latents(client, client.run(sampled(small("two-controls", {"control_depth": inputs}))))
        for name, inputs in {
            "off": {"strength": 0.0},
            "between the steps": {"start_percent": 0.6, "end_percent": 0.9},
        }.items()
    }
    _, latents = drawn("two-controls")
    assert not torch.equal(latents, runs["off"])
    torch.testing.assert_close(runs["between the steps"], runs["off"], atol=1e-5, rtol=0)


def test_each_clip_of_a_list_is_tuned_and_edited_apart(server, client, drawn):
    run, _ = drawn("list-of-clips")
    names = [entry["name"] for entry in run.outputs["kept"]["tune_a_video"]]
    facts = [read_metadata(server.base / "models" / "tune_a_video" / name, FORMAT) for name in names]
    assert len({fact["fps"] for fact in facts}) == len(set(names)) == 2
    first, second = (load(client.view(file))["latent_tensor"] for file in run.outputs["latents_file"]["latents"])
    assert not torch.equal(first, second)


def test_the_clip_is_beside_its_edits_and_each_edit_is_another(client, drawn):
    run, _ = drawn("compare-edits")
    with saved_video(client, run) as video:
        image = next(video.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    clip, *edits = (image[:, start : start + SIZE] for start in range(0, image.shape[1], SIZE + 8))
    corner = clip[:12, :12].mean((0, 1))
    assert corner[0] > corner[1:].max() + 60  # the clip's ground is red there
    assert len(edits) == 3
    assert all(abs(a - b).mean() > 1 for a, b in zip(edits, [*edits[1:], edits[0]], strict=True))


def test_a_masks_prompt_moves_what_is_under_its_mask(client, tuned):
    apart = {"stride": 6}
    frames = ONE_STEP | {"clip": apart, "mask_frames": apart}
    shown = {
        "shown": new("MaskToImage", mask=["figure_mask", 0]),
        "saved": new("SaveImage", images=["shown", 0], filename_prefix="mask"),
    }
    run = client.run(ending_in(small("per-frame-masks", frames) | shown, "saved"))
    files = [io.BytesIO(client.view(file)) for file in run.outputs["saved"]["images"]]
    white = torch.stack([torch.from_numpy(next(av.open(file).decode()).to_ndarray(format="gray")) for file in files])
    inside = interpolate(white[None].float(), size=(SIZE // 8, SIZE // 8), mode="bilinear")[0] > 0
    moved = changed_by(client, "per-frame-masks", {"figure": {"text": "a gorilla"}}, of=frames)
    assert moved[~inside].max() == 0
    assert all(moved[frame][inside[frame]].max() > 0 for frame in range(FRAMES))
    assert not torch.equal(inside[0], inside[1])


def test_a_second_prompt_moves_the_frames_that_it_is_for(client, tuned):
    moved = changed_by(client, "per-frame-prompts", {"late": {"text": "a gorilla"}}, of=ONE_STEP).amax((1, 2))
    assert moved[:2].max() == 0 < moved[2]


def test_what_model_sampling_discrete_says_is_predicted_is_what_is_tuned(client, drawn):
    plain, _ = drawn("tune-and-edit")
    sampling = new("ModelSamplingDiscrete", model=["checkpoint", 0], sampling="v_prediction", zsnr=False)
    velocity = small("tune-and-edit", {"velocity": sampling, "inflate": {"model": ["velocity", 0]}})
    run = client.run(ending_in(velocity, "save_weights"))
    assert run.status == "success", run.message
    assert losses_of(run) != losses_of(plain)


def test_saved_weights_edit_as_those_just_tuned_do(server, client, drawn):
    """Tuning in the graph, and loading what it saved, give the same model."""
    run, direct = drawn("tune-and-edit")
    weights, text = kept_file(server, run).name, workflow("tune-and-edit")["edit"]["inputs"]["text"]
    changes = {"weights": {"tuned_weights_name": weights}, "edit": {"text": text}}
    loaded = saved_latents(client, client.run(sampled(small("edit-with-saved-weights", changes))))
    torch.testing.assert_close(loaded, direct, atol=1e-4, rtol=0)


def test_a_checked_inversion_reports_its_psnr_in_pixels_where_there_is_a_vae(client, tuned):
    client.free()
    run = client.run(small("edit-with-saved-weights", {"invert": {"check": True, "vae": ["checkpoint", 2]}}))
    (values,) = run.outputs["invert"]["tune_a_video"]
    assert values["psnr_of"] == "pixels"
    (shown,) = run.of("invert", "text")
    assert shown.data["text"] == f"PSNR to the clip: {values['psnr']:.1f} dB (pixels)"


def test_the_saved_weights_hold_the_clips_prompt_and_which_frames_they_were_tuned_on(server, client, tuned):
    facts = read_metadata(server.base / "models" / "tune_a_video" / tuned, FORMAT)
    assert facts["prompt"] == "a man is skiing"
    assert facts["fps"] == pytest.approx(8 / 5.5)  # 3 of 12 frames at 8 a second, 5.5 apart
    chosen = {"clip": "man-skiing.mp4", "frames": 3, "size": [64, 64], "start": 0, "fit": "crop"}
    assert facts | chosen == facts
    assert not facts.keys() & {"stride", "by_time"}  # evenly, by time if the clip's frame rate varies


def test_every_node_of_ours_reports_its_values_in_the_history(server, client, tuned):
    client.free()  # the history has the nodes that run, and not those whose result is still cached
    values = {}
    for name in ("tune-and-edit", "edit-with-saved-weights"):
        prompt = small(name, {"invert": {"check": True}, "edit": {"text": "values"}})
        run = client.run(prompt)
        assert run.status == "success", run.message
        values |= {
            prompt[node]["class_type"]: outputs["tune_a_video"][0]
            for node, outputs in run.outputs.items()
            if "tune_a_video" in outputs
        }
    assert values["LoadVideoFrames"]["frames"] == FRAMES
    assert values["LoadVideoFrames"]["file"] == "man-skiing.mp4"
    assert values["InflateUNet"]["attention"] == "sparse-causal"
    assert len(values["OneShotTune"]["losses"]) == values["OneShotTune"]["steps"] == 2
    assert (server.base / "models" / "tune_a_video" / values["SaveTunedWeights"]["name"]).is_file()
    assert values["LoadTunedWeights"]["strength"] == 1.0
    assert values["LoadTunedWeights"]["name"] == tuned
    assert all(values[kind]["seconds"] > 0 for kind in ("OneShotTune", "DDIMInvert", "TAVSample"))
    assert values["LoadTunedWeights"]["frames"] == FRAMES
    assert math.isfinite(values["DDIMInvert"]["psnr"])
    assert values["DDIMInvert"]["psnr_of"] == "latents"
    assert values["TAVSample"]["steps"] == 2
    assert (values["TAVSample"]["cfg"], values["TAVSample"]["frames"]) == (12.5, FRAMES)
