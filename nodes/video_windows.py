from comfy_api.latest import io

from ..tav_core.errors import TavError
from .host.versions import known
from .sockets import CATEGORY, checked, ui_values


class VideoWindows(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoWindows",
            display_name="Video Windows",
            category=CATEGORY,
            description="Lets a model see a long video in windows of frames, so that memory does not grow with the "
            "video: in One-Shot Tune, DDIM Invert, TAV Sample and ComfyUI's own samplers.",
            inputs=[
                io.Model.Input("model", tooltip="A model from Inflate UNet."),
                io.Int.Input(
                    "length",
                    default=16,
                    min=2,
                    max=4096,
                    tooltip="Frames that the model sees at once, 2 to 4096, at most as many as the video has. Each "
                    "window begins with the video's first frame.",
                ),
                io.Int.Input(
                    "overlap",
                    default=4,
                    min=0,
                    max=4094,
                    tooltip="Frames that two neighbouring windows share, 0 to length - 2. More joins them better, and "
                    "takes longer. Does not affect tuning, in which each step draws one window.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The same model, with windows.")],
            **known(
                io.Schema, search_aliases=["long video", "context windows", "sliding window", "more frames", "low vram"]
            ),
        )

    @classmethod
    def validate_inputs(cls, length: int | None = None, overlap: int | None = None) -> bool | str:
        from ..tav_core.windows import Windows

        return checked(Windows, length, overlap)

    @classmethod
    def execute(cls, model, length, overlap) -> io.NodeOutput:
        from ..tav_core.windows import Windows
        from .host.inflate import inflated_of
        from .host.windows import with_windows

        if inflated_of(model) is None:
            raise TavError("Video Windows needs a MODEL for videos; connect it behind Inflate UNet or One-Shot Tune.")
        values = ui_values(length=length, overlap=overlap)
        return io.NodeOutput(with_windows(model, Windows(length, overlap)), ui=values)
