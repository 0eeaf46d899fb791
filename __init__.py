"""Tune-A-Video for ComfyUI."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    from .nodes import TuneAVideo

    return TuneAVideo()
