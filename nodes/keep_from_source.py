from comfy_api.latest import io

from ..tav_core.errors import TavError, need
from .host.versions import known
from .sockets import CATEGORY, place_in_graph, ui_values


class KeepFromSource(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KeepFromSource",
            display_name="Keep From Source",
            category=CATEGORY,
            description="Lets edits keep more of their clip: its shapes and motion, the places of words, and all that "
            "is outside of a mask. Works with TAV Sample and with ComfyUI's own samplers.",
            inputs=[
                io.Model.Input("model", tooltip="The tuned model."),
                io.Latent.Input(
                    "latent_image", tooltip="The latent from DDIM Invert, which holds the clip at each noise level."
                ),
                io.Conditioning.Input("source", tooltip="The prompt that describes the clip."),
                io.Float.Input(
                    "keep_structure",
                    default=0.8,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="The share of the steps, 0 to 1, in which the edit borrows the clip's features: 0 keeps "
                    "nothing, 1 keeps shapes so firmly that new ones may not appear.",
                ),
                io.Float.Input(
                    "keep_layout",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="The share of the steps, 0 to 1, in which words of both prompts stay where the clip has "
                    "them. Above 0 it needs edit and clip.",
                ),
                io.Int.Input(
                    "grow_mask",
                    default=0,
                    min=0,
                    max=512,
                    tooltip="Grows the mask by this many of its pixels, 0 to 512: a tight mask cuts off new shapes.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the clip may change; outside, it stays as it is. One mask, or one per frame: from "
                    "Mask From Words, painted, or tracked with a segmentation node.",
                ),
                io.Conditioning.Input(
                    "edit",
                    optional=True,
                    tooltip="For keep_layout: the edited prompt, as the sampler gets it, typed into a CLIP Text "
                    "Encode.",
                ),
                io.Clip.Input("clip", optional=True, tooltip="For keep_layout: the CLIP that encoded both prompts."),
                io.String.Input(
                    "reweight",
                    default="",
                    optional=True,
                    tooltip="Words of the edited prompt that count for more or less, as long as keep_layout lasts: "
                    "yellow:2, sea:0.5",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="For TAV Sample or another sampler.")],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            **known(
                io.Schema,
                search_aliases=[
                    "plug and play",
                    "PnP",
                    "prompt to prompt",
                    "prompt2prompt",
                    "FateZero",
                    "feature injection",
                    "attention injection",
                    "keep background",
                    "inpaint video",
                ],
            ),
        )

    @classmethod
    def execute(
        cls,
        model,
        latent_image,
        source,
        keep_structure,
        keep_layout,
        grow_mask,
        mask=None,
        edit=None,
        clip=None,
        reweight="",
    ) -> io.NodeOutput:
        from ..tav_core.masks import latent_mask
        from ..tav_core.reweight import check_layout_is_kept, read_weights
        from ..tav_core.source import Dials
        from .host.keep import Keep, with_kept
        from .host.latents import path_of
        from .host.words import layout_between

        path, dials = path_of(latent_image, model, "Keep From Source"), Dials(keep_structure, keep_layout)
        frames, _, *size = path.clean.shape
        if mask is not None:
            need(grow_mask >= 0, "grow_mask", grow_mask, "at least 0 pixels")
            mask = latent_mask(mask, frames, tuple(size), grow_mask)[0, 0]
        weights, layout = read_weights([reweight]), None
        check_layout_is_kept(weights, keep_layout)
        if keep_layout:
            if edit is None or clip is None:
                raise TavError(
                    "keep_layout compares the words of both prompts; connect the edited prompt to edit, and the CLIP "
                    "that encoded both, or set it to 0."
                )
            layout = layout_between(clip, source, edit, *place_in_graph(cls), weights)
        kept = with_kept(model, Keep(path, source, dials, layout, edit, mask))
        way = layout and ("each word takes the place of the source's" if layout.replaces else "shared words stay")
        return io.NodeOutput(kept, ui=ui_values(layout=way, masked=None if mask is None else float(mask.mean())))
