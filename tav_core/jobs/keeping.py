"""What an edit keeps from its clip, as a job: checked before any long work, and ready when the inversion is."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor

from ..checkpoints.checkpoint import Checkpoint
from ..errors import TavError, shown
from ..layout import Layout, Tokens, align
from ..lend import lent
from ..masks import latent_mask, word_mask
from ..prediction import NoisePredictor, PredictNoise, guided
from ..reweight import weights_in
from ..source import Dials, Lender, SourcePath
from ..windows import Windows
from .base import ensure_prompt
from .edit_config import EditConfig
from .mask_choice import MaskChoice
from .selection import Selection


@dataclass(frozen=True, eq=False)
class Keeping:
    """What an edit keeps, made by `prepare_keeping`.

    source_prompt: the clip's; None if nothing needs it. layouts: of each prompt; empty if the layout is not kept.
    images: of the mask, (f or 1, h, w) in 0..1; None for one from words, at these `places` of the clip's prompt.
    """

    dials: Dials = Dials()
    source_prompt: str | None = None
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    mask: MaskChoice | None = None
    images: Tensor | None = None
    places: Sequence[int] = ()

    @property
    def remarks(self) -> list[str]:
        """For the user: how the words of each prompt are aligned with the clip's."""
        ways = {
            True: "each word takes the place of the clip's word, as both prompts have the same structure",
            False: "words of both prompts keep their place",
        }
        return [f"{shown(prompt)}: {ways[layout.replaces]}." for prompt, layout in self.layouts.items()]

    def mask_on(self, path: SourcePath, predict_source: NoisePredictor | None, windows: Windows) -> Tensor | None:
        """The mask in the latents' size, (1, 1, f, h, w); None without one."""
        if self.mask is None:
            return None
        frames, *size = path.clean.shape[2:]
        if self.images is not None:
            return latent_mask(self.images.to(path.clean), frames, tuple(size), self.mask.grow)
        found = word_mask(predict_source, path, self.places, windows=windows)
        return latent_mask(found, frames, tuple(size), self.mask.grow)

    @contextmanager
    def guided(
        self,
        cond: NoisePredictor,
        uncond: NoisePredictor,
        guidance_scale: float,
        prompt: str,
        path: SourcePath | None,
        predict_source: NoisePredictor | None,
    ) -> Iterator[PredictNoise]:
        """In this context, the guided predictor of an edit with this prompt, and with what it borrows."""
        if not self.dials:
            yield guided(cond, uncond, guidance_scale)
            return
        with lent(cond.unet) as loan:
            lender = Lender(loan, predict_source, path, self.dials)
            yield guided(lender.borrowing(cond, self.layouts.get(prompt)), lender.borrowing(uncond), guidance_scale)


def prepare_keeping(
    config: EditConfig,
    mask: MaskChoice | None,
    selection: Selection,
    tuned_prompt: str | list | None,
    prompts: Sequence[str],
    checkpoint: Checkpoint,
    notes: list[str],
) -> Keeping:
    """Checks what an edit keeps, and reads the mask's images. Raises TavError for anything that cannot be kept.

    notes: takes warnings about the images.
    """
    if mask and not config.from_inversion:
        raise TavError("A mask keeps the clip outside of it, so the edit has to start from the inverted clip.")
    tuned_prompt = tuned_prompt if isinstance(tuned_prompt, str) else None  # the graph tunes with one per frame, too
    prompt, needed = config.source_prompt or tuned_prompt, bool(config.dials or (mask and mask.words))
    if needed and not prompt:
        raise TavError(
            "What an edit keeps depends on the clip's prompt, which these weights do not name; give it with "
            "--source-prompt."
        )
    for text, what in ((prompt if needed else None, "The clip's prompt"), (mask and mask.words, "The mask's word")):
        if text:
            ensure_prompt(text, what)
    tokens = checkpoint.tokens(prompt if needed else "")
    places = tokens.find(checkpoint.tokens(mask.words)) if mask else []
    if mask and mask.words and not places:
        raise TavError(
            f"The mask is where {shown(mask.words)} is in the clip, but the clip's prompt is {shown(prompt)}; give "
            "words of it."
        )
    return Keeping(
        dials=config.dials,
        source_prompt=prompt if needed else None,
        layouts=_layouts(checkpoint, tokens, prompts, config.reweight) if config.keep_layout else {},
        mask=mask,
        images=mask and mask.read(selection, notes),
        places=places,
    )


def _layouts(
    checkpoint: Checkpoint, source: Tokens, prompts: Sequence[str], reweight: Mapping[str, float]
) -> dict[str, Layout]:
    """How the words of each prompt align with the clip's."""
    edits = {prompt: checkpoint.tokens(prompt) for prompt in prompts}
    weights = weights_in([*edits.values()], reweight, checkpoint.tokens)
    return {prompt: align(source, tokens, weights) for prompt, tokens in edits.items()}
