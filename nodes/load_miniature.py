from comfy_api.latest import io

from .sockets import CATEGORY, facts, known


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
                io.Clip.Output("clip", display_name="clip", tooltip="Its text encoder; reads the words in the facts."),
                io.Vae.Output("vae", display_name="vae", tooltip="Its VAE; 8 pixels to a latent."),
            ],
            **known(io.Schema, search_aliases=["demo checkpoint", "test model", "toy model"]),
        )

    @classmethod
    def execute(cls, personalised) -> io.NodeOutput:
        from ..tav_core.demo.vocabulary import WORDS
        from .host.miniature import load_miniature

        return io.NodeOutput(*load_miniature(personalised), ui=facts(words=" ".join(WORDS)))
