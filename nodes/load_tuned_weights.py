from comfy_api.latest import io

from ..tav_core.tuned import TunedWeights
from .host.inflate import with_tuned
from .host.siblings import tell_of_sibling
from .sockets import CATEGORY, TunedWeightsSocket, facts, known, stamp, strength_input
from .weights_folder import file_named, names_of_files


class LoadTunedWeights(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadTunedWeights",
            display_name="Load Tuned Weights",
            category=CATEGORY,
            description="Puts saved tuned weights onto a model of the same family, and inflates it as it was tuned.",
            inputs=[
                io.Model.Input(
                    "model", tooltip="A Stable Diffusion model of the family that was tuned, LoRAs and all."
                ),
                io.Combo.Input(
                    "tuned_weights_name",
                    options=names_of_files(),
                    tooltip="A file in models/tune_a_video, written by Save Tuned Weights or by the tav command.",
                ),
                strength_input(),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The tuned model."),
                TunedWeightsSocket.Output(
                    "tuned_weights", display_name="tuned_weights", tooltip="The weights themselves, for other models."
                ),
            ],
            hidden=[io.Hidden.unique_id],
            **known(io.Schema, search_aliases=["import tuned weights"]),
        )

    @classmethod
    def fingerprint_inputs(cls, tuned_weights_name: str | None, **_settings) -> str | float:
        return stamp(file_named, tuned_weights_name)

    @classmethod
    def execute(cls, model, tuned_weights_name, strength) -> io.NodeOutput:
        tuned = TunedWeights.load(file_named(tuned_weights_name))
        applied = with_tuned(model, tuned, strength)
        told = {"name": tuned_weights_name, "strength": strength}
        told["note"] = tell_of_sibling(model, tuned, cls.hidden.unique_id)
        return io.NodeOutput(applied, tuned, ui=facts(**tuned.facts | told))
