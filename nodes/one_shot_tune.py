from comfy_api.latest import io

from ..tav_core.errors import TavError, need, shown
from .host.graph import clip_behind, controls_behind, loras_behind, prompt_behind
from .host.versions import known
from .host.weights_folder import runs_folder
from .sockets import (
    ADVANCED,
    CATEGORY,
    KEPT_SEED,
    LossMapSocket,
    TunedWeightsSocket,
    checked,
    place_in_graph,
    ui_values,
)

MOST_STEPS = 100_000
HIGH_RATE = 5e-3  # five times what suits networks as small as the miniature
UNKNOWN_FPS = 8.0


class OneShotTune(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OneShotTune",
            display_name="One-Shot Tune",
            category=CATEGORY,
            description="Tunes an inflated model on one clip and the prompt that describes it, so that other prompts "
            "give videos with the clip's motion. Queue the same graph again to resume an interrupted run; a finished "
            "one is not repeated, and goes on where it ended if you ask for more steps.",
            inputs=[
                io.Model.Input("model", tooltip="A model from Inflate UNet; tuned weights already on it are ignored."),
                io.Latent.Input("latents", tooltip="The clip, from VAE Encode; at least 2 frames."),
                io.Conditioning.Input(
                    "positive",
                    tooltip="The prompt that describes the clip: exactly one, without area, mask or timestep range. "
                    "ControlNets and T2I-Adapters on it are used.",
                ),
                io.Int.Input(
                    "steps",
                    default=500,
                    min=1,
                    max=MOST_STEPS,
                    tooltip="Tuning steps, 1 to 100000; 300 to 500 suit most clips. With too few, the motion is not "
                    "learned; with too many, the model stops following new prompts.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=3e-5,
                    min=1e-8,
                    max=0.1,
                    step=1e-6,
                    round=False,
                    tooltip="AdamW's learning rate, 1e-8 to 0.1; the paper uses 3e-5.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    tooltip="Seed of the noise and timestep drawn at each step, 0 to 2^63 - 1.",
                    **KEPT_SEED,
                ),
                io.Combo.Input(
                    "mixed_precision",
                    options=["auto", "no", "bf16", "fp16"],
                    default="auto",
                    tooltip="Precision of each step. auto: the model's compute precision, on a GPU usually half "
                    "precision; no: float32.",
                    **ADVANCED,
                ),
                io.Combo.Input(
                    "gradient_checkpointing",
                    options=["auto", "on", "off"],
                    default="auto",
                    tooltip="Recomputes activations to save memory. auto: only if a step would not fit otherwise.",
                    **ADVANCED,
                ),
                io.Int.Input(
                    "validate_every",
                    default=100,
                    min=0,
                    max=100_000,
                    tooltip="Steps between animated previews of the clip as the network currently denoises it, 0 to "
                    "100000; 0 shows none.",
                    **ADVANCED,
                ),
                io.String.Input(
                    "prompt",
                    default="",
                    optional=True,
                    tooltip="The prompt as text, saved as metadata in the weights file; if empty, it is read from the "
                    "graph. Does not affect tuning.",
                    **ADVANCED,
                ),
                io.Float.Input(
                    "fps",
                    default=0.0,
                    min=0.0,
                    max=1000.0,
                    step=0.01,
                    optional=True,
                    tooltip="The clip's frame rate, 0 to 1000, saved as metadata in the weights file; 0 if unknown.",
                    **ADVANCED,
                ),
                io.String.Input(
                    "snapshots",
                    default="",
                    optional=True,
                    tooltip="Steps after which the weights are kept as well, such as 100, 200, 300. Asking for so many "
                    "steps later gives them without tuning, so that you can compare.",
                    **ADVANCED,
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Decodes the previews, at a small size; without one, they show the latents' colours, "
                    "blurred. Does not affect tuning.",
                ),
                io.Float.Input(
                    "image_share",
                    default=0.0,
                    min=0.0,
                    max=0.9,
                    step=0.05,
                    optional=True,
                    tooltip="Share of the steps, 0 to 0.9, in which frames are separate images, without attention, "
                    "convolution or norms across frames (joint training of Ho et al. 2022); 0 for none.",
                    **ADVANCED,
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The tuned model."),
                TunedWeightsSocket.Output(
                    "tuned_weights",
                    display_name="tuned_weights",
                    tooltip="What tuning changed, to save or to apply to another checkpoint.",
                ),
                LossMapSocket.Output(
                    "loss_map", display_name="loss_map", tooltip="The loss of every step, for Plot Loss Graph."
                ),
                io.Image.Output(
                    "loss_graph",
                    display_name="loss_graph",
                    tooltip="A graph of the loss of every step and its smoothed trend, for Preview Image.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            **known(
                io.Schema,
                search_aliases=[
                    "Tune-A-Video",
                    "TuneAVideo",
                    "one-shot tuning",
                    "train on video",
                    "train UNet",
                    "fine-tune video",
                    "finetune",
                    "video2video",
                    "vid2vid",
                    "video to video",
                ],
            ),
        )

    @classmethod
    def validate_inputs(cls, snapshots: str | None = None) -> bool | str:
        return checked(_steps_in, snapshots)

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
        snapshots="",
        vae=None,
        image_share=0.0,
    ) -> io.NodeOutput:
        from comfy.model_management import InterruptProcessingException

        from ..tav_core.loss_graph import loss_graph
        from ..tav_core.tune import TuneConfig
        from .host.differences import warn
        from .host.inflate import with_tuned
        from .host.latents import check_clean, frames_of
        from .host.memory import readable_errors
        from .host.previews import NOTHING, Decoder, as_animation, show
        from .host.progress import Progress
        from .host.tuning import tune_model

        need(1 <= steps <= MOST_STEPS, "steps", steps, f"from 1 to {MOST_STEPS}")  # the host does not check links
        samples = frames_of(latents, least=2, masked=False)
        check_clean(latents, model)
        config = TuneConfig(
            num_steps=steps,
            learning_rate=learning_rate,
            seed=seed,
            mixed_precision=mixed_precision,
            gradient_checkpointing={"on": True, "off": False}.get(gradient_checkpointing, "auto"),
            checkpoint_every=max(1, min(50, steps // 10)),
            image_share=image_share,
        )
        here = place_in_graph(cls)
        decoder, preview = Decoder(model, vae), dict(NOTHING)
        progress = Progress(steps, here[1], "One-Shot Tune")
        progress.say("Preparing")
        note = None
        if learning_rate > HIGH_RATE:
            note = warn(
                f"The learning rate {learning_rate:g} is far above the paper's 3e-5; tuning will probably diverge.",
                here[1],
            )

        def on_start(step: int) -> None:
            if step:
                progress.say(f"Resumed at step {step} of {steps}")
            progress.start_at(step)

        def on_step(step: int, total: int, *, loss: float, estimate) -> None:
            if validate_every and step % validate_every == 0:
                preview.update(as_animation(decoder.images(estimate()), fps or UNKNOWN_FPS))
                show(preview, here[1])
            progress.at(step, f"loss {loss:.4f}")

        metadata = {"prompt": prompt or prompt_behind(*here), "fps": fps or None}
        metadata |= {"loras": loras_behind(*here), "controls": controls_behind(*here), **clip_behind(*here)}
        try:
            with readable_errors():
                tuned, losses, report = tune_model(
                    model,
                    samples,
                    positive,
                    config,
                    root=runs_folder(),
                    metadata=metadata,
                    on_start=on_start,
                    on_step=on_step,
                    snapshots=_steps_in(snapshots),
                )
        except InterruptProcessingException:
            progress.say(f"Stopped at step {progress.step} of {steps}. Run again to resume.")
            raise
        finally:
            progress.close()
        done = "Already tuned" if report["how"] == "already tuned" else "Tuned"
        progress.say(f"{done}, {len(losses)} steps, loss {losses[-1]:.4f}." + (f" {note}" if note else ""))
        values = ui_values(
            losses=losses, steps=len(losses), final_loss=losses[-1], frames=len(samples), note=note, **report
        )
        graph = loss_graph(losses)[None]
        return io.NodeOutput(with_tuned(model, tuned), tuned, {"loss": losses}, graph, ui=preview | values)


def _steps_in(snapshots: str) -> set[int]:
    """The step counts in a list such as "100, 200"."""
    words = snapshots.replace(",", " ").split()
    if not all(word.isdecimal() and len(word) < 9 and int(word) > 0 for word in words):
        raise TavError(f"The snapshots are {shown(snapshots)}; give step counts, such as 100, 200, 300.")
    return {int(word) for word in words}
