"""Progress of a long job: the host's progress bar, a line of text in the node, and previews."""

import comfy.model_management
import comfy.utils
import latent_preview
import server
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor


def say(text: str, node_id: str | None) -> None:
    """Shows a line of text in a node."""
    # safe: how core's own nodes send text to the browser; there is no server if nodes run in a script
    host = getattr(server.PromptServer, "instance", None)
    if host and node_id:
        host.send_progress_text(text, node_id)


class Progress:
    """The progress of one node."""

    def __init__(self, patcher: ModelPatcher, total: int, node_id: str | None):
        self.bar, self.total, self.node_id = comfy.utils.ProgressBar(total, node_id=node_id), total, node_id
        # safe: how core's samplers get their previews; None if previews are off
        self.previewer = latent_preview.get_previewer(patcher.load_device, patcher.model.latent_format)

    def at(self, step: int, text: str, clean: Tensor | None = None) -> None:
        """Shows a step: the bar, the text and, given clean latents (f, c, h, w), a preview."""
        preview = None
        if clean is not None and self.previewer:
            with torch.inference_mode():  # a TAESD's weights are inference tensors
                preview = self.previewer.decode_latent_to_preview_image("JPEG", clean)
        self.bar.update_absolute(step, self.total, preview)
        say(text, self.node_id)
        comfy.model_management.throw_exception_if_processing_interrupted()
