"""Edits a clip with tuned weights: inverts it once, samples each prompt from there, and writes down what was done."""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from .checkpoint import Checkpoint
from .control import Control
from .control_choice import ControlChoice
from .ddim import NoisePredictor, guided, invert, sample
from .edit_config import EditConfig
from .errors import TavError
from .files import atomic_path, ensure_writable
from .inflate import InflatedUNet, inflate
from .inversion import Inversion, digest_of, inversion_key
from .jobs import MemoryPlan, Selection, ensure_prompt, open_base, unseen_words, versions, with_prediction
from .lora import Lora
from .memory import decoding_memory, inference_memory
from .metrics import peak_signal_to_noise
from .names import file_names
from .original_weights import load_weights
from .sheet import contact_sheet, shown_frames
from .video import Clip, write_video

INVERSION, RECONSTRUCTION, SHEET, MANIFEST = "inversion.safetensors", "reconstruction", "sheet.png", "manifest.json"


@dataclass(frozen=True)
class Edit:
    """One prompt and the video that was made of it."""

    prompt: str
    path: Path
    seconds: float


@dataclass(frozen=True)
class EditReport:
    """psnr: of the reconstruction against the source frames, in dB; None without an inversion."""

    edits: list[Edit]
    psnr: float | None
    sheet: Path
    manifest: Path


@dataclass(eq=False)
class EditRun:
    """An edit that is ready to start, made by `prepare_edit`.

    kept: the inversion that an earlier edit left in `folder`, if it is of the same clip, weights and settings.
    laid_over: the facts of the LoRAs and controls in use.
    notes: sentences that the user should read. embeds: of each text, by the text, (1, n, d).
    """

    selection: Selection
    clip: Clip
    checkpoint: Checkpoint
    unet: InflatedUNet
    latents: Tensor
    embeds: dict[str, Tensor]
    prompts: Sequence[str]
    config: EditConfig
    folder: Path
    sources: dict[str, Path]
    laid_over: dict[str, list[dict]]
    controls: tuple[Control, ...]
    key: str
    kept: Inversion | None
    memory: MemoryPlan
    notes: list[str]
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, on_step: Callable | None = None) -> EditReport:
        """Inverts or takes the kept inversion, samples each prompt, and writes videos, sheet and manifest.

        on_step: called as (step, total, part=, timestep=, latents=) after each step of DDIM; part is "inversion",
            "reconstruction" or the prompt.
        """
        rows, psnr, noise = [("source", self.clip.frames)], None, None
        for name in (MANIFEST, SHEET):  # they must never tell of other videos than lie beside them
            (self.folder / name).unlink(missing_ok=True)
        if self.config.from_inversion:
            inversion = self._inversion(on_step)
            noise = inversion.noise.to(self.latents)
            with self._timed("reconstruction"):
                frames = self._write(inversion.reconstruction, RECONSTRUCTION)
            psnr = peak_signal_to_noise(frames, self.clip.frames)
            rows.append((f"reconstruction, {psnr:.1f} dB", frames[shown_frames(len(frames))]))
        edits = []
        taken = [RECONSTRUCTION, *(path.stem for path in self.sources.values())]
        for prompt, name in zip(self.prompts, file_names(self.prompts, taken=taken), strict=True):
            began = time.perf_counter()
            frames = self._write(self._sampled(prompt, noise, on_step), name)
            edits.append(Edit(prompt, self.folder / f"{name}.mp4", time.perf_counter() - began))
            rows.append((prompt, frames[shown_frames(len(frames))]))
        with self._timed("sheet"):
            contact_sheet(self.folder / SHEET, rows)
        report = EditReport(edits, psnr, self.folder / SHEET, self.folder / MANIFEST)
        with atomic_path(report.manifest) as temporary:
            temporary.write_text(json.dumps(self._manifest(report), indent=2) + "\n", encoding="utf-8")
        return report

    def _inversion(self, on_step: Callable | None) -> Inversion:
        if self.kept:
            return self.kept
        predict_noise, steps = self._predictor(self.config.inversion_prompt), self.config.inversion_steps
        scheduler = self.checkpoint.scheduler
        with self._timed("inversion"):
            on_inversion = on_step and partial(on_step, part="inversion")
            noise = invert(predict_noise, self.latents, scheduler, steps, on_step=on_inversion)[-1]
        with self._timed("reconstruction"):
            on_reconstruction = on_step and partial(on_step, part="reconstruction")
            reconstruction = sample(predict_noise, noise, scheduler, steps, on_step=on_reconstruction)
        if not (noise.isfinite().all() and reconstruction.isfinite().all()):
            raise TavError(
                f"The inversion left the range of {self.unet.unet.dtype}; edit with precision bf16 or no instead."
            )
        inversion = Inversion(noise, reconstruction)
        inversion.save(self.folder / INVERSION, self.key)
        return inversion

    def _sampled(self, prompt: str, noise: Tensor | None, on_step: Callable | None) -> Tensor:
        # On the CPU, so that every device draws the same.
        generator = torch.Generator().manual_seed(self.config.seed)
        if noise is None:
            noise = torch.randn(self.latents.shape, generator=generator).to(self.latents.device)
        texts = self._predictor(prompt), self._predictor(self.config.negative_prompt)
        return sample(
            guided(*texts, self.config.guidance_scale),
            noise,
            self.checkpoint.scheduler,
            self.config.num_steps,
            eta=self.config.eta,
            generator=generator,
            on_step=on_step and partial(on_step, part=prompt),
        )

    def _predictor(self, text: str) -> NoisePredictor:
        return NoisePredictor(self.unet, self.embeds[text], self.checkpoint.scheduler, self.controls)

    def _write(self, latents: Tensor, name: str) -> Tensor:
        """Decodes latents, writes them as a video, and returns the frames."""
        frames = self.checkpoint.decode_video(latents)
        write_video(self.folder / f"{name}.mp4", frames, self.clip.fps)
        return frames

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - began

    def _manifest(self, report: EditReport) -> dict:
        """All that it takes to do this again; paths are relative to the folder."""
        sources = {name: _relative(path, self.folder) for name, path in self.sources.items()}
        inverted = self.config.from_inversion
        return {
            **sources,
            **self.laid_over,
            "selection": self.selection.facts() | {"fps": self.clip.fps},
            "settings": asdict(self.config) | {"device": str(self.latents.device), "dtype": str(self.unet.unet.dtype)},
            "prediction_type": self.checkpoint.scheduler.config.prediction_type,
            "inversion": {"path": INVERSION, "reused": self.kept is not None} if inverted else None,
            "reconstruction": f"{RECONSTRUCTION}.mp4" if inverted else None,
            "reconstruction_psnr": report.psnr,
            "edits": [
                {
                    "prompt": edit.prompt,
                    "path": edit.path.name,
                    "seed": self.config.seed,
                    "seconds": round(edit.seconds, 3),
                }
                for edit in report.edits
            ],
            "sheet": SHEET,
            "seconds": {part: round(seconds, 3) for part, seconds in self.seconds.items()},
            "versions": versions(),
        }


def prepare_edit(
    clip: str | os.PathLike,
    weights: str | os.PathLike,
    checkpoint: str | os.PathLike | None,
    prompts: Sequence[str],
    folder: str | os.PathLike,
    *,
    config: EditConfig,
    loras: Sequence[Lora] = (),
    controls: Sequence[ControlChoice] = (),
    prediction_type: str | None = None,
    device: torch.device,
    **selection,
) -> EditRun:
    """Checks everything, reads the clip, opens checkpoint and weights, and encodes; nothing is sampled yet.

    weights: a file of tuned weights, or a result of the original Tune-A-Video; `checkpoint` may be None for one that
        lies there whole.
    loras, prediction_type: as `open_base` takes them. controls: hold inversion and edits to pictures.
    selection: fields of `Selection` that shall differ from what the weights were tuned on.
    Raises TavError for what is wrong with the inputs, also for weights that do not fit the checkpoint.
    """
    folder, seconds = Path(folder), {}
    if not prompts:
        raise TavError("There is no prompt; give at least one sentence to edit the clip by.")
    for number, prompt in enumerate(prompts, 1):
        ensure_prompt(prompt, f"Prompt {number} of {len(prompts)}")
    tuned = load_weights(weights, checkpoint)
    checkpoint = checkpoint or weights  # what the original saved is a checkpoint, too
    ensure_writable(folder)
    _spare(folder, Path(clip), Path(weights), Path(checkpoint))
    began = time.perf_counter()
    chosen = _selection(Path(clip), tuned.facts, selection)
    frames = chosen.read()
    opened, base = open_base(checkpoint, loras=loras, prediction_type=prediction_type)
    if prediction_type is None and base == tuned.facts.get("base_fingerprint"):
        opened = with_prediction(opened, tuned.facts.get("prediction_type", opened.scheduler.config.prediction_type))
    inflation = {name: tuned.facts[name] for name in ("attention", "group_norm", "temporal") if name in tuned.facts}
    unet = inflate(opened.unet, **inflation)
    tuned.apply(unet, config.strength)
    unet.to(device, config.dtype(device))
    controlled = tuple(control.open(chosen, unet.unet, device, config.dtype(device)) for control in controls)
    opened.text_encoder.to(device)
    opened.vae.to(device)  # and stays in float32, for many a VAE of SD 1.5 overflows in fp16
    seconds["loading"] = time.perf_counter() - began

    began = time.perf_counter()
    texts = list(dict.fromkeys([config.inversion_prompt, config.negative_prompt, *prompts]))
    # one by one: in a batch, a text's last digits depend on its neighbours, and the inversion would not be known again
    embeds = {text: opened.encode_prompt(text) for text in texts}
    latents = opened.encode_video(frames.frames).float()
    seconds["encoding"] = time.perf_counter() - began
    key = inversion_key(
        latents,
        embeds[config.inversion_prompt],
        *(tensor for _, tensor in sorted(tuned.tensors.items())),
        *(control.pictures for control in controlled),
        controls=[[digest_of(c.network), c.strength, c.start, c.end] for c in controlled],
        base=base,
        unet=digest_of(opened.unet),
        inflation=inflation,
        steps=config.inversion_steps,
        strength=config.strength,
        dtype=str(unet.unet.dtype),
        scheduler={name: value for name, value in opened.scheduler.config.items() if not name.startswith("_")},
    )
    batch = 2 if config.guidance_scale > 1 else 1  # with the negative prompt
    sampling = inference_memory(unet, (batch, *latents.shape[1:]))
    laid_over = {
        "loras": [lora.facts() for lora in loras],
        "controls": [control.facts() for control in controls],
    }
    notes = unseen_words(opened, texts) + _differences(tuned.facts, Path(checkpoint).name, base, laid_over)
    return EditRun(
        selection=chosen,
        clip=frames,
        checkpoint=opened,
        unet=unet,
        latents=latents,
        embeds=embeds,
        prompts=prompts,
        config=config,
        folder=folder,
        sources={"clip": Path(clip), "weights": Path(weights), "checkpoint": Path(checkpoint)},
        laid_over=laid_over,
        controls=controlled,
        key=key,
        kept=Inversion.load(folder / INVERSION, key) if config.from_inversion else None,
        memory=MemoryPlan.on(device, max(sampling, decoding_memory(opened.vae, *latents.shape[-2:]))),
        notes=notes,
        seconds=seconds,
    )


def _differences(facts: dict, checkpoint: str, base: str, laid_over: dict[str, list[dict]]) -> list[str]:
    """A sentence for each thing that is otherwise than it was while the weights were tuned."""
    notes = []
    if (tuned_on := str(facts.get("base_fingerprint"))) != base:
        notes.append(
            f"The weights were tuned on {facts.get('checkpoint', 'a checkpoint')} (fingerprint {tuned_on[:12]}), and "
            f"{checkpoint} is another one ({base[:12]}); edits may follow the clip less closely."
        )
    for kind, name in (("loras", "file"), ("controls", "network")):
        now = [used[name] for used in laid_over[kind]]
        if absent := [used[name] for used in facts.get(kind, []) if used[name] not in now]:
            option = {"loras": "--lora", "controls": "--control"}[kind]
            notes.append(
                f"The weights were tuned with {', '.join(absent)} in place, and this edit is without; give {option} to "
                "edit with it, too."
            )
    return notes


def _spare(folder: Path, *sources: Path) -> None:
    """Refuses a folder in which a result would take the name of what it is made from."""
    for name in (INVERSION, f"{RECONSTRUCTION}.mp4", SHEET, MANIFEST):
        if any((folder / name).absolute() == source.absolute() for source in sources):
            raise TavError(f"{folder / name} would be overwritten by a result of that name; choose another folder.")


def _selection(clip: Path, facts: dict, changed: dict) -> Selection:
    """The frames that the weights were tuned on, but for what is `changed`."""
    names = ("frames", "size", "start", "stride", "fit")
    return Selection(clip, **{name: facts[name] for name in names if name in facts} | changed)


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive of Windows
        return path.absolute().as_posix()
