from comfy_api.latest import io

from ..tav_core.attention import PATTERNS
from ..tav_core.inflation import GROUP_NORMS, Inflation
from ..tav_core.merge import MERGES
from .host.versions import known
from .sockets import ADVANCED, CATEGORY, checked, ui_values


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
                io.Boolean.Input(
                    "position_bias",
                    default=False,
                    optional=True,
                    tooltip="Gives temporal attention a relative position bias, so that frames have an order (Ho et "
                    "al. 2022); it has no effect until tuned.",
                    **ADVANCED,
                ),
                io.Boolean.Input(
                    "convolution",
                    default=False,
                    optional=True,
                    tooltip="Adds a convolution over time after each convolution of the residual blocks, as "
                    "Make-A-Video does; it has no effect until tuned. Weights files become about three times as large.",
                    **ADVANCED,
                ),
                io.Combo.Input(
                    "merge",
                    options=list(MERGES),
                    default="add",
                    optional=True,
                    tooltip="How temporal layers join the image network: added, as in the paper, or merged by a share "
                    "that each layer learns, as in Video LDM.",
                    **ADVANCED,
                ),
                io.Boolean.Input(
                    "queries",
                    default=True,
                    optional=True,
                    tooltip="Whether tuning also trains the query projections, as in the paper; off, it trains only "
                    "the temporal layers, as in Video LDM.",
                    **ADVANCED,
                ),
                io.Boolean.Input(
                    "known_frames",
                    default=False,
                    optional=True,
                    tooltip="Lets the model be shown frames that are known, so that tuning also learns to make the "
                    "others. Interpolate Video and Extend Video need it only without a VAE or a guess, to start from "
                    "noise. It has no effect until tuned.",
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
    def validate_inputs(
        cls,
        temporal: bool | None = None,
        position_bias: bool | None = False,
        convolution: bool | None = False,
        merge: str | None = "add",
        queries: bool | None = True,
    ) -> bool | str:
        return checked(_temporal_layers, temporal, position_bias, convolution, merge, queries)

    @classmethod
    def execute(
        cls,
        model,
        attention,
        group_norm,
        temporal,
        position_bias=False,
        convolution=False,
        merge="add",
        queries=True,
        known_frames=False,
    ) -> io.NodeOutput:
        from .host.inflate import inflate

        inflation = Inflation(attention, group_norm, temporal, position_bias, convolution, merge, queries, known_frames)
        return io.NodeOutput(inflate(model, inflation), ui=ui_values(**inflation.as_metadata()))


def _temporal_layers(temporal: bool, position_bias: bool, convolution: bool, merge: str, queries: bool) -> Inflation:
    return Inflation(
        temporal=temporal, position_bias=position_bias, convolution=convolution, merge=merge, queries=queries
    )
