import time

from comfy_api.latest import io

from ..tav_core.errors import need
from ..tav_core.steps import check_steps
from .host.versions import known
from .sockets import ADVANCED, CATEGORY, KEPT_SEED, checked, place_in_graph, ui_values


class TAVSample(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TAVSample",
            display_name="TAV Sample",
            category=CATEGORY,
            description="Samples a video with DDIM: from a clip's inverted noise (an edit that keeps its motion) or, "
            "given an empty latent of several frames, from fresh noise.",
            inputs=[
                io.Model.Input("model", tooltip="The tuned model."),
                io.Conditioning.Input("positive", tooltip="The edited prompt."),
                io.Conditioning.Input("negative", tooltip="What to avoid; an empty prompt is fine."),
                io.Latent.Input(
                    "latent_image",
                    tooltip="The latent from DDIM Invert, or an empty latent whose batch size is the number of frames.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    tooltip="Seed of the noise, 0 to 2^64 - 1; used with an empty latent, or if eta is above 0.",
                    **KEPT_SEED,
                ),
                io.Int.Input(
                    "steps",
                    default=50,
                    min=1,
                    max=999,
                    tooltip="Sampling steps, 1 to 999: 20 for a quick try, 50 for the final video; above 100, use 125, "
                    "200, 250, 333 or 500. May differ from the inversion's.",
                ),
                io.Float.Input(
                    "cfg",
                    default=12.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="Guidance scale, 0 to 100: how strongly to follow the prompt; 1 is no guidance. For edits, "
                    "7.5 to 12.5.",
                ),
                io.Float.Input(
                    "eta",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Fresh noise per step, 0 to 1: 0 keeps the clip's motion, 1 adds as much as DDPM.",
                    **ADVANCED,
                ),
            ],
            outputs=[io.Latent.Output("latent", display_name="latent", tooltip="The video, for VAE Decode.")],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            **known(
                io.Schema,
                search_aliases=[
                    "Tune-A-Video sampler",
                    "TuneAVideo",
                    "sample video",
                    "edit video",
                    "video editing",
                    "video2video",
                    "vid2vid",
                    "video to video",
                    "text to video",
                    "text2video",
                    "DDIM sampling",
                ],
            ),
        )

    @classmethod
    def validate_inputs(cls, steps: int | None = None) -> bool | str:
        return checked(check_steps, steps)

    @classmethod
    def execute(cls, model, positive, negative, latent_image, seed, steps, cfg, eta) -> io.NodeOutput:
        from .host.ddim import sample_latents
        from .host.differences import warn_of_missing
        from .host.latents import OURS, check_samplable, frames_of
        from .host.memory import readable_errors

        check_samplable(latent_image, model)
        check_steps(steps)  # here too: the host does not validate linked inputs
        need(0 <= eta <= 1, "eta", eta, "from 0 to 1")
        note = warn_of_missing(model, positive, *place_in_graph(cls))
        samples, began = frames_of(latent_image), time.perf_counter()
        with readable_errors("use Video Windows, fewer frames or a smaller size"):
            video = sample_latents(model, positive, negative, latent_image, steps, cfg=cfg, eta=eta, seed=seed)
        kept = {name: value for name, value in latent_image.items() if name not in OURS}
        values = ui_values(steps=steps, cfg=cfg, frames=len(samples), seconds=time.perf_counter() - began, note=note)
        return io.NodeOutput(kept | {"samples": video}, ui=values)
