from comfy_api.latest import io

from .host.versions import known
from .sockets import CATEGORY, facts


class LoadMiniature(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadMiniature",
            display_name="Load Miniature",
            category=CATEGORY,
            description="A tiny Stable Diffusion that comes with this pack and draws balls, boxes, triangles and stars "
            "in 128x128, so that a workflow can be tried on any CPU before a checkpoint is downloaded.",
            inputs=[
                io.Boolean.Input(
                    "personalised",
                    default=False,
                    tooltip='Applies a LoRA that knows one thing more: a "sks ball" is striped.',
                ),
            ],
            outputs=[
                io.Model.Output("model", display_name="model", tooltip="Its UNet, 4.2 million parameters."),
                io.Clip.Output(
                    "clip", display_name="clip", tooltip="Its text encoder; knows the words that the node shows."
                ),
                io.Vae.Output("vae", display_name="vae", tooltip="Its VAE; 8 pixels to a latent."),
                io.Video.Output(
                    "video",
                    display_name="video",
                    tooltip="A clip to begin with, for Load Video Frames: 8 frames of a red ball on the grass.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            **known(io.Schema, search_aliases=["demo checkpoint", "test model", "toy model"]),
        )

    @classmethod
    def execute(cls, personalised) -> io.NodeOutput:
        from ..tav_core.demo.showcase import SOURCE
        from ..tav_core.demo.vocabulary import WORDS
        from .host.miniature import example_clip, load_miniature
        from .host.progress import say

        told = facts(words=" ".join(WORDS), caption=SOURCE.caption)
        say(f"Its words: {' '.join(WORDS)}", cls.hidden.unique_id)
        return io.NodeOutput(*load_miniature(personalised), example_clip(), ui=told)
