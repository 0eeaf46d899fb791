from comfy_api.latest import io

from ..tav_core.attention import PATTERNS
from ..tav_core.inflation import GROUP_NORMS, Inflation
from .host.versions import known
from .sockets import ADVANCED, CATEGORY, ui_values


class InflateUNet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InflateUNet",
            display_name="Inflate UNet",
            category=CATEGORY,
            description="Makes every frame of a batch attend to the first and the previous one, so that a "
            "text-to-image model generates one consistent video. The input model is not changed.",
            inputs=[
                io.Model.Input("model", tooltip="A Stable Diffusion 1.x or 2.x model, with or without LoRAs."),
                io.Combo.Input(
                    "attention",
                    options=list(PATTERNS),
                    default="sparse-causal",
                    tooltip="The frames that each frame attends to: sparse-causal (the first and the previous one, as "
                    "in the paper), first, frame (only itself), full-causal (itself and all before it), full (all; "
                    "slow).",
                ),
                io.Combo.Input(
                    "group_norm",
                    options=list(GROUP_NORMS),
                    default="video",
                    tooltip="Whether the residual blocks normalise over the whole video, as the original does, or per "
                    "frame.",
                    **ADVANCED,
                ),
                io.Boolean.Input(
                    "temporal",
                    default=True,
                    tooltip="Adds temporal attention at the end of each block; it has no effect until tuned.",
                    **ADVANCED,
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="The same model, treating its batch as the frames of a video.",
                )
            ],
            **known(
                io.Schema,
                search_aliases=[
                    "Tune-A-Video",
                    "TuneAVideo",
                    "text to video",
                    "sparse-causal attention",
                    "cross-frame attention",
                    "temporal attention",
                    "3D UNet",
                    "consistent video",
                ],
            ),
        )

    @classmethod
    def execute(cls, model, attention, group_norm, temporal) -> io.NodeOutput:
        from .host.inflate import inflate

        inflation = Inflation(attention, group_norm, temporal)
        return io.NodeOutput(inflate(model, inflation), ui=ui_values(**inflation.as_metadata()))
