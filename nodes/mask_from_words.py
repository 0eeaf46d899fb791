from comfy_api.latest import io

from ..tav_core.errors import TavError, shown
from .host.versions import known
from .sockets import CATEGORY, place_in_graph, ui_values


class MaskFromWords(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskFromWords",
            display_name="Mask From Words",
            category=CATEGORY,
            description="Masks what a word of the clip's prompt stands for, in each frame: where the model looks for "
            "it.",
            inputs=[
                io.Model.Input("model", tooltip="The tuned model."),
                io.Latent.Input(
                    "latent_image", tooltip="The latent from DDIM Invert, which holds the clip at each noise level."
                ),
                io.Conditioning.Input(
                    "source", tooltip="The prompt that describes the clip, typed into a CLIP Text Encode."
                ),
                io.Clip.Input("clip", tooltip="The CLIP that encoded the prompt."),
                io.String.Input(
                    "words", default="", tooltip="One word of that prompt, or several next to each other, such as man."
                ),
                io.Float.Input(
                    "threshold",
                    default=0.3,
                    min=0.01,
                    max=0.99,
                    step=0.01,
                    tooltip="How strongly the model has to look there, 0.01 to 0.99: 0 is the weakest place of each "
                    "frame, 1 the strongest; lower masks more.",
                ),
            ],
            outputs=[
                io.Mask.Output("mask", display_name="mask", tooltip="One mask per frame, of the clip's size in pixels.")
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            **known(
                io.Schema,
                search_aliases=[
                    "attention mask",
                    "attention map",
                    "segment",
                    "mask from text",
                    "mask by prompt",
                    "local blend",
                ],
            ),
        )

    @classmethod
    def execute(cls, model, latent_image, source, clip, words, threshold) -> io.NodeOutput:
        from .host.latents import path_of
        from .host.memory import readable_errors
        from .host.word_mask import mask_of_words
        from .host.words import tokens_behind, tokens_of

        path = path_of(latent_image, model, "Mask From Words")
        tokens = tokens_behind(clip, source, *place_in_graph(cls), "source")
        places = tokens.find(tokens_of(clip, words)) if words.strip() else []
        if not places:
            raise TavError(f"The source prompt does not have {shown(words)}; give one or more of its words.")
        with readable_errors("use Video Windows, fewer frames or a smaller size"):
            mask = mask_of_words(model, source, path, places, threshold)
        return io.NodeOutput(mask, ui=ui_values(masked=float(mask.mean())))
