from comfy_api.latest import io

from ..tav_core.errors import need
from ..tav_core.video.choose import FITS, check_size
from .host.input_files import input_file, videos_in_input_folder
from .host.versions import known
from .sockets import ADVANCED, CATEGORY, checked, facts, stamp

MOST = 4096  # pixels a side
UNLINKED = object()  # the host leaves out a socket that nothing is connected to, and gives None for one that waits


class LoadVideoFrames(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadVideoFrames",
            display_name="Load Video Frames",
            category=CATEGORY,
            description="Reads a few frames of a clip, spread over it or at a stride, at the size to work in. The "
            "frames are shown in the node.",
            inputs=[
                io.Combo.Input(
                    "video",
                    options=videos_in_input_folder(),
                    upload=io.UploadType.video,
                    tooltip="A video or GIF in ComfyUI's input folder; upload one with the button. Not read where a "
                    "clip is connected.",
                ),
                io.Int.Input(
                    "frames",
                    default=24,
                    min=1,
                    max=1024,
                    tooltip="How many frames to take, 1 to 1024; tuning needs 2. Time and memory grow with it.",
                ),
                io.Int.Input(
                    "start",
                    default=0,
                    min=0,
                    max=1_000_000,
                    tooltip="The first frame to take, from 0 to 1000000.",
                ),
                io.Int.Input(
                    "stride",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="Takes every so many frames, 1 to 1000; 0 spreads them evenly from start to the clip's "
                    "last.",
                ),
                io.Int.Input(
                    "width",
                    default=512,
                    min=8,
                    max=MOST,
                    step=8,
                    tooltip="Width in pixels, 8 to 4096, a multiple of 8; 512 suits Stable Diffusion 1.x.",
                ),
                io.Int.Input(
                    "height",
                    default=512,
                    min=8,
                    max=MOST,
                    step=8,
                    tooltip="Height in pixels, 8 to 4096, a multiple of 8; 512 suits Stable Diffusion 1.x.",
                ),
                io.Combo.Input(
                    "fit",
                    options=list(FITS),
                    default="crop",
                    tooltip="Where the clip has another shape: crop to the middle, pad with black, or stretch.",
                    **ADVANCED,
                ),
                io.Video.Input(
                    "clip",
                    optional=True,
                    tooltip="A video from another node; taken in place of the file, trim and all.",
                ),
            ],
            outputs=[
                io.Image.Output("images", display_name="images", tooltip="The chosen frames, RGB, 0 to 1."),
                io.Float.Output(
                    "fps",
                    display_name="fps",
                    tooltip="Frames a second at which the chosen frames move as fast as the clip.",
                ),
                io.Int.Output("frame_count", display_name="frame_count", tooltip="How many frames were taken."),
            ],
            **known(
                io.Schema,
                search_aliases=["load video", "video frames", "video to images", "extract frames"],
                has_intermediate_output=True,
            ),
        )

    @classmethod
    def validate_inputs(
        cls, video: str | None = None, width: int | None = None, height: int | None = None, clip: object = UNLINKED
    ) -> bool | str:
        if (told := checked(_check_size, width, height)) is not True:
            return told
        return checked(input_file, video) if clip is UNLINKED else True

    @classmethod
    def fingerprint_inputs(cls, video: str | None = None, clip: object = UNLINKED, **_settings) -> str | float:
        return stamp(input_file, video) if clip is UNLINKED else ""

    @classmethod
    def execute(cls, video, frames, start, stride, width, height, fit, clip=None) -> io.NodeOutput:
        from ..tav_core.video.read import read_frames, take_frames
        from .host.clips import opened
        from .host.memory import in_plain_words
        from .host.previews import animated

        _check_size(width, height)
        how = {"size": (width, height), "start": start, "stride": stride, "fit": fit}
        with in_plain_words("take fewer frames or a smaller size"):
            if clip is None:
                images, fps = read_frames(input_file(video), frames, **how)
            else:
                with opened(clip) as pictures:
                    images, fps = take_frames(pictures, frames, **how)
            shown = animated(images, fps, cls)
        told = facts(frames=len(images), fps=fps, width=width, height=height, file=video if clip is None else None)
        return io.NodeOutput(images, fps, len(images), ui=shown | told)


def _check_size(width: int, height: int) -> None:
    check_size((width, height))
    need(max(width, height) <= MOST, "The size", f"{width}x{height}", f"at most {MOST}x{MOST}")
