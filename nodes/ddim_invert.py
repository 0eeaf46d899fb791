from comfy_api.latest import io

from .sockets import ADVANCED, CATEGORY, known


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
                    tooltip="Inversion steps, 1 to 999; more are more exact. Sampling may take another number.",
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
            **known(io.Schema, search_aliases=["inversion", "invert video", "unsample", "video to noise"]),
        )

    @classmethod
    def execute(cls, model, positive, latent_image, steps, check, vae=None) -> io.NodeOutput:
        raise NotImplementedError
