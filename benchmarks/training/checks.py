"""What the trained networks can do: text-to-image as the readers of the world see it, and control by images."""

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from tav_core.checkpoints.checkpoint import Checkpoint, load_checkpoint
from tav_core.checkpoints.control_networks import open_controlnet, open_t2i_adapter
from tav_core.control import Control
from tav_core.ddim import sample
from tav_core.inflate import inflate
from tav_core.prediction import NoisePredictor, guided
from tav_core.world.draw import coverage, depth, draw, poses
from tav_core.world.readers import Reading, Seen, read_image, thing_pixels
from tav_core.world.scene import SIZE, Scene

from .images import random_scenes
from .loop import SEED


@torch.no_grad()
def print_reconstruction(folder: Path, device: str, count: int = 256) -> None:
    """PSNR of images that it was not trained on, through its VAE."""
    checkpoint = load_checkpoint(folder).to(device)
    frames = torch.from_numpy(np.stack([draw(scene) for scene in random_scenes(count, seed=12)])).float() / 255
    decoded = torch.cat([checkpoint.decode_video(checkpoint.encode_video(frame[None])) for frame in frames])
    errors = (decoded - frames).square().mean(dim=(1, 2, 3))
    decibels = -10 * errors.log10()
    print(
        f"VAE on {count} held-out images: {-10 * errors.mean().log10():.2f} dB of the mean error, "
        f"{decibels.mean():.2f} dB on average, {decibels.min():.2f} dB at worst",
        flush=True,
    )


def text_to_image(checkpoint: Checkpoint, captions: list[str], controls: tuple[Control, ...] = ()) -> np.ndarray:
    """One image per caption, (n, 128, 128, 3) uint8, sampled by the package itself as videos of one frame."""
    unet = inflate(checkpoint.unet, attention="frame", group_norm="frame", temporal=False)
    cond, uncond = (
        NoisePredictor(unet, checkpoint.encode_prompt(prompts), checkpoint.scheduler, controls)
        for prompts in (captions, "")
    )
    noise = torch.randn(len(captions), 4, 1, 16, 16, generator=torch.Generator().manual_seed(SEED))
    latents = sample(guided(cond, uncond, 4.0), noise.to(checkpoint.unet.device), checkpoint.scheduler, 25)
    unet.deflate()
    frames = torch.cat([checkpoint.decode_video(latent[None]) for latent in latents])
    return (frames.cpu().numpy() * 255 + 0.5).astype(np.uint8)


def print_accuracy(folder: Path, sheets: Path, device: str, count: int = 96) -> None:
    checkpoint, scenes = load_checkpoint(folder).to(device), random_scenes(count, seed=9)
    images = text_to_image(checkpoint, [scene.caption for scene in scenes])
    readings = [read_image(image) for image in images]
    right = np.array([list(rights(*pair).values()) for pair in zip(readings, scenes, strict=True)])
    names = rights(readings[0], scenes[0])
    shares = ", ".join(f"{name} {share:.0%}" for name, share in zip(names, right.mean(axis=0), strict=True))
    print(f"text-to-image, {count} captions: {shares}, all of them {right.all(axis=1).mean():.0%} right", flush=True)
    seen = [sum(is_whole(one, reading) for one in reading.things) for reading in readings]
    total = sum(len(scene.things) for scene in scenes)
    print(f"  {sum(seen)} of {total} things are whole; kinds and actions of these were read")
    order = np.argsort(right.all(axis=1), kind="stable")  # the wrong ones first
    for number in order[: (~right.all(axis=1)).sum()]:
        wrong = [name for name, is_right in zip(names, right[number], strict=True) if not is_right]
        print(f"  {scenes[number].caption}: {', '.join(wrong)}")
    sheet(sheets / "text-to-image.png", images[order])


def rights(reading: Reading, scene: Scene) -> dict[str, bool]:
    """What of a caption an image shows; kinds and actions count only for things that are whole, as far as it shows."""
    wanted = {thing.colour: thing for thing in scene.things}
    whole = [seen for seen in reading.things if seen.colour in wanted and is_whole(seen, reading)]
    return {
        "ground": reading.ground == scene.ground,
        "style": reading.style == scene.style,
        "colours": {seen.colour for seen in reading.things} == set(wanted),
        "kinds": all(seen.kind == wanted[seen.colour].kind for seen in whole),
        "actions": all((seen.action or "") == wanted[seen.colour].action for seen in whole),
    }


def is_whole(seen: Seen, reading: Reading) -> bool:
    """Whether a thing is clear of the frame's edges and of other things."""
    around = cv2.dilate(seen.mask.astype(np.uint8), np.ones((5, 5))) > 0
    rows, columns = np.nonzero(around)
    inside = min(*rows, *columns) > 1 and max(*rows, *columns) < SIZE - 2
    return inside and not any((around & other.mask).any() for other in reading.things if other is not seen)


def print_control(folder: Path, sheets: Path, kind: str, device: str, count: int = 24) -> None:
    """How far what is drawn overlaps with the control image's things, with the control and without."""
    checkpoint = load_checkpoint(folder).to(device)
    network = (open_controlnet if kind == "pose" else open_t2i_adapter)(folder / kind).to(device)
    scenes = [s for s in random_scenes(4 * count, seed=8) if len(s.things) == 1 and s.things[0].is_figure][:count]
    images, overlaps = [], {}
    for strength in (0.0, 1.0):
        results = []
        for scene in scenes:
            image = poses(scene) if kind == "pose" else np.repeat(depth(scene)[..., None], 3, axis=2)
            control = Control(network, torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255, strength)
            results.append(text_to_image(checkpoint, [scene.caption], (control,))[0])
        images += results
        seen = [thing_pixels(image) > 0 for image in results]
        overlaps[strength] = [_overlap(mask, coverage(s.things[0]) > 0.5) for mask, s in zip(seen, scenes, strict=True)]
    shares = ", ".join(
        f"{np.mean(values):.2f} on average and {min(values):.2f} at worst at strength {strength}"
        for strength, values in overlaps.items()
    )
    print(f"{kind}: overlap with the control image's figure {shares}, of {len(scenes)} scenes", flush=True)
    sheet(sheets / f"{kind}.png", np.array(images))


def _overlap(seen: np.ndarray, wanted: np.ndarray) -> float:
    return (seen & wanted).sum() / max((seen | wanted).sum(), 1)


def sheet(path: Path, images: np.ndarray | Tensor) -> None:
    """Writes images (n, h, w, 3) in rows of 12 to a picture; the last row may be in part black."""
    padded = np.pad(images, ((0, -len(images) % 12), (0, 0), (0, 0), (0, 0)))
    rows = [np.concatenate(list(padded[start : start + 12]), axis=1) for start in range(0, len(padded), 12)]
    cv2.imwrite(str(path), np.concatenate(rows)[..., ::-1])
