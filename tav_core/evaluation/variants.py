"""The method, its ablations (paper, section 5.3) and baselines."""

from dataclasses import asdict, dataclass, fields

from ..borrow import Structure
from ..inflation import LATER, Inflation
from ..source import Dials

LATER_HERE = ("image_share",)
"""Fields of `Network` that came later, as inflation.LATER does."""


@dataclass(frozen=True)
class Network:
    """How a text-to-image network is inflated, and whether it is tuned; the defaults are the method's.

    group_norm: None takes that of the evaluation's settings. image_share: as in TuneConfig. The rest: as in Inflation.
    """

    attention: str = "sparse-causal"
    group_norm: str | None = None
    temporal: bool = True
    is_tuned: bool = True
    position_bias: bool = False
    convolution: bool = False
    merge: str = "add"
    queries: bool = True
    image_share: float = 0.0

    def inflation(self, group_norm: str) -> Inflation:
        """The network's inflation; group_norm: that of the settings."""
        given = {field.name for field in fields(self)}
        own = {field.name: getattr(self, field.name) for field in fields(Inflation) if field.name in given}
        return Inflation(**own | {"group_norm": self.group_norm or group_norm})

    def as_key(self) -> dict:
        """What samples depend on, in the form that samples kept before the later fields were keyed by."""
        later = {field.name: field.default for field in fields(self) if field.name in (*LATER, *LATER_HERE)}
        own = {name: value for name, value in asdict(self).items() if later.get(name, ...) != value}
        return {"kind": "<class 'tav_core.inflation.Inflation'>"} | own


@dataclass(frozen=True)
class Sampling:
    """How edits are sampled; the defaults are the method's.

    inverted: start from the inverted clip; False starts from random noise.
    invert_with: one of INVERSIONS. inversion_steps, guidance_scale: None takes that of the settings.
    dials: what edits keep. borrows: the blocks they keep structure by; None for the default.
    mask: "true" for the drawn mask of what the edit changes, "word" for that of its word; "" for none.
    reweight: how much the words that an edit brings in count for as long as the layout is kept; 1 changes nothing.
    """

    inverted: bool = True
    invert_with: str = "ddim"
    inversion_steps: int | None = None
    guidance_scale: float | None = None
    dials: Dials = Dials()
    borrows: Structure | None = None
    mask: str = ""
    reweight: float = 1.0


@dataclass(frozen=True)
class Variant:
    """A row of the evaluation.

    worse_in: the figures in which it should be worse than the variant `against`; says: who claims so.
    """

    title: str
    network: Network = Network()
    sampling: Sampling = Sampling()
    worse_in: tuple[str, ...] = ()
    says: str = "us, by design"
    against: str = "full"


STRUCTURE, LAYOUT = 0.8, 0.4
"""The shares of the steps in which edits keep structure and layout, where they do (benchmarks/keeping.py)."""
GUIDANCE = 4.0
"""The guidance scale at which an edit that keeps all of it shows most of what its prompt says."""
ABLATION = "the paper, section 5.3"
VARIANTS = {
    "full": Variant("the full Tune-A-Video"),
    "no-sparse-causal": Variant(
        "no sparse-causal attention: each frame attends only to itself",
        Network(attention="frame"),
        worse_in=("size_jump", "size_spread", "warp_error"),
        says=ABLATION,
    ),
    "first-frame": Variant(
        "attention to the first frame only",
        Network(attention="first"),
        worse_in=("iou", "trajectory_correlation"),
    ),
    "no-temporal": Variant(
        "no temporal attention",
        Network(temporal=False),
        worse_in=("iou", "trajectory_correlation"),
    ),
    "no-tuning": Variant(
        "no tuning",
        Network(is_tuned=False),
        worse_in=("iou", "jitter", "size_spread", "warp_error"),
        says=ABLATION,
    ),
    "video-norm": Variant("GroupNorm over the whole video, as in the original", Network(group_norm="video")),
    "video-norm-no-tuning": Variant(
        "the same without tuning",
        Network(group_norm="video", is_tuned=False),
        worse_in=("iou", "jitter", "size_spread", "warp_error"),
        says=ABLATION,
        against="video-norm",
    ),
    "no-inversion": Variant(
        "no inversion: random noise",
        sampling=Sampling(inverted=False),
        worse_in=("iou", "trajectory_correlation"),
        says=ABLATION,
    ),
    "text-to-image": Variant(
        "the text-to-image network, frame by frame, from random noise",
        Network(attention="frame", group_norm="frame", temporal=False, is_tuned=False),
        sampling=Sampling(inverted=False),
        worse_in=("iou", "jitter", "size_spread", "warp_error"),
        says="the paper, figure 2",
    ),
    # Factorised as by Ho et al. 2022, but on a pretrained network; a figure of the paper shows how that fails.
    "factorised": Variant(
        "factorised: spatial attention unchanged, only temporal attention tuned",
        Network(attention="frame", queries=False),
        worse_in=("size_jump", "size_spread", "warp_error"),
    ),
    "position-bias": Variant(
        "the full method, and a relative position bias in temporal attention", Network(position_bias=True)
    ),
    "joint-images": Variant(
        "the same, and in a quarter of the steps frames are separate images",
        Network(position_bias=True, image_share=0.25),
    ),
    "convolution": Variant(
        "the full method, and a convolution over time after each in space", Network(convolution=True)
    ),
    "alpha": Variant("the full method, its temporal attention merged by a learned alpha", Network(merge="alpha")),
    "make-a-video": Variant(
        "Make-A-Video: pseudo-3-D convolutions, and attention in space and in time, factorised",
        Network(attention="frame", group_norm="frame", convolution=True),
    ),
    "video-ldm": Variant(
        "Video LDM: only temporal attention and convolutions are tuned, merged by a learned alpha",
        Network(attention="frame", group_norm="frame", convolution=True, merge="alpha", queries=False),
    ),
    "video-diffusion": Variant(
        "video diffusion models (Ho et al.): only temporal attention with a position bias is tuned, jointly on images",
        Network(attention="frame", group_norm="frame", position_bias=True, queries=False, image_share=0.25),
    ),
    "50-inversion-steps": Variant("inversion in 50 steps", sampling=Sampling(inversion_steps=50)),
    "fixed-point": Variant(
        "a more exact inversion, by fixed-point iteration", sampling=Sampling(invert_with="fixed-point")
    ),
    "keep-structure": Variant("structure kept from the clip", sampling=Sampling(dials=Dials(structure=STRUCTURE))),
    "keep-layout": Variant("layout kept from the clip", sampling=Sampling(dials=Dials(layout=LAYOUT))),
    "keep-mask": Variant("the clip kept outside of the true mask", sampling=Sampling(mask="true")),
    "keep-all": Variant(
        "structure, layout and all outside of the true mask kept",
        sampling=Sampling(dials=Dials(STRUCTURE, LAYOUT), mask="true"),
    ),
    "keep-all-guided": Variant(
        f"the same as keep-all, at guidance {GUIDANCE:g}",
        sampling=Sampling(guidance_scale=GUIDANCE, dials=Dials(STRUCTURE, LAYOUT), mask="true"),
    ),
    "keep-all-fixed-point": Variant(
        "all of it kept, with a more exact inversion",
        sampling=Sampling(invert_with="fixed-point", dials=Dials(STRUCTURE, LAYOUT), mask="true"),
    ),
    "keep-all-by-words": Variant(
        "structure, layout and all outside of a mask from words kept",
        sampling=Sampling(dials=Dials(STRUCTURE, LAYOUT), mask="word"),
    ),
}
