from comfy_api.latest import io

from .sockets import ADVANCED, CATEGORY, LossMapSocket, TunedWeightsSocket, known


class OneShotTune(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OneShotTune",
            display_name="One-Shot Tune",
            category=CATEGORY,
            description="Tunes an inflated model on one clip and the sentence that describes it, so that it draws "
            "other sentences with the clip's motion. An interrupted run goes on where it was when the same graph is "
            "queued again, and a finished one is not tuned again.",
            inputs=[
                io.Model.Input(
                    "model", tooltip="A model from Inflate UNet. Tuning starts from it without earlier tuned weights."
                ),
                io.Latent.Input("latents", tooltip="The clip from VAE Encode, 2 frames or more."),
                io.Conditioning.Input(
                    "positive",
                    tooltip="The sentence that describes the clip: exactly one, without area, mask or range. A "
                    "ControlNet on it is honoured.",
                ),
                io.Int.Input(
                    "steps",
                    default=500,
                    min=1,
                    max=100_000,
                    tooltip="Tuning steps, 1 to 100000. Too few do not hold the motion, too many do not follow a new "
                    "sentence; 300 to 500 suit most clips.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=3e-5,
                    min=1e-8,
                    max=0.1,
                    step=1e-6,
                    round=False,
                    tooltip="AdamW's step size, 1e-8 to 0.1; 3e-5 is the paper's.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=io.ControlAfterGenerate.fixed,  # else each queueing tunes anew
                    tooltip="Draws the noise and the timesteps of each step.",
                ),
                io.Combo.Input(
                    "mixed_precision",
                    options=["auto", "no", "bf16", "fp16"],
                    default="auto",
                    tooltip="What a step computes in. auto: as the model is stored, and on a GPU half precision.",
                    **ADVANCED,
                ),
                io.Combo.Input(
                    "gradient_checkpointing",
                    options=["auto", "on", "off"],
                    default="auto",
                    tooltip="Computes some things twice to save memory. auto: where a step would not fit without.",
                    **ADVANCED,
                ),
                io.Int.Input(
                    "validate_every",
                    default=100,
                    min=0,
                    max=100_000,
                    tooltip="Steps between previews of how the network sees the clip, 0 to 100000; 0 shows none.",
                    **ADVANCED,
                ),
                io.String.Input(
                    "prompt",
                    default="",
                    optional=True,
                    tooltip="The sentence in words, kept in the weights file as a note. Changes nothing in tuning.",
                    **ADVANCED,
                ),
                io.Float.Input(
                    "fps",
                    default=0.0,
                    min=0.0,
                    max=1000.0,
                    step=0.01,
                    optional=True,
                    tooltip="The clip's frames a second, kept in the weights file as a note; 0 where unknown.",
                    **ADVANCED,
                ),
            ],
            outputs=[
                io.Model.Output("model", display_name="model", tooltip="The tuned model."),
                TunedWeightsSocket.Output(
                    "tuned_weights",
                    display_name="tuned_weights",
                    tooltip="What tuning changed, to be saved or put onto another checkpoint.",
                ),
                LossMapSocket.Output(
                    "loss_map", display_name="loss_map", tooltip="The loss of every step, for Plot Loss Graph."
                ),
            ],
            **known(io.Schema, search_aliases=["tune a video", "one-shot tuning", "train on video", "fine-tune video"]),
        )

    @classmethod
    def execute(
        cls,
        model,
        latents,
        positive,
        steps,
        learning_rate,
        seed,
        mixed_precision,
        gradient_checkpointing,
        validate_every,
        prompt="",
        fps=0.0,
    ) -> io.NodeOutput:
        raise NotImplementedError
