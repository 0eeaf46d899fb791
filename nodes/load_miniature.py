from comfy_api.latest import io

from .host.versions import known
from .sockets import CATEGORY, place_in_graph, ui_values


class LoadMiniature(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadMiniature",
            display_name="Load Miniature",
            category=CATEGORY,
            description="A tiny Stable Diffusion that comes with this pack and draws shapes and small figures at "
            "128x128. Lets you try a workflow on any CPU before downloading a checkpoint.",
            inputs=[
                io.Boolean.Input(
                    "personalised",
                    default=False,
                    tooltip="Applies a LoRA that adds one concept: a shape with the word sks before it, as in a red "
                    "sks ball, has white bands.",
                ),
            ],
            outputs=[
                io.Model.Output("model", display_name="model", tooltip="Its UNet, 4.2 million parameters."),
                io.Clip.Output(
                    "clip", display_name="clip", tooltip="Its text encoder; it knows only the words shown in the node."
                ),
                io.Vae.Output("vae", display_name="vae", tooltip="Its VAE; it downscales by 8."),
                io.Video.Output(
                    "video",
                    display_name="video",
                    tooltip="A clip to start with, for Load Video Frames: 8 frames of a red ball on the grass.",
                ),
                io.ControlNet.Output(
                    "pose_controlnet",
                    display_name="pose_controlnet",
                    tooltip="Its ControlNet for poses, for Apply ControlNet with the skeletons of Load Example Clip.",
                ),
                io.ControlNet.Output(
                    "depth_adapter", display_name="depth_adapter", tooltip="Its T2I-Adapter for depth, likewise."
                ),
            ],
            hidden=[io.Hidden.unique_id],
            **known(
                io.Schema,
                search_aliases=[
                    "load checkpoint",
                    "demo checkpoint",
                    "test model",
                    "toy model",
                    "tiny model",
                    "without download",
                ],
            ),
        )

    @classmethod
    def execute(cls, personalised) -> io.NodeOutput:
        from ..tav_core.demo.showcase import SOURCE
        from ..tav_core.world.vocabulary import WORDS
        from .host.miniature import example_clip, load_miniature
        from .host.miniature_control import load_depth_adapter, load_pose_controlnet
        from .host.progress import say

        words = " ".join(WORDS)
        say(f"Known words: {words}", place_in_graph(cls)[1])
        values = ui_values(words=words, caption=SOURCE.caption)
        controls = load_pose_controlnet(), load_depth_adapter()
        return io.NodeOutput(*load_miniature(personalised), example_clip(), *controls, ui=values)
