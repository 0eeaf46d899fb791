import time

from comfy_api.latest import io
from torch import Tensor

from ..tav_core.errors import TavError
from .host.versions import known
from .sockets import ADVANCED, CATEGORY, checked, facts


class DDIMInvert(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DDIMInvert",
            display_name="DDIM Invert",
            category=CATEGORY,
            description="Follows DDIM backwards from a clip to the noise it came from, which carries its motion.",
            inputs=[
                io.Model.Input("model", tooltip="The tuned model."),
                io.Conditioning.Input(
                    "positive", tooltip="The sentence to invert with; an empty one, as in the paper, edits most freely."
                ),
                io.Latent.Input("latent_image", tooltip="The clip from VAE Encode."),
                io.Int.Input(
                    "steps",
                    default=50,
                    min=1,
                    max=999,
                    tooltip="Inversion steps, 1 to 999: 50 suits most clips; above 100, take 125, 200, 250, 333 or "
                    "500, for others end far from full noise. Sampling may take another number.",
                ),
                io.Boolean.Input(
                    "check",
                    default=False,
                    tooltip="Samples back with the same sentence and tells the PSNR to the clip in dB, so that a bad "
                    "inversion is seen before an edit is judged. Takes twice the time.",
                    **ADVANCED,
                ),
                io.Vae.Input(
                    "vae", optional=True, tooltip="With check: compares pixels; without a VAE, latents are compared."
                ),
            ],
            outputs=[
                io.Latent.Output(
                    "latent",
                    display_name="latent",
                    tooltip="The noise, for TAV Sample or, with add_noise off, KSampler (Advanced).",
                ),
                io.Sigmas.Output(
                    "sigmas",
                    display_name="sigmas",
                    tooltip="The way back, for SamplerCustomAdvanced: steps + 1 values.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            **known(io.Schema, search_aliases=["inversion", "invert video", "unsample", "video to noise"]),
        )

    @classmethod
    def validate_inputs(cls, steps: int | None = None) -> bool | str:
        from ..tav_core.ddim import check_steps

        return checked(check_steps, steps)

    @classmethod
    def execute(cls, model, positive, latent_image, steps, check, vae=None) -> io.NodeOutput:
        from ..tav_core.ddim import check_steps
        from .host.ddim import invert_latents, sample_latents, way_back
        from .host.differences import warn_of_controls
        from .host.latents import check_clean, frames_of
        from .host.memory import in_plain_words
        from .host.progress import say

        check_clean(latent_image, model)
        check_steps(steps)  # here too, for the host does not look at what comes over a link
        note = warn_of_controls(model, positive, cls.hidden.unique_id, cls.hidden.prompt)
        samples, began = frames_of(latent_image), time.perf_counter()
        with in_plain_words("take fewer frames or a smaller size"):
            latent = invert_latents(model, positive, samples, steps)
            told = {"steps": steps, "frames": len(samples), "seconds": time.perf_counter() - began, "note": note}
            if check:
                again = sample_latents(model, positive, None, latent, steps, cfg=1.0, eta=0.0, seed=0)
                told |= _reconstruction(samples, again, vae)
                say(f"{told['psnr']:.1f} dB to the clip, in {told['psnr_of']}", cls.hidden.unique_id)
        return io.NodeOutput(latent_image | latent, way_back(model, steps), ui=facts(**told))


def _reconstruction(samples: Tensor, again: Tensor, vae) -> dict:
    """How near the way back comes to the clip: PSNR over all frames in dB, 100 at most."""
    from ..tav_core.metrics import peak_signal_to_noise

    if vae is None:
        peak, measured_on = (samples.max() - samples.min()).clamp_min(1e-10), "latents"
    else:
        samples, again, peak, measured_on = vae.decode(samples), vae.decode(again), 1.0, "pixels"
        if not (samples + again).isfinite().all():
            raise TavError("The VAE gave NaN or infinite pixels; start ComfyUI with --fp32-vae.")
    return {"psnr": peak_signal_to_noise(again.to(samples) / peak, samples / peak), "psnr_of": measured_on}
