from comfy_api.latest import io

from .host.versions import known
from .sockets import CATEGORY, TunedWeightsSocket, place_in_graph, strength_input, ui_values


class ApplyTunedWeights(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ApplyTunedWeights",
            display_name="Apply Tuned Weights",
            category=CATEGORY,
            description="Applies tuned weights to another model of the same family, replacing any it already has, and "
            "inflates it the way it was tuned.",
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="A Stable Diffusion model of the family the weights were tuned on, with or without LoRAs.",
                ),
                TunedWeightsSocket.Input("tuned_weights", tooltip="From One-Shot Tune or Load Tuned Weights."),
                strength_input(),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The tuned model.")],
            hidden=[io.Hidden.unique_id],
            **known(io.Schema, search_aliases=["tuned weights strength", "Tune-A-Video weights"]),
        )

    @classmethod
    def execute(cls, model, tuned_weights, strength) -> io.NodeOutput:
        from .host.differences import warn_of_sibling
        from .host.inflate import with_tuned

        applied = with_tuned(model, tuned_weights, strength)
        note = warn_of_sibling(model, tuned_weights, place_in_graph(cls)[1])
        return io.NodeOutput(applied, ui=ui_values(strength=strength, note=note))
