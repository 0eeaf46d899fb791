import time

from comfy_api.latest import io

from ..tav_core.errors import need
from ..tav_core.steps import check_steps
from .host.versions import known
from .sockets import ADVANCED, CATEGORY, KEPT_SEED, checked, place_in_graph, trust_input, ui_values

NAME = "Extend Video"
DIRECTIONS = ["onwards", "backwards", "loop"]
MOST = 4096


class ExtendVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExtendVideo",
            display_name=NAME,
            category=CATEGORY,
            description="Generates frames after a video, before it, or from its end back to its start, with tuned "
            "weights. The video's own frames stay as they are.",
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
                    "frames",
                    default=8,
                    min=1,
                    max=MOST,
                    tooltip="Frames to add, 1 to 4096. To close a loop, at most as many as the video has, or a window "
                    "of Video Windows, less 2.",
                ),
                io.Combo.Input(
                    "direction",
                    options=DIRECTIONS,
                    default="onwards",
                    tooltip="Where to add them: onwards (what follows), backwards (what came before), loop (after the "
                    "last frame, leading back to the first).",
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
                    tooltip="Sampling steps for each part, 1 to 999: 20 for a quick try, 50 for the final video; above "
                    "100, use 125, 200, 250, 333 or 500. A part is half as many frames as the model sees at once.",
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
                io.Float.Input(
                    "correction",
                    default=0.0,
                    min=0.0,
                    max=0.99,
                    step=0.01,
                    tooltip="The share of the steps, 0 to 0.99, by which each part is noised and denoised once more "
                    "without the known frames, against drift in long continuations. Not used for a loop.",
                    **ADVANCED,
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Recommended: new frames are first guessed by optical flow, so that what moves goes on as "
                    "it did. Without a VAE or a guess, they start from noise and do not follow the clip.",
                ),
                io.Latent.Input(
                    "guess",
                    optional=True,
                    tooltip="What the new frames alone may look like, in order of time, as many as frames says. Takes "
                    "the place of the guess by optical flow.",
                ),
                trust_input(0.6),
            ],
            outputs=[
                io.Latent.Output("latent", display_name="latent", tooltip="The video with the frames that were added.")
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            **known(
                io.Schema,
                search_aliases=["continue video", "video extension", "longer video", "seamless loop", "extrapolate"],
            ),
        )

    @classmethod
    def validate_inputs(cls, steps: int | None = None) -> bool | str:
        return checked(check_steps, steps)

    @classmethod
    def execute(
        cls,
        model,
        positive,
        negative,
        latents,
        frames,
        direction,
        seed,
        steps,
        cfg,
        correction,
        vae=None,
        guess=None,
        trust=0.6,
    ) -> io.NodeOutput:
        from .host.differences import warn_of_missing
        from .host.fill import check_can_fill, clean_frames_of, extend_latents
        from .host.memory import readable_errors

        # here too: the host does not validate linked inputs
        check_steps(steps)
        need(1 <= frames <= MOST, "frames", frames, f"from 1 to {MOST}")
        need(direction in DIRECTIONS, "direction", direction, f"one of {', '.join(DIRECTIONS)}")
        need(0 <= correction < 1, "correction", correction, "from 0 to below 1")
        need(0 <= trust < 1, "trust", trust, "from 0 to below 1")
        check_can_fill(model, NAME, steps, trust if vae is not None or guess is not None else 0)
        samples = clean_frames_of(latents, model, NAME)
        guess = None if guess is None else clean_frames_of(guess, model, NAME)
        note, began = warn_of_missing(model, positive, *place_in_graph(cls)), time.perf_counter()
        with readable_errors("use Video Windows, fewer frames or a smaller size"):
            video = extend_latents(
                model,
                positive,
                negative,
                samples,
                frames,
                direction,
                steps,
                cfg=cfg,
                seed=seed,
                correction=correction,
                guess=guess,
                vae=vae,
                trust=trust,
            )
        seconds = time.perf_counter() - began
        values = ui_values(steps=steps, cfg=cfg, frames=len(video), seconds=seconds, note=note)
        return io.NodeOutput({"samples": video}, ui=values)
