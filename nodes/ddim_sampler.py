from comfy_api.latest import io

from ..tav_core.errors import need
from .host.versions import known
from .sockets import CATEGORY


class DDIMSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TAVDDIMSampler",
            display_name="DDIM Sampler",
            category=CATEGORY,
            description="TAV Sample's DDIM for SamplerCustomAdvanced, with a guider of your choice. Noise and sigmas "
            "come from DDIM Invert.",
            inputs=[
                io.Float.Input(
                    "eta",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Fresh noise per step, 0 to 1: 0 keeps the clip's motion, 1 adds as much as DDPM.",
                ),
            ],
            outputs=[
                io.Sampler.Output(
                    "sampler",
                    display_name="sampler",
                    tooltip="For SamplerCustomAdvanced. It takes the sigmas of DDIM Invert, or of Basic Scheduler with "
                    "ddim_uniform.",
                )
            ],
            **known(
                io.Schema,
                search_aliases=["Tune-A-Video sampler", "DDIM sampling", "custom sampler", "KSamplerSelect"],
            ),
        )

    @classmethod
    def execute(cls, eta) -> io.NodeOutput:
        from .host.ddim import CustomDDIM

        need(0 <= eta <= 1, "eta", eta, "from 0 to 1")  # the host does not check links
        return io.NodeOutput(CustomDDIM(eta))
