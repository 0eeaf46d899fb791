import time

from comfy_api.latest import io

from ..tav_core.errors import need
from .host.versions import known
from .sockets import ADVANCED, CATEGORY, KEPT_SEED, checked, facts


class TAVSample(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TAVSample",
            display_name="TAV Sample",
            category=CATEGORY,
            description="Samples a video with DDIM, from a clip's inverted noise (an edit that keeps its motion) or, "
            "with an empty latent of several frames, from fresh noise.",
            inputs=[
                io.Model.Input("model", tooltip="The tuned model."),
                io.Conditioning.Input("positive", tooltip="The edited sentence."),
                io.Conditioning.Input("negative", tooltip="What to steer away from; an empty sentence will do."),
                io.Latent.Input(
                    "latent_image",
                    tooltip="The latent of DDIM Invert, or an empty latent whose batch size is the number of frames.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    tooltip="Draws the noise, 0 to 2^64 - 1: from an empty latent, or with eta above 0.",
                    **KEPT_SEED,
                ),
                io.Int.Input(
                    "steps",
                    default=50,
                    min=1,
                    max=999,
                    tooltip="Sampling steps, 1 to 999: 20 to try, 50 for the final video; above 100, take 125, 200, "
                    "250, 333 or 500. May differ from the inversion's.",
                ),
                io.Float.Input(
                    "cfg",
                    default=12.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="How strongly the sentence guides, 0 to 100; 1 is without guidance. Edits: 7.5 to 12.5.",
                ),
                io.Float.Input(
                    "eta",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Fresh noise per step, 0 to 1: 0 keeps the clip's motion, 1 draws as much as DDPM.",
                    **ADVANCED,
                ),
            ],
            outputs=[io.Latent.Output("latent", display_name="latent", tooltip="The video, for VAE Decode.")],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            **known(io.Schema, search_aliases=["sample video", "edit video", "text to video", "DDIM"]),
        )

    @classmethod
    def validate_inputs(cls, steps: int | None = None) -> bool | str:
        from ..tav_core.ddim import check_steps

        return checked(check_steps, steps)

    @classmethod
    def execute(cls, model, positive, negative, latent_image, seed, steps, cfg, eta) -> io.NodeOutput:
        from ..tav_core.ddim import check_steps
        from .host.ddim import sample_latents
        from .host.differences import warn_of_controls
        from .host.latents import NOISE_LEVEL, TIMESTEP, check_samplable, frames_of
        from .host.memory import in_plain_words

        check_samplable(latent_image, model)
        check_steps(steps)  # here too, for the host does not look at what comes over a link
        need(0 <= eta <= 1, "eta", eta, "from 0 to 1")
        note = warn_of_controls(model, positive, cls.hidden.unique_id, cls.hidden.prompt)
        samples, began = frames_of(latent_image), time.perf_counter()
        with in_plain_words("take fewer frames or a smaller size"):
            video = sample_latents(model, positive, negative, latent_image, steps, cfg=cfg, eta=eta, seed=seed)
        kept = {name: value for name, value in latent_image.items() if name not in (TIMESTEP, NOISE_LEVEL)}
        told = facts(steps=steps, cfg=cfg, frames=len(samples), seconds=time.perf_counter() - began, note=note)
        return io.NodeOutput(kept | {"samples": video}, ui=told)
