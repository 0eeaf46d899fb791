"""Whatever is wrong gets an error message that helps, and leaves a healthy server and no file behind."""

import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tav_core.families import UNET
from tests.host import assets
from tests.host.client import Client, RefusedPromptError
from tests.host.workflows import changed, ending_in, new, small

LOADED = ["weights", 0]
UNINFLATED = ["checkpoint", 0]
ONE_FRAME = {"clip": {"frames": 1}}
SECOND_PROMPT = {"other": new("CLIPTextEncode", text="a dog", clip=["checkpoint", 1])}
SD3 = {"sd3": new("UNETLoader", unet_name="sd3.safetensors", weight_dtype="default")}
INPAINTING = {"inpainting": new("UNETLoader", unet_name="inpainting.safetensors", weight_dtype="default")}


def clip(words, **inputs):
    return "tune-and-edit", {"clip": inputs}, words


def weights(words, name):
    return "edit-with-saved-weights", {"weights": {"tuned_weights_name": name}}, words


def prefix(words, text):
    return "tune-and-edit", {"save_weights": {"filename_prefix": text}}, words


def tune(words, changes=None, **inputs):
    return "tune-and-edit", (changes or {}) | {"tune": inputs}, words


def edit(words, changes=None, **inputs):
    return "edit-with-saved-weights", (changes or {}) | {"sample": inputs}, words


def invert(words, changes=None, **inputs):
    return "edit-with-saved-weights", (changes or {}) | {"invert": inputs}, words


# Name of the case: workflow, what is changed in it, and what the answer must match (the host's own where it looks).
CASES = {
    "a billion steps over a link": (
        "tune-and-edit",
        {"many": new("PrimitiveInt", value=10**9), "tune": {"steps": ["many", 0]}},
        r"steps must be from 1 to 100000",
    ),
    # clips
    "no such clip": clip(r"no video 'gone\.mp4'.*choose another", video="gone.mp4"),
    "clip without a name": clip(r"no video ''.*choose another", video=""),
    "no clip at all": clip(r"No video is chosen|Required input|no video", video=None),
    "a folder as clip": clip(r"no video 'folder'.*choose another", video="folder"),
    "a text as clip": clip(r"text\.mp4 is not a video.*give an mp4", video="text.mp4"),
    "an empty clip": clip(r"empty\.mp4 is not a video.*give an mp4", video="empty.mp4"),
    "a clip cut short": clip(r"cut\.mp4 is not a video, or an incomplete one.*give an mp4", video="cut.mp4"),
    "a clip above the folder": clip(r"outside ComfyUI's folders", video="../server.log"),
    "a clip far above the folder": clip(r"outside ComfyUI's folders", video="../../../../../../etc/passwd"),
    "a clip below and above": clip(r"outside ComfyUI's folders", video="folder/../../server.log"),
    "an absolute clip": clip(r"outside ComfyUI's folders", video="/etc/passwd"),
    "a clip behind backslashes": clip(r"no video '\.\..*server\.log'.*choose another", video="..\\..\\server.log"),
    "a clip on a drive": clip(r"no video 'C:.*win\.ini'.*choose another", video="C:\\Windows\\win.ini"),
    "a clip above the output folder": clip(r"outside ComfyUI's folders", video="../server.log [output]"),
    "an absolute clip in output": clip(r"outside ComfyUI's folders", video="/etc/passwd [output]"),
    "a clip above the temp folder": clip(r"outside ComfyUI's folders", video="../../server.log [temp]"),
    "a clip with a NUL": clip(r"no video 'a\\x00\.mp4'.*choose another", video="a\0.mp4"),
    "a clip with a name without end": clip(r"no video 'a{100}'.*choose another", video="a" * 5000 + ".mp4"),
    "no frames": clip(r"smaller than min", frames=0),
    "more frames than there are": clip(r"only 12 of 12 frames", frames=13, strict=True),
    "a start behind the end": clip(r"only 12 frames.*start earlier", start=12),
    "a stride too long": clip(r"only 2 of 12 frames", stride=6, strict=True),
    "a negative stride": clip(r"smaller than min", stride=-1),
    "a width between multiples of 8": clip(r"multiples of 8; try 64x64", width=63),
    "a width between multiples of 8 over a link": (
        "tune-and-edit",
        {"side": new("PrimitiveInt", value=63), "clip": {"width": ["side", 0]}},
        r"multiples of 8; try 64x64",
    ),
    "a fit that is none": clip(r"not in list", fit="squeeze"),
    "words for a number": clip(r"[Ff]ailed to convert", frames="many"),
    # models
    "another family of models": (
        "tune-and-edit",
        SD3 | {"inflate": {"model": ["sd3", 0]}},
        r"is SD3, but.*Stable Diffusion 1\.x or 2\.x",
    ),
    "an inpainting model": (
        "tune-and-edit",
        INPAINTING | {"inflate": {"model": ["inpainting", 0]}},
        r"npaint.*9 input channels.*choose a full checkpoint",
    ),
    "an attention that is none": ("tune-and-edit", {"inflate": {"attention": "sideways"}}, r"not in list"),
    "a model where a latent belongs": ("tune-and-edit", {"invert": {"latent_image": UNINFLATED}}, r"type mismatch"),
    "tuned weights that a node does not give": (
        "tune-and-edit",
        {"save_weights": {"tuned_weights": ["tune", 0]}},
        r"type mismatch",
    ),
    # tuning
    "tuning a model that is not inflated": tune(r"insert Inflate UNet", model=UNINFLATED),
    "tuning on one frame": tune(r"hold 1 frame.*load more frames", ONE_FRAME),
    "tuning without steps": tune(r"smaller than min", steps=0),
    "tuning at no rate": tune(r"smaller than min", learning_rate=0),
    "tuning at a negative rate": tune(r"smaller than min", learning_rate=-1e-5),
    "tuning at a rate of 1": tune(r"bigger than max", learning_rate=1),
    "a negative seed": tune(r"smaller than min", seed=-1),
    "a precision that is none": tune(r"not in list", mixed_precision="int3"),
    "tuning on nothing": tune(r"[Rr]equired input is missing.*latents", latents=None),
    "tuning with two prompts": tune(
        r"needs one prompt.*combines 2",
        SECOND_PROMPT
        | {"two": new("ConditioningCombine", conditioning_1=["caption", 0], conditioning_2=["other", 0])},
        positive=["two", 0],
    ),
    "tuning with an area": tune(
        r"has an area; connect CLIP Text Encode",
        {"area": new("ConditioningSetArea", conditioning=["caption", 0], width=64, height=64, x=0, y=0, strength=1.0)},
        positive=["area", 0],
    ),
    "tuning with a range": tune(
        r"has a range of timesteps; connect CLIP Text Encode",
        {"range": new("ConditioningSetTimestepRange", conditioning=["caption", 0], start=0.2, end=0.8)},
        positive=["range", 0],
    ),
    "tuning on latents of another family": tune(
        r"\(3, 16, 8, 8\).*VAE Encode",
        {"latents16": new("EmptySD3LatentImage", width=64, height=64, batch_size=3)},
        latents=["latents16", 0],
    ),
    # LoRAs and control
    "a LoRA of another family": (
        "tune-with-lora",
        {"lora": {"lora_name": "sdxl.safetensors"}},
        r"LoRA on this MODEL was made for Stable Diffusion XL.*remove it",
    ),
    "a LoRA of another family behind tuned weights": edit(
        r"LoRA on this MODEL was made for Stable Diffusion XL.*remove it",
        {"behind": new("LoraLoaderModelOnly", model=LOADED, lora_name="sdxl.safetensors", strength_model=1.0)},
        model=["behind", 0],
    ),
    "poses of another count": (
        "pose-control",
        {"poses": {"frames": 2}},
        r"Got 2 ControlNet images for 3 frames; give Apply ControlNet one per frame",
    ),
    "poses of another shape": ("pose-control", {"poses": {"width": 128}}, r"are 128x64, but the video is 64x64"),
    "depth of another count": ("depth-control", {"depth": {"frames": 4}}, r"Got 4 ControlNet images for 3 frames"),
    "a ControlNet of SDXL": (
        "pose-control",
        {"controlnet": {"control_net_name": "sdxl.safetensors"}},
        r"is a ControlNet for Stable Diffusion XL: choose one made for Stable Diffusion 1\.x or 2\.x",
    ),
    # tuned weights
    "no such weights": weights(r"not in list", "gone.safetensors"),
    "weights above the folder": weights(
        r"not in list", f"../checkpoints/{assets.CHECKPOINT}"
    ),
    "absolute weights": weights(r"not in list", "/etc/passwd"),
    "weights behind backslashes": weights(r"not in list", f"..\\checkpoints\\{assets.CHECKPOINT}"),
    "annotated weights": weights(r"not in list", "man-skiing_00001.safetensors [output]"),
    "weights that are a LoRA": weights(r"lora\.safetensors has format.*Give .* tuning wrote", "lora.safetensors"),
    "weights cut short": weights(r"cut\.safetensors is damaged.*Give .* that tuning wrote", "cut.safetensors"),
    "weights that are a text": weights(r"text\.safetensors is damaged.*Give .* that tuning wrote", "text.safetensors"),
    "weights of other shapes": weights(r"do not fit.*a checkpoint of that family", "other.safetensors"),
    "weights with NaN in them": weights(r"holds NaN or infinite values.*tune the clip again", "nan.safetensors"),
    "too strong": ("edit-with-saved-weights", {"weights": {"strength": 3}}, r"bigger than max"),
    "weights for another family of models": (
        "edit-with-saved-weights",
        SD3 | {"weights": {"model": ["sd3", 0]}},
        r"is SD3, but.*Stable Diffusion 1\.x or 2\.x",
    ),
    "a name above the folder": prefix(r"models/tune_a_video", "../../escaped"),
    "an absolute name": prefix(r"models/tune_a_video", "/tmp/escaped"),
    "a name behind backslashes": prefix(r"models/tune_a_video", "..\\..\\escaped"),
    "a name on a drive": prefix(r"models/tune_a_video", "C:\\escaped"),
    "half a character as prefix": prefix(r"filename_prefix.*is not a valid name", "\ud800"),
    "a name among the runs": prefix(r"models/tune_a_video", ".runs/escaped"),
    "a name above the folder over a link": (
        "tune-and-edit",
        {"name": new("PrimitiveString", value="../../escaped"), "save_weights": {"filename_prefix": ["name", 0]}},
        r"models/tune_a_video",
    ),
    "no name": prefix(r"models/tune_a_video", ""),
    "a name with a NUL": prefix(r"models/tune_a_video", "a\0b"),
    "a name without end": prefix(r"models/tune_a_video", "a" * 5000),
    # inverting and sampling
    "inverting a latent of another family": invert(
        r"\(3, 16, 8, 8\).*VAE Encode",
        {"latents16": new("EmptySD3LatentImage", width=64, height=64, batch_size=3)},
        latent_image=["latents16", 0],
    ),
    "inverting without steps": invert(r"steps must be from 1 to 999; got 0", steps=0),
    "inverting in too many steps": invert(r"steps must be from 1 to 999; got 1000", steps=1000),
    "inverting in steps that end far from full noise": invert(r"start at timestep 799.*use 333 or 500", steps=400),
    "sampling in such steps over a link": edit(
        r"start at timestep 799.*use 333 or 500", {"count": new("PrimitiveInt", value=400)}, steps=["count", 0]
    ),
    "sampling from a clip that is not inverted": edit(
        r"neither empty nor from DDIM Invert", latent_image=["latents", 0]
    ),
    "sampling without steps": edit(r"steps must be from 1 to 999; got 0", steps=0),
    "negative guidance": edit(r"smaller than min", cfg=-1),
    "too much noise per step": edit(r"bigger than max", eta=1.5),
    "too much noise per step over a link": edit(
        r"eta.*from 0 to 1", {"noise": new("PrimitiveFloat", value=1.5)}, eta=["noise", 0]
    ),
    "sampling latents of another family": edit(
        r"\(3, 16, 8, 8\).*VAE Encode",
        {"latents16": new("EmptySD3LatentImage", width=64, height=64, batch_size=3)},
        latent_image=["latents16", 0],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def prepared(server, tuned):
    """A server on which the workflows run, with some bad files beside the good ones."""
    inputs, folder = server.base / "input", server.base / "models" / "tune_a_video"
    (inputs / "folder").mkdir()
    (inputs / "text.mp4").write_text("This is no video.")
    (inputs / "empty.mp4").write_bytes(b"")
    (inputs / "cut.mp4").write_bytes((inputs / assets.CLIP).read_bytes()[:700])
    (folder / "text.safetensors").write_text("These are no weights.")
    (folder / "cut.safetensors").write_bytes((folder / tuned).read_bytes()[:5000])
    (folder / "lora.safetensors").write_bytes((server.base / "models" / "loras" / assets.LORA).read_bytes())
    with safe_open(folder / tuned, "pt") as file:
        metadata = {name: value for name, value in file.metadata().items() if name != "crc32"}
    tensors = load_file(folder / tuned)
    save_file(
        {name: tensor[..., :8].contiguous() for name, tensor in tensors.items()}, folder / "other.safetensors", metadata
    )
    next(iter(tensors.values()))[0] = torch.nan
    save_file(tensors, folder / "nan.safetensors", metadata)
    write_other_unets(server.base / "models")
    write_additions_for_sdxl(server.base / "models")
    return server


def write_other_unets(models):
    """An SD3 and an inpainting UNet, right only in what the host recognises them by."""
    folder = models / "diffusion_models"
    folder.mkdir(exist_ok=True)
    shapes = {
        "joint_blocks.0.context_block.attn.qkv.weight": (192, 64),
        "x_embedder.proj.weight": (64, 16, 2, 2),
        "final_layer.linear.weight": (64, 64),
        "context_embedder.weight": (64, 4096),
        "y_embedder.mlp.0.weight": (64, 2048),
        "pos_embed": (1, 64, 64),
    }
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, folder / "sd3.safetensors")
    with safe_open(models / "checkpoints" / assets.CHECKPOINT, "pt") as file:
        names = [name for name in file.keys() if name.startswith(UNET)]  # noqa: SIM118  safe_open has no other way
        unet = {name.removeprefix(UNET): file.get_tensor(name) for name in names}
    unet["input_blocks.0.0.weight"] = unet["input_blocks.0.0.weight"].repeat(1, 3, 1, 1)[:, :9].contiguous()
    save_file(unet, folder / "inpainting.safetensors")


def write_additions_for_sdxl(models):
    """A LoRA and a ControlNet that attend to texts as wide as SDXL's."""
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    lora = {f"{layer}.lora_down.weight": torch.ones(2, 2048), f"{layer}.lora_up.weight": torch.ones(320, 2)}
    save_file(lora, models / "loras" / "sdxl.safetensors")
    tensors = load_file(models / "controlnet" / assets.CONTROLNET)
    wide = {name: t.new_zeros(len(t), 2048) for name, t in tensors.items() if re.search(r"attn2\.to_[kv]\.", name)}
    save_file(tensors | wide, models / "controlnet" / "sdxl.safetensors")


def answer(client: Client, prompt: dict) -> list[str]:
    """The error messages for a prompt, before it runs or while it does."""
    try:
        run = client.run(prompt)
    except RefusedPromptError as refused:
        return refused.messages
    assert run.status == "error", f"This ran to {run.status}"
    # Such an error is one that nobody foresaw.
    assert not re.match("Attribute|Key|Index|Type|Runtime|Assertion", run.end["exception_type"]), run.message
    return [run.message]


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_with_a_message_that_helps(prepared, case):
    client, before = Client(prepared), prepared.files()
    name, changes, words = CASES[case]
    prompt = changed(small(name), changes)
    # One output alone, for the host runs what is right of a prompt where another part is wrong.
    output = "save_weights" if name == "tune-and-edit" and "invert" not in changes else "save"
    messages = answer(client, ending_in(prompt, output))
    assert any(re.search(words, message, re.DOTALL) for message in messages), messages
    assert prepared.files() == before
    assert not list(Path("/tmp").glob("escaped*"))
    assert client.get("/queue") == {"queue_running": [], "queue_pending": []}


@pytest.mark.parametrize("case", ["no such clip", "a width between multiples of 8"])
def test_one_mistake_is_told_once(prepared, case):
    name, changes, words = CASES[case]
    messages = answer(Client(prepared), ending_in(changed(small(name), changes), "save_weights"))
    assert len([message for message in messages if re.search(words, message, re.DOTALL)]) == 1, messages


def test_the_server_still_works_after_all_of_them(prepared, client):
    assert client.run(small("edit-with-saved-weights")).status == "success"
