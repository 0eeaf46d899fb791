"""Inflates a MODEL, which then treats its batch as the frames of a video: tav_core/inflate.py on ComfyUI's UNet.

The underlying network is never changed for good. Attention uses the host's patches; the rest uses hooks that exist
only while this MODEL computes, so they never affect clones, other users of the same weights, or the next run after an
interruption.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from comfy.ldm.modules.attention import optimized_attention
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from einops import rearrange
from torch import Tensor, nn

from ...tav_core.addition import PLACES
from ...tav_core.attention import attend_across_frames, attended_frames
from ...tav_core.borrow import Loan
from ...tav_core.errors import TavError
from ...tav_core.inflation import Inflation, difference_names
from ...tav_core.tuned import TunedWeights
from .added import AddedBlock, AddedWeights, added_model
from .borrow import LOAN, Borrowing
from .known_frames import showing_known
from .lora import check_loras
from .noise import guarded
from .replacements import marked, others, replacements
from .saving import set_savable
from .sd_model import (
    HOST_LAYERS,
    block_paths,
    blocks_of,
    compute_dtype,
    family_of,
    host_names,
    modules_by_path,
    residual_norms,
    transformer_places,
)

KEY = "tune_a_video"
FRAMES = "tune_a_video_frames"


@dataclass(frozen=True, eq=False)
class InflatedModel:
    """How a MODEL is inflated, and the tuned weights on it; travels with it as an attachment."""

    inflation: Inflation = Inflation()
    tuned: TunedWeights | None = None
    strength: float = 1.0


def inflated_of(patcher: ModelPatcher) -> InflatedModel | None:
    """The MODEL's inflation and tuned weights; None if it is not inflated."""
    return patcher.get_attachment(KEY)


def inflate(patcher: ModelPatcher, inflation: Inflation = Inflation(), **changes) -> ModelPatcher:
    """A clone of the MODEL that attends across frames and keeps its tuned weights. changes: fields of Inflation."""
    inflation = replace(inflation, **changes)
    return _with(patcher, replace(inflated_of(patcher) or InflatedModel(), inflation=inflation))


def with_tuned(patcher: ModelPatcher, tuned: TunedWeights, strength: float = 1.0) -> ModelPatcher:
    """A clone of the MODEL with tuned weights, replacing any it has, inflated the way it was tuned."""
    return _with(patcher, InflatedModel(tuned.facts.inflation, tuned, strength))


def without_tuned(patcher: ModelPatcher) -> ModelPatcher:
    """A clone of an inflated MODEL without tuned weights."""
    return _with(patcher, InflatedModel(inflated_of(patcher).inflation))


def _with(patcher: ModelPatcher, inflated: InflatedModel) -> ModelPatcher:
    """A clone of the MODEL, inflated exactly this way, whatever it was before."""
    family_of(patcher)
    check_loras(patcher)
    # safe: attachments, wrappers, replacements and additional models are meant for nodes, and clones copy them
    patcher = patcher.clone()
    patcher.set_attachments(KEY, inflated)
    for kind in (WrappersMP.APPLY_MODEL, WrappersMP.OUTER_SAMPLE):
        patcher.remove_wrappers_with_key(kind, KEY)
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, guarded)
    paths = {theirs: ours for place in PLACES for theirs, ours in block_paths(patcher, place).items()}
    patcher.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, _wrapper(inflated, paths))
    replaced = replacements(patcher.model_options, "attn1")
    for kind, number, _ in transformer_places(patcher).values():
        attention = _attention(inflated.inflation.attention, others(replaced.get((kind, number))))
        patcher.set_model_attn1_replace(attention, kind, number)
    patcher.remove_additional_models(KEY)
    tuned = bool(inflated.tuned and inflated.strength)
    set_savable(patcher, not tuned)
    if tuned:
        _add_tuned(patcher, inflated)
    return patcher


def host_attention(query: Tensor, key: Tensor, value: Tensor, options: dict) -> Tensor:
    """The host's own attention, each (batch, tokens, c); options: as a replacement gets them."""
    # safe: the call that CrossAttention itself makes
    heads, precision = options["n_heads"], options["attn_precision"]
    return optimized_attention(query, key, value, heads, attn_precision=precision, transformer_options=options)


def _attention(pattern: str, inner: Callable | None) -> Callable:
    """A replacement for a block's self-attention; it gets query, key and value projected, each (batch, tokens, c).

    inner: another node's, to compute the attention to the chosen frames with; the host's own by default.
    """

    def attend_frames(query: Tensor, key: Tensor, value: Tensor, options: dict) -> Tensor:
        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return (inner or host_attention)(query, key, value, options)

        if FRAMES not in options:  # called outside CFGGuider, without wrappers: act as an image model
            return attend(query, key, value)
        num_frames, batch = options[FRAMES]
        tiles = len(query) // batch  # HyperTile moves an image's tiles into the batch; rejoin them here
        query, key, value = (rearrange(x, "(b t) n c -> b (t n) c", b=batch) for x in (query, key, value))
        output = attend_across_frames(query, key, value, attended_frames(pattern, num_frames), attend)
        return rearrange(output, "b (t n) c -> (b t) n c", t=tiles)

    return marked(attend_frames, inner)


def _wrapper(inflated: InflatedModel, paths: dict[str, str]) -> Callable:
    def apply_inflated(
        executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **conds
    ):
        options = dict(transformer_options or {})
        stacked = options.get("cond_or_uncond") or [0]  # safe: the host's list of the conditions in this batch
        num_frames = len(x) // len(stacked)
        options[FRAMES] = (num_frames, len(x))
        model = executor.class_obj  # safe: the BaseModel whose apply_model is wrapped
        added = _added_to(model.current_patcher)
        hooked = _hooked(model.diffusion_model, inflated, paths, added, num_frames, options.get(LOAN))
        with showing_known(added, options, (num_frames, *x.shape[-2:])), hooked:
            return executor(x, t, c_concat, c_crossattn, control, options, **conds)

    return apply_inflated


def _added_to(patcher: ModelPatcher | None) -> AddedWeights | None:
    """The added weights on this patcher's device; the host sets a model's current patcher before each run."""
    models = patcher.get_additional_models_with_key(KEY) if patcher else []
    return models[0].model if models else None


@contextmanager
def _hooked(
    unet,
    inflated: InflatedModel,
    paths: dict[str, str],
    added: AddedWeights | None,
    num_frames: int,
    loan: tuple[Loan, Borrowing] | None,
):
    """In this context, norms use statistics over the whole video, added modules add to their blocks' output, and layers
    lend or borrow as the loan says."""
    with ExitStack() as hooks:
        if inflated.inflation.group_norm == "video":
            for norm in residual_norms(unet):
                hooks.callback(norm.register_forward_pre_hook(_as_tall_image(num_frames)).remove)
                hooks.callback(norm.register_forward_hook(_as_frames(num_frames)).remove)
        if added is not None:
            modules = modules_by_path(unet)
            for path, own in zip(added.paths, added.blocks, strict=True):
                for module, hook in _block_hooks(modules[paths[path]], own, inflated.strength, num_frames):
                    hooks.callback(module.register_forward_hook(hook).remove)
        if loan:
            for module, hook in loan[1].hooks(loan[0], unet, added):  # last, so that they see what the others make
                hooks.callback(module.register_forward_hook(hook).remove)
        yield


def _as_tall_image(num_frames: int) -> Callable:
    return lambda _norm, args: (rearrange(args[0], "(b f) c h w -> b c (f h) w", f=num_frames),)


def _as_frames(num_frames: int) -> Callable:
    return lambda _norm, _args, output: rearrange(output, "b c (f h) w -> (b f) c h w", f=num_frames)


def _block_hooks(block, own: AddedBlock, strength: float, num_frames: int) -> Iterator[tuple[nn.Module, Callable]]:
    for addition in own.additions:  # one after the other, as hooks run in tav_core
        layer = block.get_submodule(HOST_LAYERS[addition.layer])
        yield layer, lambda _layer, _args, output, a=addition: output + strength * a.residual(own, output, num_frames)
    for name in ("attn1", "attn2"):
        if hasattr(own, name):
            difference = getattr(own, name).to_q
            yield getattr(block, name).to_q, lambda _to_q, args, output, d=difference: output + strength * d(args[0])


def _add_tuned(patcher: ModelPatcher, inflated: InflatedModel) -> None:
    """Adds tuned weights, to be scaled when run, as `Inflation.at_strength` defines it.

    Query differences, too, are added when run: as patches of the host's they would be saved in checkpoints and copied
    by merging nodes without temporal attention, and drown in the rounding of weights in 8 bits.
    """
    _check_fits(patcher, inflated.tuned, host_names(patcher))
    _check_alike(inflated.tuned.facts.inflation, inflated.inflation)
    additions, tensors = inflated.inflation.additions, inflated.tuned.tensors
    names = [*difference_names(tensors), *(n for n in tensors if any(part.trains(n) for part in additions))]
    if names:
        sizes = {path: size for place in PLACES for path, size in blocks_of(patcher, place).items()}
        added = added_model({name: tensors[name] for name in names}, additions, sizes, compute_dtype(patcher))
        patcher.set_additional_models(KEY, [added])


def _check_fits(patcher: ModelPatcher, tuned: TunedWeights, names: dict[str, str]) -> None:
    weights, inflation = patcher.model.state_dict(), tuned.facts.inflation
    queries = difference_names(names) if inflation.queries else []
    shapes = {name: weights[names[name]].shape for name in queries if name.endswith("weight")}
    for addition in inflation.additions:
        for path, block in blocks_of(patcher, addition.place).items():
            shapes |= {f"{path}.{name}": shape for name, shape in addition.shapes(block.channels, block.heads).items()}
    tuned.check_fits(shapes, family_of(patcher))


def _check_alike(tuned: Inflation, asked: Inflation) -> None:
    """Refuses to compute tuned modules in another way than they were tuned; leaving some out is possible."""
    modules = {"position_bias": asked.temporal, "merge": any(part.place != "input" for part in asked.additions)}
    for name in (name for name, is_used in modules.items() if is_used):
        own, other = getattr(tuned, name), getattr(asked, name)
        if own != other:
            raise TavError(
                f"These weights were tuned with {name} {own!r}, but Inflate UNet sets it to {other!r}; set it to "
                f"{own!r}, or connect the MODEL from before tuning to Inflate UNet."
            )
