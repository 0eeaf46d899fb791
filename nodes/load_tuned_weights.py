from comfy_api.latest import io

from .host.versions import known
from .host.weights_folder import file_named, names_of_files
from .sockets import CATEGORY, TunedWeightsSocket, place_in_graph, stamp, strength_input, ui_values


class LoadTunedWeights(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadTunedWeights",
            display_name="Load Tuned Weights",
            category=CATEGORY,
            description="Applies saved tuned weights to a model of the same family, and inflates it the way it was "
            "tuned.",
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="A Stable Diffusion model of the family the weights were tuned on, with or without LoRAs.",
                ),
                io.Combo.Input(
                    "tuned_weights_name",
                    options=names_of_files(),
                    tooltip="A file in models/tune_a_video, written by Save Tuned Weights or the tav command.",
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
            **known(io.Schema, search_aliases=["import tuned weights", "load motion", "Tune-A-Video weights"]),
        )

    @classmethod
    def fingerprint_inputs(cls, tuned_weights_name: str | None, **_settings) -> str | float:
        return stamp(file_named, tuned_weights_name)

    @classmethod
    def execute(cls, model, tuned_weights_name, strength) -> io.NodeOutput:
        from ..tav_core.tuned import TunedWeights
        from .host.differences import warn_of_sibling
        from .host.inflate import with_tuned

        tuned = TunedWeights.load(file_named(tuned_weights_name))
        applied = with_tuned(model, tuned, strength)
        note = warn_of_sibling(model, tuned, place_in_graph(cls)[1])
        values = tuned.facts.as_metadata() | {"name": tuned_weights_name, "strength": strength, "note": note}
        return io.NodeOutput(applied, tuned, ui=ui_values(**values))
