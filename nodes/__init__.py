"""The nodes: they turn ComfyUI's sockets into `tav_core` calls, and nothing else."""

from comfy_api.latest import ComfyExtension, io

from .apply_tuned_weights import ApplyTunedWeights
from .ddim_invert import DDIMInvert
from .ddim_sampler import DDIMSampler
from .extend_video import ExtendVideo
from .host.weights_folder import register_folder
from .inflate_unet import InflateUNet
from .interpolate_video import InterpolateVideo
from .keep_from_source import KeepFromSource
from .load_example_clip import LoadExampleClip
from .load_miniature import LoadMiniature
from .load_tuned_weights import LoadTunedWeights
from .load_video_frames import LoadVideoFrames
from .mask_from_words import MaskFromWords
from .one_shot_tune import OneShotTune
from .replacements import register_replacements
from .save_tuned_weights import SaveTunedWeights
from .tav_sample import TAVSample
from .video_windows import VideoWindows

NODES = [
    LoadVideoFrames,
    InflateUNet,
    OneShotTune,
    SaveTunedWeights,
    LoadTunedWeights,
    ApplyTunedWeights,
    DDIMInvert,
    TAVSample,
    DDIMSampler,
    KeepFromSource,
    MaskFromWords,
    VideoWindows,
    InterpolateVideo,
    ExtendVideo,
    LoadMiniature,
    LoadExampleClip,
]


class TuneAVideo(ComfyExtension):
    async def on_load(self) -> None:
        await register_replacements()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        register_folder()  # not in on_load, which ComfyUI 0.3.64 does not call
        return NODES
