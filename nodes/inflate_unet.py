from comfy_api.latest import io

from ..tav_core.attention import PATTERNS
from ..tav_core.inflation import GROUP_NORMS, Inflation
from .host.versions import known
from .sockets import ADVANCED, CATEGORY, facts


class InflateUNet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InflateUNet",
            display_name="Inflate UNet",
            category=CATEGORY,
            description="Lets every frame of a batch attend to the first and the previous one, so that a text-to-image "
            "model draws one consistent video. The model that comes in is left as it is.",
            inputs=[
                io.Model.Input("model", tooltip="A Stable Diffusion 1.x or 2.x model, LoRAs and all."),
                io.Combo.Input(
                    "attention",
                    options=list(PATTERNS),
                    default="sparse-causal",
                    tooltip="The frames that each frame looks at: sparse-causal (the first and the one before, as in "
                    "the paper), first, frame (itself alone), full-causal (all up to itself), full (all; slow).",
                ),
                io.Combo.Input(
                    "group_norm",
                    options=list(GROUP_NORMS),
                    default="video",
                    tooltip="Whether the residual blocks normalise over the whole video, as the original does, or "
                    "frame by frame.",
                    **ADVANCED,
                ),
                io.Boolean.Input(
                    "temporal",
                    default=True,
                    tooltip="Adds attention over time at the end of each block; it does nothing until it is tuned.",
                    **ADVANCED,
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="The same model, reading its batch as the frames of a video.",
                )
            ],
            **known(io.Schema, search_aliases=["text to video", "sparse-causal attention", "cross-frame attention"]),
        )

    @classmethod
    def execute(cls, model, attention, group_norm, temporal) -> io.NodeOutput:
        from .host.inflate import inflate

        inflation = Inflation(attention, group_norm, temporal)
        return io.NodeOutput(inflate(model, inflation), ui=facts(**inflation.as_metadata()))
