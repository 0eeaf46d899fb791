import time

from comfy_api.latest import io
from torch import Tensor

from ..tav_core.errors import TavError
from ..tav_core.steps import INVERSIONS, check_steps
from .host.versions import known
from .sockets import ADVANCED, CATEGORY, checked, place_in_graph, ui_values


class DDIMInvert(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DDIMInvert",
            display_name="DDIM Invert",
            category=CATEGORY,
            description="Runs DDIM backwards, from a clip to the noise it came from. That noise carries the clip's "
            "motion.",
            inputs=[
                io.Model.Input("model", tooltip="The tuned model."),
                io.Conditioning.Input(
                    "positive",
                    tooltip="The prompt to invert with. An empty prompt, as in the paper, leaves edits the most "
                    "freedom.",
                ),
                io.Latent.Input("latent_image", tooltip="The clip, from VAE Encode."),
                io.Int.Input(
                    "steps",
                    default=50,
                    min=1,
                    max=999,
                    tooltip="Inversion steps, 1 to 999; 50 suits most clips. Above 100, use 125, 200, 250, 333 or 500: "
                    "many other counts end far from full noise. Sampling may use a different number.",
                ),
                io.Boolean.Input(
                    "check",
                    default=False,
                    tooltip="Samples back with the same prompt and reports the PSNR to the clip in dB, so that you can "
                    "spot a bad inversion before judging an edit. Takes twice as long.",
                    **ADVANCED,
                ),
                io.Combo.Input(
                    "invert_with",
                    options=list(INVERSIONS),
                    default="ddim",
                    optional=True,
                    tooltip="How to invert: ddim, as in the paper, or fixed-point, which reconstructs the clip better "
                    "and takes four times as long.",
                    **ADVANCED,
                ),
                io.Vae.Input(
                    "vae", optional=True, tooltip="Used by check: with a VAE, it compares pixels; without one, latents."
                ),
            ],
            outputs=[
                io.Latent.Output(
                    "latent",
                    display_name="latent",
                    tooltip="The noise, for TAV Sample, or for KSampler (Advanced) with add_noise disabled. It also "
                    "holds the clip at each noise level, for Keep From Source.",
                ),
                io.Sigmas.Output(
                    "sigmas",
                    display_name="sigmas",
                    tooltip="The noise levels for sampling back with SamplerCustomAdvanced: steps + 1 values.",
                ),
                io.Noise.Output(
                    "noise",
                    display_name="noise",
                    tooltip="For SamplerCustomAdvanced with the sigmas from here: starts at the clip's noise, whatever "
                    "latent it gets.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            **known(
                io.Schema,
                search_aliases=[
                    "DDIM inversion",
                    "inversion",
                    "inverse DDIM",
                    "invert video",
                    "unsample",
                    "unsampler",
                    "video to noise",
                    "video2video",
                    "vid2vid",
                ],
            ),
        )

    @classmethod
    def validate_inputs(cls, steps: int | None = None) -> bool | str:
        return checked(check_steps, steps)

    @classmethod
    def execute(cls, model, positive, latent_image, steps, check, vae=None, invert_with="ddim") -> io.NodeOutput:
        from .host.ddim import for_inversion, invert_latents, sample_latents, sampling_sigmas
        from .host.differences import warn_of_missing
        from .host.latents import check_clean, frames_of
        from .host.memory import readable_errors
        from .host.noise import InvertedNoise
        from .host.progress import say

        check_clean(latent_image, model)
        check_steps(steps)  # here too: the host does not validate linked inputs
        graph, node_id = place_in_graph(cls)
        note = warn_of_missing(model, positive, graph, node_id)
        samples, began = frames_of(latent_image), time.perf_counter()
        with readable_errors("use Video Windows, fewer frames or a smaller size"):
            latent = invert_latents(model, positive, samples, steps, invert_with)
            values = {"steps": steps, "frames": len(samples), "seconds": time.perf_counter() - began, "note": note}
            if check:
                reconstruction = sample_latents(
                    for_inversion(model), positive, None, latent, steps, cfg=1.0, eta=0.0, seed=0
                )
                values |= _compared(samples, reconstruction, vae)
                say(f"PSNR to the clip: {values['psnr']:.1f} dB ({values['psnr_of']})", node_id)
        sigmas = sampling_sigmas(model, steps)
        noise = InvertedNoise(model, latent["samples"], sigmas[0].item())
        return io.NodeOutput(latent_image | latent, sigmas, noise, ui=ui_values(**values))


def _compared(samples: Tensor, reconstruction: Tensor, vae) -> dict:
    """The PSNR of a clip's reconstruction over all frames, in dB, at most 100."""
    from ..tav_core.metrics import peak_signal_to_noise

    if vae is None:
        peak, measured_on = (samples.max() - samples.min()).clamp_min(1e-10), "latents"
    else:
        samples, reconstruction, peak, measured_on = vae.decode(samples), vae.decode(reconstruction), 1.0, "pixels"
        if not (samples + reconstruction).isfinite().all():
            raise TavError("The VAE returned NaN or infinite pixels; start ComfyUI with --fp32-vae.")
    return {"psnr": peak_signal_to_noise(reconstruction.to(samples) / peak, samples / peak), "psnr_of": measured_on}
