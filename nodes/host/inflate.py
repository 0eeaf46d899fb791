"""A MODEL that reads its batch as the frames of a video: as tav_core/inflate.py, on ComfyUI's UNet.

Nothing is ever left on the model itself. Attention goes through the host's patches, and what it has no patch for
through hooks that stand only while this MODEL computes: clones, other users of the same weights and an interrupted run
cannot meet them.
"""

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from einops import rearrange
from torch import Tensor

from ...tav_core.attention import FrameCount, attend_across_frames, attended_frames
from ...tav_core.inflate import query_names
from ...tav_core.tuned import TunedWeights
from .added import AddedWeights, added_model
from .lora import check_loras
from .sd_model import (
    attention_places,
    block_paths,
    compute_dtype,
    family_of,
    host_names,
    residual_norms,
    transformer_blocks,
)

KEY = "tune_a_video"
FRAMES = "tune_a_video_frames"


@dataclass(frozen=True, eq=False)
class Inflation:
    """How a MODEL is inflated; travels with it as an attachment."""

    attention: str = "sparse-causal"
    group_norm: str = "video"
    temporal: bool = True
    tuned: TunedWeights | None = None
    strength: float = 1.0


class QueryDifference(tuple):
    """A "diff" patch of ours, told from a LoRA's by its type, so that it can be taken away again."""

    __slots__ = ()


def inflation_of(patcher: ModelPatcher) -> Inflation | None:
    return patcher.get_attachment(KEY)


def inflate(patcher: ModelPatcher, **how) -> ModelPatcher:
    """A clone of the MODEL that attends across frames; tuned weights that it has stay on it."""
    return with_inflation(patcher, replace(inflation_of(patcher) or Inflation(), **how))


def with_tuned(patcher: ModelPatcher, tuned: TunedWeights, strength: float = 1.0) -> ModelPatcher:
    """A clone of the MODEL with tuned weights, in place of any it has, inflated as it was when they were tuned."""
    how = {name: tuned.facts[name] for name in ("attention", "group_norm", "temporal") if name in tuned.facts}
    return with_inflation(patcher, Inflation(**how, tuned=tuned, strength=strength))


def with_inflation(patcher: ModelPatcher, inflation: Inflation) -> ModelPatcher:
    """A clone of the MODEL, inflated in this way and no other, whatever it was before."""
    family_of(patcher)
    check_loras(patcher)
    # safe: attachments, wrappers, replacements and additional models are made for nodes, and clones copy them
    patcher = patcher.clone()
    patcher.set_attachments(KEY, inflation)
    patcher.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, KEY)
    patcher.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, _wrapper(inflation, block_paths(patcher)))
    for place in attention_places(patcher):
        patcher.set_model_attn1_replace(_attention(inflation.attention), *place)
    patcher.remove_additional_models(KEY)
    _remove_query_differences(patcher)
    if inflation.tuned and inflation.strength:
        _add_tuned(patcher, inflation)
    return patcher


def without_tuned(patcher: ModelPatcher) -> ModelPatcher:
    return with_inflation(patcher, replace(inflation_of(patcher), tuned=None))


def _attention(pattern: str) -> Callable:
    """Replaces the self-attention of a block; it gets query, key and value projected, each (batch, tokens, c)."""

    def attend_frames(query: Tensor, key: Tensor, value: Tensor, options: dict) -> Tensor:
        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            # safe: the call that CrossAttention itself makes
            return optimized_attention(
                query,
                key,
                value,
                options["n_heads"],
                attn_precision=options["attn_precision"],
                transformer_options=options,
            )

        if FRAMES not in options:  # called around CFGGuider, without wrappers: an ordinary picture model
            return attend(query, key, value)
        num_frames, batch = options[FRAMES]
        tiles = len(query) // batch  # HyperTile adds a picture's tiles to the batch; here they are rejoined
        query, key, value = (rearrange(x, "(b t) n c -> b (t n) c", b=batch) for x in (query, key, value))
        output = attend_across_frames(query, key, value, attended_frames(pattern, num_frames), attend)
        return rearrange(output, "b (t n) c -> (b t) n c", t=tiles)

    return attend_frames


def _wrapper(inflation: Inflation, paths: dict[str, str]) -> Callable:
    def apply_inflated(
        executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **conds
    ):
        options = dict(transformer_options or {})
        stacked = options.get("cond_or_uncond") or [0]  # safe: how the host says which conditions it batched
        num_frames = len(x) // len(stacked)
        options[FRAMES] = (num_frames, len(x))
        model = executor.class_obj  # safe: the BaseModel whose apply_model is wrapped
        with _hooked(model.diffusion_model, inflation, paths, _added_to(model.current_patcher), num_frames):
            return executor(x, t, c_concat, c_crossattn, control, options, **conds)

    return apply_inflated


def _added_to(patcher: ModelPatcher | None) -> AddedWeights | None:
    """Those on the device where this patcher computes; the host sets a model's current patcher before each run."""
    models = patcher.get_additional_models_with_key(KEY) if patcher else []
    return models[0].model if models else None


@contextmanager
def _hooked(unet, inflation: Inflation, paths: dict[str, str], added: AddedWeights | None, num_frames: int) -> Iterator:
    """While the block runs, norms take their statistics over the video, and blocks end in attention over time."""
    with ExitStack() as hooks:
        if inflation.group_norm == "video":
            for norm in residual_norms(unet):
                hooks.callback(norm.register_forward_pre_hook(_as_tall_picture(num_frames)).remove)
                hooks.callback(norm.register_forward_hook(_as_frames(num_frames)).remove)
        if added is not None:
            blocks, count = transformer_blocks(unet), FrameCount()
            count.num_frames = num_frames
            for path, own in zip(added.paths, added.blocks, strict=True):
                for module, hook in _block_hooks(blocks[paths[path]], own, inflation.strength, count):
                    hooks.callback(module.register_forward_hook(hook).remove)
        yield


def _as_tall_picture(num_frames: int) -> Callable:
    return lambda _norm, args: (rearrange(args[0], "(b f) c h w -> b c (f h) w", f=num_frames),)


def _as_frames(num_frames: int) -> Callable:
    return lambda _norm, _args, output: rearrange(output, "b c (f h) w -> (b f) c h w", f=num_frames)


def _block_hooks(block, own, strength: float, count: FrameCount) -> Iterator[tuple[torch.nn.Module, Callable]]:
    if hasattr(own, "attn_temp"):
        yield block, lambda _block, _args, output: output + strength * own.over_time(output, count)
    for name in ("attn1", "attn2"):
        if hasattr(own, name):
            difference = getattr(own, name).to_q
            yield getattr(block, name).to_q, lambda _to_q, args, output, d=difference: output + strength * d(args[0])


def _add_tuned(patcher: ModelPatcher, inflation: Inflation) -> None:
    tensors, names = inflation.tuned.tensors, host_names(patcher)
    _check_fits(patcher, inflation.tuned, names)
    queries = query_names(tensors)
    added = {name: tensor for name, tensor in tensors.items() if name not in queries and inflation.temporal}
    if _holds_differences(patcher):
        patches = {names[name]: QueryDifference(("diff", (tensors[name],))) for name in queries}
        patcher.add_patches(patches, strength_patch=inflation.strength)
    else:
        added |= {name: tensors[name] for name in queries}
    if added:
        blocks = transformer_blocks(patcher.model.diffusion_model)
        heads = {theirs: blocks[ours].n_heads for theirs, ours in block_paths(patcher).items()}
        patcher.set_additional_models(KEY, [added_model(added, heads, compute_dtype(patcher))])


def _holds_differences(patcher: ModelPatcher) -> bool:
    """Whether the weights are stored finely enough; in 8 bits, a small difference drowns in rounding."""
    block = next(iter(transformer_blocks(patcher.model.diffusion_model).values()))
    weight = block.attn1.to_q.weight
    plain = type(weight.data) is Tensor  # the host's quantized tensors are a subclass that names their original dtype
    return plain and weight.dtype in (torch.float32, torch.float16, torch.bfloat16)


def _remove_query_differences(patcher: ModelPatcher) -> None:
    # safe: a clone's lists of patches are its own; a new uuid tells the host to patch anew
    for key, patches in list(patcher.patches.items()):
        kept = [patch for patch in patches if not isinstance(patch[1], QueryDifference)]
        if len(kept) < len(patches):
            patcher.patches_uuid = uuid.uuid4()
            patcher.patches[key] = kept
            if not kept:
                del patcher.patches[key]


def _check_fits(patcher: ModelPatcher, tuned: TunedWeights, names: dict[str, str]) -> None:
    weights, shapes = patcher.model.state_dict(), {}
    for path in block_paths(patcher):
        for name in (f"{path}.attn1.to_q.weight", f"{path}.attn2.to_q.weight"):
            shapes[name] = weights[names[name]].shape
        if tuned.facts.get("temporal", True):
            square = shapes[f"{path}.attn1.to_q.weight"]
            shapes |= {f"{path}.attn_temp.{name}.weight": square for name in ("to_q", "to_k", "to_v", "to_out.0")}
            shapes[f"{path}.attn_temp.to_out.0.bias"] = square[:1]
    tuned.check_fits(shapes, family_of(patcher))
