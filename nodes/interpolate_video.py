import time

from comfy_api.latest import io

from ..tav_core.errors import need
from ..tav_core.steps import check_steps
from .host.versions import known
from .sockets import CATEGORY, KEPT_SEED, checked, place_in_graph, trust_input, ui_values

NAME = "Interpolate Video"


class InterpolateVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InterpolateVideo",
            display_name=NAME,
            category=CATEGORY,
            description="Generates the frames between those of a video with tuned weights; the video's own frames stay "
            "as they are. Where little moves between two frames, ComfyUI's Run Frame Interpolation Model with a RIFE "
            "or FILM model is the better choice.",
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="A model with tuned weights. With neither a VAE nor a guess, they must be tuned with "
                    "known_frames of Inflate UNet.",
                ),
                io.Conditioning.Input("positive", tooltip="The prompt that describes the video."),
                io.Conditioning.Input("negative", tooltip="What to avoid; an empty prompt is fine."),
                io.Latent.Input(
                    "latents", tooltip="A clean video of at least 2 frames, from VAE Encode or TAV Sample."
                ),
                io.Int.Input(
                    "factor",
                    default=2,
                    min=2,
                    max=8,
                    tooltip="How many times as many frames, 2 to 8: factor - 1 are generated between each two. Tuning "
                    "with known_frames practises 2 and 4.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    tooltip="Seed of the noise, 0 to 2^64 - 1.",
                    **KEPT_SEED,
                ),
                io.Int.Input(
                    "steps",
                    default=50,
                    min=1,
                    max=999,
                    tooltip="Sampling steps, 1 to 999: 20 for a quick try, 50 for the final video; above 100, use 125, "
                    "200, 250, 333 or 500.",
                ),
                io.Float.Input(
                    "cfg",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="Guidance scale, 0 to 100: how strongly to follow the prompt; 1 is no guidance, since the "
                    "known frames already show what the video is.",
                ),
                io.Latent.Input(
                    "guess",
                    optional=True,
                    tooltip="What the result may look like, with as many frames: (frames - 1) * factor + 1. For "
                    "example, the images of Run Frame Interpolation Model through VAE Encode. Takes the place of the "
                    "guess by optical flow.",
                ),
                trust_input(0.95),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Recommended: new frames are first guessed from both neighbours by optical flow. Without a "
                    "VAE or a guess, they start from noise and do not follow the clip.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    "latent", display_name="latent", tooltip="The video with (frames - 1) * factor + 1 frames."
                )
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            **known(
                io.Schema,
                search_aliases=[
                    "frame interpolation",
                    "in-between frames",
                    "slow motion",
                    "frame rate",
                    "RIFE",
                    "FILM",
                ],
            ),
        )

    @classmethod
    def validate_inputs(cls, steps: int | None = None) -> bool | str:
        return checked(check_steps, steps)

    @classmethod
    def execute(
        cls, model, positive, negative, latents, factor, seed, steps, cfg, guess=None, trust=0.95, vae=None
    ) -> io.NodeOutput:
        from .host.differences import warn_of_missing
        from .host.fill import check_can_fill, clean_frames_of, interpolate_latents
        from .host.memory import readable_errors

        # here too: the host does not validate linked inputs
        check_steps(steps)
        need(2 <= factor <= 8, "factor", factor, "from 2 to 8")
        need(0 <= trust < 1, "trust", trust, "from 0 to below 1")
        check_can_fill(model, NAME, steps, trust if vae is not None or guess is not None else 0)
        samples = clean_frames_of(latents, model, NAME)
        guess = None if guess is None else clean_frames_of(guess, model, NAME)
        note, began = warn_of_missing(model, positive, *place_in_graph(cls)), time.perf_counter()
        with readable_errors("use Video Windows, fewer frames or a smaller size"):
            video = interpolate_latents(
                model, positive, negative, samples, factor, steps, cfg=cfg, seed=seed, guess=guess, vae=vae, trust=trust
            )
        seconds = time.perf_counter() - began
        values = ui_values(steps=steps, cfg=cfg, frames=len(video), seconds=seconds, note=note)
        return io.NodeOutput({"samples": video}, ui=values)
