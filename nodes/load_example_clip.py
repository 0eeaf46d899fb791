from fractions import Fraction

import torch
from comfy_api.latest import InputImpl, Types, io

from .host.versions import known
from .sockets import CATEGORY, ui_values


class LoadExampleClip(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        from ..tav_core.world.dancer import CLIPS

        return io.Schema(
            node_id="LoadExampleClip",
            display_name="Load Example Clip",
            category=CATEGORY,
            description="A drawn clip of a dancer behind a rolling ball, or its poses, depth or mask. Lets you try a "
            "workflow before you have a clip or a preprocessor.",
            inputs=[
                io.Combo.Input(
                    "shows",
                    options=list(CLIPS),
                    default="dancer",
                    tooltip="What to load: the dancer; its poses, drawn as OpenPose does; its depth, brighter when "
                    "nearer; or its mask, white on the dancer. All four match frame by frame.",
                ),
            ],
            outputs=[
                io.Video.Output(
                    "video",
                    display_name="video",
                    tooltip="24 frames of 512x512 at 8 fps, for the clip input of Load Video Frames.",
                ),
            ],
            **known(
                io.Schema, search_aliases=["example video", "demo clip", "demo video", "openpose", "depth", "mask"]
            ),
        )

    @classmethod
    def execute(cls, shows) -> io.NodeOutput:
        from ..tav_core.world.dancer import CAPTION, CLIPS, FPS

        images = torch.from_numpy(CLIPS[shows]()).float() / 255
        video = InputImpl.VideoFromComponents(Types.VideoComponents(images=images, frame_rate=Fraction(FPS)))
        return io.NodeOutput(video, ui=ui_values(shows=shows, caption=CAPTION, frames=len(images), fps=FPS))
