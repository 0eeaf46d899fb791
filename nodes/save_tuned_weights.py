from comfy_api.latest import io

from .host.versions import known
from .host.weights_folder import check_prefix, name_of, unused_file
from .sockets import CATEGORY, TunedWeightsSocket, checked, ui_values


class SaveTunedWeights(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SaveTunedWeights",
            display_name="Save Tuned Weights",
            category=CATEGORY,
            description="Saves tuned weights as a .safetensors file in models/tune_a_video.",
            inputs=[
                TunedWeightsSocket.Input("tuned_weights", tooltip="From One-Shot Tune."),
                io.String.Input(
                    "filename_prefix",
                    default="tuned",
                    tooltip="Start of the file name; a number is appended. May include subfolders, as in cats/jump.",
                ),
            ],
            outputs=[],
            is_output_node=True,
            **known(io.Schema, search_aliases=["export tuned weights", "Tune-A-Video weights"]),
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        return checked(check_prefix, filename_prefix)

    @classmethod
    def execute(cls, tuned_weights, filename_prefix) -> io.NodeOutput:
        from .host.memory import readable_errors

        with readable_errors(), unused_file(filename_prefix) as path:
            tuned_weights.save(path)
        return io.NodeOutput(ui=ui_values(file=str(path), name=name_of(path)))
