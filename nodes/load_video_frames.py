from contextlib import ExitStack

from comfy_api.latest import io

from ..tav_core.errors import TavError, need
from ..tav_core.video.choose import FITS, check_size
from .host.input_files import input_file, videos_in_input_folder
from .host.versions import known
from .sockets import ADVANCED, CATEGORY, checked, place_in_graph, stamp, ui_values

MAX_SIDE = 4096  # pixels
UNLINKED = object()  # the host omits an input without a link, and passes None for one whose link is not resolved yet


class LoadVideoFrames(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadVideoFrames",
            display_name="Load Video Frames",
            category=CATEGORY,
            description="Reads frames of a clip, evenly spaced or at a fixed stride, and resizes them. The frames are "
            "shown in the node.",
            inputs=[
                io.Combo.Input(
                    "video",
                    options=videos_in_input_folder(),
                    upload=io.UploadType.video,
                    tooltip="A video, GIF or animated WebP in ComfyUI's input folder; the button uploads one. Ignored "
                    "if a clip is connected.",
                ),
                io.Int.Input(
                    "frames",
                    default=24,
                    min=1,
                    max=1024,
                    tooltip="How many frames to read, 1 to 1024 (frame_load_cap in VideoHelperSuite); tuning needs at "
                    "least 2. More take more time and memory.",
                ),
                io.Int.Input(
                    "start",
                    default=0,
                    min=0,
                    max=1_000_000,
                    tooltip="The first frame to read, 0 to 1000000, counted from 0 (skip_first_frames in "
                    "VideoHelperSuite).",
                ),
                io.Int.Input(
                    "stride",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="Reads every nth frame, 1 to 1000 (select_every_nth in VideoHelperSuite); 0 spaces the "
                    "frames evenly from start to the end of the clip (instead of force_rate).",
                ),
                io.Int.Input(
                    "width",
                    default=512,
                    min=8,
                    max=MAX_SIDE,
                    step=8,
                    tooltip="Width in pixels, 8 to 4096, a multiple of 8; 512 suits Stable Diffusion 1.x.",
                ),
                io.Int.Input(
                    "height",
                    default=512,
                    min=8,
                    max=MAX_SIDE,
                    step=8,
                    tooltip="Height in pixels, 8 to 4096, a multiple of 8; 512 suits Stable Diffusion 1.x.",
                ),
                io.Combo.Input(
                    "fit",
                    options=list(FITS),
                    default="crop",
                    tooltip="If the clip's aspect ratio differs: crop to the centre, pad with black, or stretch.",
                    **ADVANCED,
                ),
                io.Boolean.Input(
                    "strict",
                    default=False,
                    optional=True,
                    # a socket: a widget would shift the values of saved workflows, whose last is the upload button's
                    force_input=True,
                    tooltip="If the clip has fewer frames than asked for: stop with an error instead of taking those.",
                ),
                io.Video.Input(
                    "clip",
                    optional=True,
                    tooltip="A video from another node; used instead of the file, including its trim.",
                ),
                io.Boolean.Input(
                    "by_time",
                    optional=True,
                    force_input=True,  # as strict
                    tooltip="With stride 0: true spaces the frames evenly in time, false by number. If not connected: "
                    "in time if the clip's frame rate varies.",
                ),
            ],
            outputs=[
                io.Image.Output("images", display_name="images", tooltip="The chosen frames, RGB, 0 to 1."),
                io.Float.Output(
                    "fps",
                    display_name="fps",
                    tooltip="The frame rate at which the chosen frames play at the clip's speed.",
                ),
                io.Int.Output("frame_count", display_name="frame_count", tooltip="How many frames were read."),
                io.Audio.Output(
                    "audio",
                    display_name="audio",
                    tooltip="The clip's sound from the first of the frames on, for as long as they play at fps, for "
                    "Create Video; nothing if the clip has none.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            **known(
                io.Schema,
                search_aliases=[
                    "load video",
                    "video frames",
                    "video to images",
                    "extract frames",
                    "VHS load video",
                    "VHS_LoadVideo",
                    "frame_load_cap",
                    "skip_first_frames",
                    "select_every_nth",
                    "force_rate",
                ],
                has_intermediate_output=True,
            ),
        )

    @classmethod
    def validate_inputs(cls, video: str | None = None, clip: object = UNLINKED) -> bool | str:
        # the host repeats an error at each input that is named here; so the size is checked when the node runs
        return checked(input_file, video) if clip is UNLINKED else True

    @classmethod
    def fingerprint_inputs(cls, video: str | None = None, clip: object = UNLINKED, **_settings) -> str | float:
        return stamp(input_file, video) if clip is UNLINKED else ""

    @classmethod
    def execute(
        cls, video, frames, start, stride, width, height, fit, clip=None, strict=False, by_time=None
    ) -> io.NodeOutput:
        from ..tav_core.video.cuts import cut_in
        from ..tav_core.video.read import take_frames
        from ..tav_core.video.source import open_source
        from .host.clips import opened
        from .host.differences import warn
        from .host.memory import readable_errors
        from .host.previews import as_video
        from .host.sound import sound_of

        _check_size(width, height)
        if clip is None and not video:
            raise TavError("No video is chosen; choose one, upload one, or connect a clip.")
        selection = {"size": (width, height), "start": start, "stride": stride, "fit": fit, "at_most": not strict}
        selection["by_time"] = None if stride else by_time
        with readable_errors("use fewer frames or a smaller size"), ExitStack() as files:
            if clip is None:
                path = input_file(video)
                source, selection["name"] = open_source(path), str(path)
            else:
                source = files.enter_context(opened(clip))
            chosen = images, fps = take_frames(source, frames, **selection)
            audio = sound_of(source, chosen.start, chosen.seconds)
            preview = as_video(images, fps)
        notes = list(chosen.notes)
        if len(images) < frames:
            notes.append(f"The clip has only {len(images)} frames from there on; all of them are used.")
        if cut := cut_in(images):
            notes.append(
                f"Frames {cut} and {cut + 1} look like two shots, but tuning learns one motion; load each shot alone."
            )
        note = warn(" ".join(notes) or None, place_in_graph(cls)[1])
        values = ui_values(
            frames=len(images), fps=fps, width=width, height=height, file=video if clip is None else None, note=note
        )
        return io.NodeOutput(images, fps, len(images), audio, ui=preview | values)


def _check_size(width: int, height: int) -> None:
    check_size((width, height))
    need(max(width, height) <= MAX_SIDE, "The size", f"{width}x{height}", f"at most {MAX_SIDE}x{MAX_SIDE}")
