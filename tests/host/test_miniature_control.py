"""The miniature's control networks in the host: diffusers' numbers, and figures that stand where control images say."""

import numpy as np
import pytest
import torch

from tav_core.checkpoints.control_networks import open_controlnet, open_t2i_adapter
from tav_core.control import Control, residuals
from tav_core.demo.miniature import miniature_path
from tav_core.world.draw import coverage, depth, poses
from tav_core.world.readers import thing_pixels
from tav_core.world.scene import Scene, Thing
from tests.host.inprocess import core, pack

OPENED = {"pose": open_controlnet, "depth": open_t2i_adapter}
LOADED = {"pose": "load_pose_controlnet", "depth": "load_depth_adapter"}
CAPTION = "a red robot is walking on the beach"


def images_of(kind: str, scenes: list[Scene]) -> torch.Tensor:
    """(f, 128, 128, 3) in 0..1, as a graph has them."""
    drawn = [poses(scene) if kind == "pose" else np.repeat(depth(scene)[..., None], 3, axis=2) for scene in scenes]
    return torch.from_numpy(np.stack(drawn)).float() / 255


def walking(frames: int) -> list[Scene]:
    phases = np.arange(frames) / frames
    things = [Thing("robot", "red", (0.25 + 0.5 * p, 0.5), 0.14, action="walking", phase=p) for p in phases]
    return [Scene((thing,), "beach") for thing in things]


def under_control(text: list, kind: str, images: torch.Tensor) -> list:
    network = getattr(pack("nodes.host.miniature_control"), LOADED[kind])()
    return core("nodes").ControlNetApply().apply_controlnet(text, network, images, 1.0)[0]


@pytest.mark.parametrize("kind", OPENED)
def test_a_control_gives_diffusers_residuals(kind):
    with torch.inference_mode():
        model, clip, _ = pack("nodes.host.miniature").load_miniature(personalised=False)
        text = clip.encode_from_tokens_scheduled(clip.tokenize(CAPTION))
    images = images_of(kind, walking(2))
    control = under_control(text, kind, images)[0][1]["control"]
    noisy = torch.randn(1, 4, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    with pack("nodes.host.control").residuals_of(control, model, {"c_crossattn": text[0][0]}) as host:
        ours = host(noisy, torch.tensor([500]))
    network = OPENED[kind](miniature_path() / kind)
    theirs = residuals([Control(network, images.permute(0, 3, 1, 2))], noisy, 500, text[0][0])
    given = {name: value for name, value in ours.items() if value is not None}
    assert given.keys() == theirs.keys()
    for name in theirs:
        for one, other in zip(given[name], theirs[name], strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", OPENED)
@torch.inference_mode()
def test_what_is_drawn_stands_where_the_control_images_say(kind):
    model, clip, vae = pack("nodes.host.miniature").load_miniature(personalised=False)
    scenes = walking(4)
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(prompt)) for prompt in (CAPTION, ""))
    empty = {"samples": torch.zeros(len(scenes), 4, 16, 16)}

    def overlaps(prompt: list) -> np.ndarray:
        settings = 0, 20, 4.0, "ddim", "ddim_uniform"
        sampled = core("nodes").KSampler().sample(model, *settings, prompt, negative, empty)[0]["samples"]
        frames = (vae.decode(sampled) * 255 + 0.5).byte().numpy()
        pairs = [
            (thing_pixels(frame) > 0, coverage(s.things[0]) > 0.5) for frame, s in zip(frames, scenes, strict=True)
        ]
        return np.array([(seen & wanted).sum() / (seen | wanted).sum() for seen, wanted in pairs])

    without, with_control = overlaps(positive), overlaps(under_control(positive, kind, images_of(kind, scenes)))
    print(f"{kind}: overlap with the figure {without.round(2)} without, {with_control.round(2)} with control")
    assert with_control.min() > 0.4
    assert without.mean() < 0.3
