"""Previews of frames in a node."""

import secrets
from pathlib import Path

import comfy.model_management
import folder_paths
import latent_preview
import server
import torch
import torch.nn.functional as F
from comfy.model_patcher import ModelPatcher
from comfy_api import feature_flags
from comfy_execution.progress import get_progress_state
from PIL import Image
from torch import Tensor

from ...tav_core.errors import is_out_of_memory
from ...tav_core.video.pixels import to_uint8
from ...tav_core.video.write import write_video
from .latents import check_vae

SIDES = 256, 512  # pixels: the longer side of an animation, at least and at most
DECODED = 32  # latents: the longer side of what a VAE decodes while tuning, next to which it has to fit into memory

NOTHING = {"images": [], "animated": []}
"""A preview where there is nothing to show: of a node that runs for each item of a list, the host joins what is under
the first one's keys, which all of them need."""


def as_video(images: Tensor, fps: float) -> dict:
    """Saves frames (f, h, w, 3) in 0..1 as an mp4 in the host's temp folder, for the node to play.

    The front end shows a node's preview as a video if the node can upload videos, and an animated image then stays
    black.
    """
    path = _new_file("mp4")
    write_video(path, images, _playable(fps))
    return _shown(path)


def as_animation(images: list[Image.Image], fps: float) -> dict:
    """Saves frames as an animated WebP in the host's temp folder, for the node to play; small ones are enlarged."""
    longer, (least, most) = max(images[0].size), SIDES
    scale = min(max(longer, least), most) / longer
    images = [image.resize([round(scale * side) for side in image.size], Image.Resampling.BICUBIC) for image in images]
    path = _new_file("webp")
    each = round(1000 / _playable(fps))  # milliseconds
    images[0].save(path, save_all=True, append_images=images[1:], duration=each, loop=0, quality=80, method=2)
    return _shown(path)


def show(preview: dict, node_id: str | None) -> None:
    """Shows a preview in a node that is still running, as the host does when it has run."""
    # safe: the message by which the host itself sends a node's `ui` result; there is no server in a script
    host = getattr(server.PromptServer, "instance", None)
    # to those clients only that the host sends previews to: others take the message for the end of the node
    if not (host and node_id and host.client_id) or not feature_flags.supports_feature(
        host.sockets_metadata, host.client_id, "supports_preview_metadata"
    ):
        return
    running = get_progress_state()
    shown_in = running.dynprompt.get_display_node_id(node_id)
    message = {"node": node_id, "display_node": shown_in, "output": preview, "prompt_id": running.prompt_id}
    host.send_sync("executed", message, host.client_id)


class Decoder:
    """Turns a clip's clean latents into images, whether or not the host's previews are on.

    vae: decodes them, made smaller. Without one, a TAESD does if the host previews with it, and else the colours of the
    MODEL's latent format.
    """

    def __init__(self, patcher: ModelPatcher, vae=None):
        latents = patcher.model.latent_format
        if vae is not None:
            check_vae(vae, patcher)
        self.vae, self.unscaled = vae, patcher.model.process_latent_out
        # safe: how core's samplers get their previews, and what of them needs no download
        self.previewer = latent_preview.get_previewer(patcher.load_device, latents)
        if not isinstance(self.previewer, latent_preview.TAESDPreviewerImpl):
            factors = latents.latent_rgb_factors, latents.latent_rgb_factors_bias
            self.previewer = latent_preview.Latent2RGBPreviewer(*factors)

    def images(self, clean: Tensor) -> list[Image.Image]:
        """clean: (f, c, h, w), as the network sees them."""
        with torch.inference_mode():  # as the host makes a VAE's and a TAESD's weights
            if self.vae is not None and (images := self._decoded(clean)):
                return images
            return [self.previewer.decode_latent_to_preview(frame[None]) for frame in clean]

    def _decoded(self, clean: Tensor) -> list[Image.Image] | None:
        """The images by the VAE; None if there is no memory for it."""
        longer = max(clean.shape[-2:])
        if longer > DECODED:
            size = [max(1, round(side * DECODED / longer)) for side in clean.shape[-2:]]
            clean = F.interpolate(clean.float(), size=size, mode="area")
        manage = comfy.model_management
        others = [loaded.model for loaded in manage.current_loaded_models]  # the ControlNets of this run
        frames = None
        try:
            frames = self.vae.decode(self.unscaled(clean))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # safe: the host's own functions to make room; tuning needs the VAE's, and the VAE may have taken a ControlNet's
        # even if there was not enough
        keep = [loaded for loaded in manage.current_loaded_models if loaded.model is not self.vae.patcher]
        manage.free_memory(1e30, self.vae.patcher.load_device, keep)
        if others:
            manage.load_models_gpu(others)
        return None if frames is None else [Image.fromarray(to_uint8(frame)) for frame in frames]


def _new_file(kind: str) -> Path:
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"tune_a_video_{secrets.token_hex(4)}.{kind}"


def _playable(fps: float) -> float:
    return min(max(fps, 0.1), 60.0)


def _shown(path: Path) -> dict:
    return {"images": [{"filename": path.name, "subfolder": "", "type": "temp"}], "animated": [True]}
