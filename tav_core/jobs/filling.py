"""Jobs that add frames to a video: in between, onwards, backwards, or to close a loop."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.lora import Lora
from ..errors import Overflowed, TavError, shown
from ..files import ensure_writable
from ..fill import Filling
from ..inflate import InflatedUNet, inflate
from ..known_frames import Known
from ..memory import decoding_memory, inference_memory
from ..precision import sampling_precision
from ..prediction import NoisePredictor, PredictNoise, guided
from ..progress import counted
from ..prompt import Prompt
from ..tuned import TunedWeights
from ..tuned_facts import TunedFacts, missing_names, sibling_note
from ..video.pixels import to_float
from ..video.read import Clip, read_frames
from ..video.sound import Sound, read_sound
from ..video.write import write_video
from ..windows import Windows
from .base import Base, MemoryPlan, ensure_prompt, open_as_tuned, unseen_words
from .edit_config import check_sampling
from .editing import selection_as_tuned
from .fill_tasks import Between, Filled, Onwards
from .made_with import Made, made_of, made_with

ALL = 2**20
"""More frames than a clip has."""
MOST_FPS = 1000


@dataclass(frozen=True)
class FillConfig:
    """How frames are added.

    prompt: describes the video; None takes the one the weights were tuned with, unless it is another video
        whose file says with which it was made. Other fields as in `EditConfig`; window None takes that of the tuning.
    """

    prompt: str | None = None
    num_steps: int = 50
    guidance_scale: float = 1.0
    negative_prompt: str = ""
    seed: int = 0
    strength: float = 1.0
    window: int | None = None
    precision: str = "auto"

    def __post_init__(self):
        check_sampling(self)
        Windows(self.window or 0)


@dataclass(eq=False)
class FillingRun:
    """A video that is ready to get more frames, made by `prepare_filling`.

    encoded: (1, c, f, h, w), its latents. notes: warnings for the user; remarks: what else to tell.
    comment, sound: for the video; None if nothing is heard.
    """

    task: Between | Onwards
    clip: Clip
    checkpoint: Checkpoint
    unet: InflatedUNet
    encoded: Tensor
    prompts: tuple[Prompt, Prompt]
    config: FillConfig
    windows: Windows
    output: Path
    memory: MemoryPlan
    notes: list[str]
    remarks: list[str]
    comment: str
    sound: Sound | None
    seconds: float = field(default=0.0)

    @property
    def count(self) -> int:
        """The frames of the result."""
        return len(self.task.places(len(self.clip.frames)))

    @property
    def added(self) -> int:
        """How many of them are new."""
        return self.count - len(self.clip.frames)

    @property
    def filling(self) -> Filling:
        return Filling(self.config.num_steps, self.config.seed, self.windows)

    def predictor(self, known: Known) -> PredictNoise:
        """Predicts the noise in a video of which these frames are known, guided by the prompts."""
        shown = known if self.unet.inflation.known_frames else None
        cond, uncond = (
            NoisePredictor(self.unet, prompt, self.checkpoint.scheduler, known=shown) for prompt in self.prompts
        )
        return guided(cond, uncond, self.config.guidance_scale)

    def run(self, on_step: Callable | None = None) -> Path:
        """Makes the frames and writes the video, in which its own frames are as they were; returns its path.

        on_step: called as (step, total, part=, ...); part is "guess" after each frame of a guess by optical flow, then
            "frames" after each DDIM step, with timestep= and latents=, too, then "writing" after each frame.
        """
        began = time.perf_counter()
        try:
            filled = self.task.latents(self, on_step)
        except Overflowed as error:
            raise TavError(f"The network overflowed {self.unet.dtype}; use precision bf16 or no instead.") from error
        frames = counted(self._frames(filled), self.count, on_step, "writing")
        write_video(self.output, frames, self.task.fps(self.clip.fps), comment=self.comment, sound=self.sound)
        self.seconds = time.perf_counter() - began
        return self.output

    def _frames(self, filled: Filled) -> Iterator[Tensor]:
        places = self.task.places(len(self.clip.frames))
        new = [number for number, place in enumerate(places) if place is None]
        made = filled.new_frames(new, self.checkpoint.decoded_frames)
        for place in places:
            yield next(made) if place is None else to_float(self.clip.frames[place])


def prepare_filling(
    clip: str | os.PathLike,
    weights: str | os.PathLike,
    checkpoint: str | os.PathLike | Base,
    output: str | os.PathLike,
    task: Between | Onwards,
    *,
    config: FillConfig = FillConfig(),
    changed: Mapping = {},
    loras: Sequence[Lora] = (),
    prediction_type: str | None = None,
    device: torch.device,
    on_step: Callable | None = None,
) -> FillingRun:
    """Checks the inputs, reads the video, opens checkpoint and weights, and encodes; nothing is sampled yet.

    clip: the clip that the weights were tuned on, whose frames are selected as for tuning, or any other video, such as
        an edit, of which all frames are taken; except for the fields of Selection in `changed`.
    on_step: called as (step, total, part="encoding") after each frame that is encoded.
    Raises TavError for invalid inputs, and for weights tuned without known_frames where there is no guess.
    """
    clip, weights, output = Path(clip), Path(weights), Path(output)
    tuned = TunedWeights.load(weights)
    if not tuned.facts.inflation.known_frames:
        _check_guess(task, config, weights.name)
    if output.suffix.lower() != ".mp4":
        raise TavError(f"The video's name is {output.name!r}, but it will be an mp4; give it the suffix .mp4.")
    if output.is_dir() or (output.exists() and any(output.samefile(each) for each in (clip, weights) if each.exists())):
        raise TavError(f"The result would take the place of {output}; choose another name.")
    made = made_of(clip)
    as_tuned = clip.name == tuned.facts.clip and not _made_by(made, weights)
    said = made.prompt if made and config.prompt is None and not as_tuned else None
    prompt = next((each for each in (config.prompt, said) if each is not None), tuned.facts.prompt)
    if not isinstance(prompt, str):
        reason = "were tuned with a prompt per frame" if prompt else "do not say what the clip shows"
        raise TavError(f"{weights.name}'s weights {reason}; give --prompt.")
    ensure_prompt(prompt, "The prompt")
    ensure_writable(output.parent)
    frames = _read(clip, tuned.facts, changed, as_tuned)
    windows = _windows(config, tuned.facts, task, len(frames.frames))
    task.check(len(frames.frames), windows)
    if not task.fps(frames.fps) <= MOST_FPS:
        raise TavError(
            f"The result would have {task.fps(frames.fps):g} frames a second, but a video has at most {MOST_FPS}; give "
            "a lower --factor, or --stride."
        )
    base = open_as_tuned(
        checkpoint if isinstance(checkpoint, Base) else Path(checkpoint), tuned.facts, loras, prediction_type
    )
    opened, dtype = base.checkpoint, sampling_precision(config.precision, device)
    unet = inflate(opened.unet, tuned.facts.inflation)
    tuned.apply(unet, config.strength)
    unet.to(device, dtype)
    opened.to(device)  # the VAE stays in float32, as for edits
    prompts = opened.encode_prompt(prompt), opened.encode_prompt(config.negative_prompt)
    encoded = opened.encode_video(frames.frames, on_step=on_step).float()
    batch = 2 if config.guidance_scale > 1 else 1
    shape = (batch, encoded.shape[1], task.seen(len(frames.frames), windows), *encoded.shape[-2:])
    needed = max(inference_memory(unet, shape), decoding_memory(opened.vae, *encoded.shape[-2:]))
    notes = [*frames.notes, *unseen_words(opened, [prompt, config.negative_prompt])]
    notes += [note for note in [sibling_note(tuned.facts, base.path.name, base.fingerprint)] if note]
    if absent := missing_names(tuned.facts.loras, {lora.name for lora in base.loras}, "file"):
        notes.append(f"The weights were tuned with {absent}, which is missing here; add --lora to match.")
    if absent := missing_names(tuned.facts.controls, (), "network"):
        notes.append(f"The weights were tuned with {absent}, which new frames have no images for.")
    if (count := len(frames.frames)) != tuned.facts.frames:
        notes.append(f"{clip.name} is read with {count} frames; the weights were tuned on {tuned.facts.frames}.")
    return FillingRun(
        task,
        frames,
        opened,
        unet,
        encoded,
        prompts,
        config,
        windows,
        output,
        MemoryPlan.on(device, needed),
        notes,
        [f"The prompt is the one the video was made with: {shown(said)}."] if said is not None else [],
        made_with(prompt, config, weights),
        _sound(clip, frames, task),
    )


def _sound(path: Path, clip: Clip, task: Between | Onwards) -> Sound | None:
    """What one hears in a file at the times of all frames of the result, those before and after the clip's as well."""
    fps, places = task.fps(clip.fps), task.places(len(clip.frames))
    return read_sound(path, clip.start - places.index(0) / fps, len(places) / fps)


def _check_guess(task: Between | Onwards, config: FillConfig, weights: str) -> None:
    """Raises TavError if frames would start from noise."""
    needs = f"{weights} was tuned without known frames, so it cannot make frames from noise; "
    if task.guess == "none":
        raise TavError(f"{needs}leave out --guess none, or tune the clip with --known-frames.")
    if not Filling(config.num_steps).skipped(task.trust):
        raise TavError(
            f"{needs}--trust {task.trust:g} of {config.num_steps} steps replaces none, so raise --trust or --steps, or "
            "tune the clip with --known-frames."
        )


def _made_by(made: Made | None, weights: Path) -> bool:
    """Whether these weights made the video, which then is not the one that they were tuned on."""
    return made is not None and made.weights == Path(os.path.abspath(weights)).name


def _read(clip: Path, facts: TunedFacts, changed: Mapping, as_tuned: bool) -> Clip:
    """The clip's frames as for tuning, or all frames of another video; except for what is changed."""
    if as_tuned:
        return selection_as_tuned(clip, facts, changed).read()
    size = tuple(facts.size) if isinstance(facts.size, list) else facts.size
    own = {name: value for name, value in (("size", size), ("fit", facts.fit)) if value}
    options = own | {"stride": 1} | dict(changed)
    count = options.pop("frames", None)
    return read_frames(clip, ALL if count is None else count, at_most=count is None, as_bytes=True, **options)


def _windows(config: FillConfig, facts: TunedFacts, task: Between | Onwards, num_frames: int) -> Windows:
    """The window asked for, or that of the tuning where it divides what the network sees."""
    length = config.window
    if length is None:
        tuned = (facts.config or {}).get("window", 0)
        length = tuned if isinstance(tuned, int) and 2 <= tuned < task.seen(num_frames, Windows()) else 0
    return Windows(length, task.overlap(length))
