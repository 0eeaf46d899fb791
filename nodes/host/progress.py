"""Progress of a long job: the host's bar, a line of text in the node, and pictures of where it is."""

import comfy.model_management
import comfy.utils
import latent_preview
import server
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor


def say(text: str, node_id: str | None) -> None:
    """Shows a line of text in a node; `node_id` is the host's name of it."""
    # safe: how core's own nodes tell the browser something; where nodes run in a script there is no server
    host = getattr(server.PromptServer, "instance", None)
    if host and node_id:
        host.send_progress_text(text, node_id)


class Progress:
    """The bar of one node; `node_id` is the host's name of it."""

    def __init__(self, patcher: ModelPatcher, total: int, node_id: str | None):
        self.bar, self.total, self.node_id = comfy.utils.ProgressBar(total, node_id=node_id), total, node_id
        # safe: core's samplers make their previews so; None where previews are switched off
        self.previewer = latent_preview.get_previewer(patcher.load_device, patcher.model.latent_format)

    def at(self, step: int, text: str, clean: Tensor | None = None) -> None:
        """After a step: the bar, the text and, where there are clean latents (f, c, h, w), their picture."""
        preview = None
        if clean is not None and self.previewer:
            with torch.inference_mode():  # a TAESD is made in it, and tuning is not
                preview = self.previewer.decode_latent_to_preview_image("JPEG", clean)
        self.bar.update_absolute(step, self.total, preview)
        say(text, self.node_id)
        comfy.model_management.throw_exception_if_processing_interrupted()
