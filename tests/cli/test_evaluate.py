"""`tav eval`: both of its measurements on tiny random networks, what it leaves, and how it refuses."""

import json
import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch

from tav_core.checkpoints.checkpoint import load_checkpoint
from tav_core.demo.settings import Settings
from tav_core.errors import TavError
from tav_core.evaluation.paper_table import PUBLISHED, edited_videos
from tav_core.evaluation.processes import evaluate_in_processes
from tav_core.evaluation.report import FIGURES, as_claims, as_json, as_tables, by_variant
from tav_core.evaluation.sampling import sample_variants
from tav_core.evaluation.variants import VARIANTS, Network, Sampling, Variant
from tav_core.inflate import inflate
from tav_core.lend import structure_of
from tav_core.memory import tuning_memory
from tav_core.source import Dials
from tav_core.video.write import write_video
from tav_core.world.protocol import clips_to_report
from tests.cli.test_cli import tav
from tests.networks import tiny_unet, write_clip_model
from tests.random_checkpoint import write_random_checkpoint

ROOT = Path(__file__).parents[2]
QUICK = Settings(tuning_steps=2, learning_rate=1e-3, steps=1, inversion_steps=1, frames=3)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "sd.safetensors"
    write_random_checkpoint(path, size="tiny")
    return path


def evaluating(checkpoint, folder, *variants, **changes) -> list:
    options = {"checkpoint": checkpoint, "output": folder, "count": 1, "frames": 3, "tuning_steps": 1, "steps": 1}
    options |= {"inversion_steps": 1} | changes
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    return ["eval", *words, *(word for name in variants for word in ("--variant", name))]


# The drawn world


@pytest.fixture(scope="module")
def evaluated(checkpoint, tmp_path_factory):
    """The folder of a tiny evaluation, and what the command said."""
    folder = tmp_path_factory.mktemp("evaluated")
    return folder, tav(*evaluating(checkpoint, folder, "full", "no-inversion"))


def test_an_evaluation_leaves_tables_json_and_a_contact_sheet(evaluated):
    folder, said = evaluated
    assert said.code == 0, said.err
    figures = json.loads((folder / "eval.json").read_text())
    assert list(figures) == ["ideal", "ideal-vae", "full", "no-inversion", "frozen", "source"]
    of_others = {"other_iou", "other_psnr", "pose_iou"}  # the first clip has one thing, which is no figure
    of_others |= {"flow_error"}  # of three frames, each is too far from the next for optical flow
    assert set(figures["full"]) == set(FIGURES) - of_others
    missing = set(figures["full"]) - set(figures["no-inversion"])
    assert missing == {"reconstruction_psnr", "reconstruction_ssim"}
    assert all({"mean", "std", "worst", "values"} == set(of) for row in figures.values() for of in row.values())
    assert figures["ideal"]["iou"]["mean"] > 0.9 > figures["frozen"]["iou"]["mean"]
    assert len(figures["full"]["iou"]["values"]) == 4
    report = (folder / "eval.md").read_text(encoding="utf-8")
    assert "| `no-inversion` " in report
    assert "1 steps of tuning" in report
    assert report.count("\n| `full` ") == 4
    assert (folder / "eval.png").stat().st_size > 10_000
    assert said.out.splitlines()[-3:] == [str(folder / name) for name in ("eval.md", "eval.json", "eval.png")]


def test_a_second_run_samples_nothing_again(evaluated, checkpoint, monkeypatch):
    folder, _ = evaluated
    before = json.loads((folder / "eval.json").read_text())
    monkeypatch.setattr("tav_core.evaluation.sampling.tune", None)
    monkeypatch.setattr("tav_core.evaluation.sampling.sample", None)
    said = tav(*evaluating(checkpoint, folder, "full", "no-inversion"))
    assert said.code == 0, said.err
    assert json.loads((folder / "eval.json").read_text()) == before


def test_an_earlier_report_s_rows_stand_beside_new_ones(evaluated, checkpoint, tmp_path):
    folder, _ = evaluated
    earlier = json.loads((folder / "eval.json").read_text())
    said = tav(*evaluating(checkpoint, tmp_path, "no-tuning", beside=folder / "eval.json"))
    assert said.code == 0, said.err
    both = json.loads((tmp_path / "eval.json").read_text())
    assert list(both) == ["ideal", "ideal-vae", "full", "no-tuning", "no-inversion", "frozen", "source"]
    for row in ("full", "no-inversion"):
        for name, figure in earlier[row].items():
            assert both[row][name]["values"] == pytest.approx(figure["values"], abs=1e-6)
    report = (tmp_path / "eval.md").read_text(encoding="utf-8")
    assert "- `no-inversion`: " in report
    assert "Is each part needed?" in report  # no-tuning against the earlier full
    said = tav(*evaluating(checkpoint, tmp_path, "no-tuning", beside=folder / "eval.json", count=2))
    assert said.code == 2
    assert "The earlier report is of 1 clips from 'line-" in said.err


DAMAGED = {
    "{}": "lacks values",
    "[]": "is no eval.json of `tav eval` (AttributeError)",
    "no": "is no eval.json of `tav eval` (JSONDecodeError)",
    '{"ideal": {"iou": 3}}': "is no eval.json of `tav eval` (TypeError)",
    '{"ideal": {"iou": {"values": {"a": "b"}}}}': "is no eval.json of `tav eval` (ValueError)",
    '{"ideal": {"iou": {"values": {"a/object": NaN}}}}': "holds values that are no numbers",
    "[" * 100_000: "is no eval.json of `tav eval` (RecursionError)",
}


@pytest.mark.parametrize(("content", "message"), DAMAGED.items(), ids=lambda text: text[:20])
def test_what_is_no_report_is_refused_before_any_work(checkpoint, tmp_path, content, message):
    (tmp_path / "eval.json").write_text(content)
    said = tav(*evaluating(checkpoint, tmp_path / "new", "no-tuning", beside=tmp_path / "eval.json"))
    assert said.code == 2
    assert message in said.err
    assert not (tmp_path / "new").exists()


def test_two_processes_measure_what_one_does(checkpoint, tmp_path):
    figures = {}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        said = tav(*evaluating(checkpoint, folder, "no-tuning", count=2, frames=2, processes=processes))
        assert said.code == 0, said.err
        figures[processes] = json.loads((folder / "eval.json").read_text())
    measured, expected = ({row: of["iou"]["values"] for row, of in figures[n].items()} for n in (2, 1))
    assert measured == {row: pytest.approx(values, abs=0.02) for row, values in expected.items()}  # other threads round
    assert len(expected["no-tuning"]) == 8


def test_what_processes_measured_before_one_failed_is_heard_out(checkpoint, tmp_path):
    good, bad = clips_to_report()[0], replace(clips_to_report()[1], clip=None)
    variants, heard = {"no-tuning": VARIANTS["no-tuning"]}, []
    opened = partial(load_checkpoint, checkpoint)
    with pytest.raises(AttributeError, match="NoneType"):
        heard.extend(evaluate_in_processes(opened, [good, bad], variants, QUICK, 2, work=tmp_path))
    assert {outcome.clip.name for outcome in heard} == {good.name}
    assert heard[-1].variant == "no-tuning"
    assert (tmp_path / f"{good.name}.no-tuning.safetensors").is_file()


def test_no_process_outlives_who_listens_to_it(checkpoint, tmp_path):
    opened, others = partial(load_checkpoint, checkpoint), set(multiprocessing.active_children())
    full = {"full": VARIANTS["full"]}
    outcomes = evaluate_in_processes(opened, clips_to_report()[:6], full, QUICK, 2, work=tmp_path)
    next(outcomes)
    outcomes.close()
    assert set(multiprocessing.active_children()) <= others
    assert len([*tmp_path.glob("*.full.safetensors")]) <= 2  # none of the clips that were handed out ahead of time


LISTENER = """
import sys
from functools import partial
from tav_core.checkpoints.checkpoint import load_checkpoint
from tav_core.demo.settings import Settings
from tav_core.evaluation.processes import evaluate_in_processes
from tav_core.evaluation.variants import VARIANTS
from tav_core.world.protocol import clips_to_report

opened, settings = partial(load_checkpoint, sys.argv[1]), Settings(tuning_steps=1000, frames=3)
outcomes = evaluate_in_processes(opened, clips_to_report(), {"full": VARIANTS["full"]}, settings, 1)
print(next(outcomes).variant, flush=True)
sys.stdin.read()
"""


def test_processes_end_when_the_one_that_started_them_is_killed(checkpoint):
    command = [sys.executable, "-c", LISTENER, str(checkpoint)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as listener:
        assert listener.stdout.readline()
        started = psutil.Process(listener.pid).children()
        listener.kill()
    _, left = psutil.wait_procs(started, timeout=20)
    for process in left:
        process.kill()
    assert started
    assert not left


def test_dead_processes_are_an_error(tmp_path):
    dies = partial(os._exit, 1)
    with pytest.raises(TavError, match="One of 2 processes died"):
        list(evaluate_in_processes(dies, clips_to_report()[:3], VARIANTS, QUICK, 2, work=tmp_path))


def test_other_settings_are_sampled_again(checkpoint, tmp_path):
    opened, variants = load_checkpoint(checkpoint), {"full": VARIANTS["full"]}
    clip = replace(clips_to_report()[0], edits=clips_to_report()[0].edits[:1])
    first = dict(sample_variants(opened, clip, variants, QUICK, work=tmp_path))["full"]
    kept = dict(sample_variants(opened, clip, variants, QUICK, work=tmp_path))["full"]
    other = dict(sample_variants(opened, clip, variants, QUICK, work=tmp_path, seed=1))["full"]
    assert torch.equal(first.edits, kept.edits)
    assert first.seconds == kept.seconds
    assert not torch.equal(first.edits, other.edits)


def test_samples_are_kept_for_the_blocks_they_borrow_from_by_default_too(checkpoint, tmp_path):
    opened, clip = load_checkpoint(checkpoint), replace(clips_to_report()[0], edits=clips_to_report()[0].edits[:1])
    default, seconds = structure_of(opened.unet), []
    for borrows in (None, default, replace(default, attention=()), None):
        sampling = Sampling(dials=Dials(structure=1.0), borrows=borrows)
        variant = {"kept": Variant("", Network(is_tuned=False), sampling)}
        seconds.append(dict(sample_variants(opened, clip, variant, QUICK, work=tmp_path))["kept"].seconds)
    assert seconds[0] == seconds[1] != seconds[2] != seconds[3]


def test_each_variant_makes_something_else_of_the_clip_and_leaves_the_checkpoint_as_it_was(checkpoint):
    opened = load_checkpoint(checkpoint)
    before = {name: tensor.clone() for name, tensor in opened.unet.state_dict().items()}
    clip = replace(clips_to_report()[0], edits=clips_to_report()[0].edits[:1])
    # of one step, the share in which layout is kept rounds to none; a position bias starts at zero and moves late
    more = replace(QUICK, steps=2, inversion_steps=2, tuning_steps=3, learning_rate=1e-2)
    samples = dict(sample_variants(opened, clip, VARIANTS, more))
    assert samples.keys() == VARIANTS.keys()
    edits = [samples[name].edits for name in VARIANTS]
    assert all(edit.shape == (1, 4, 3, 16, 16) and edit.isfinite().all() for edit in edits)
    assert not any(torch.allclose(a, b, atol=1e-4) for i, a in enumerate(edits) for b in edits[:i])
    inverted = {name for name, of in samples.items() if of.reconstruction is not None}
    assert inverted == VARIANTS.keys() - {"no-inversion", "text-to-image"}
    after = opened.unet.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_edits_of_one_batch_are_those_that_each_prompt_gives_alone(checkpoint):
    opened, clip = load_checkpoint(checkpoint), clips_to_report()[0]
    both = dict(sample_variants(opened, clip, {"no-tuning": VARIANTS["no-tuning"]}, QUICK))["no-tuning"]
    alone = replace(clip, edits=clip.edits[2:3])
    one = dict(sample_variants(opened, alone, {"no-tuning": VARIANTS["no-tuning"]}, QUICK))["no-tuning"]
    assert (both.edits[2] - one.edits[0]).abs().max() < 1e-3 * one.edits.abs().max()


def test_samples_that_were_kept_before_a_variant_had_more_fields_stay_valid():
    assert VARIANTS["video-norm"].network.as_key() == {
        "attention": "sparse-causal",
        "group_norm": "video",
        "temporal": True,
        "kind": "<class 'tav_core.inflation.Inflation'>",
        "is_tuned": True,
    }
    keys = {json.dumps(variant.network.as_key()) for variant in VARIANTS.values()}
    assert len(keys) == len({variant.network for variant in VARIANTS.values()})


def test_the_factorised_baseline_trains_its_temporal_attention_alone():
    network = VARIANTS["factorised"].network
    unet, whole = (inflate(tiny_unet(), of.inflation("frame")) for of in (network, replace(network, queries=True)))
    names = set(unet.trainable_parameters())
    assert names == {name for name in whole.trainable_parameters() if ".attn_temp." in name} != set()
    needed, needed_by_all = (tuning_memory(each, (1, 4, 2, 8, 8), checkpointing=False) for each in (unet, whole))
    assert needed < needed_by_all, "the memory estimate counts what is trained"


# The report


def measured(**rows) -> list:
    """Rows of (variant, clip, figures): for each variant, an IoU for each clip."""
    return [
        (name.replace("_", "-"), str(clip), {"object": {"iou": value}})
        for name, values in rows.items()
        for clip, value in enumerate(values)
    ]


def test_json_holds_mean_and_sample_deviation_over_clips_and_the_worst_edit():
    edits = [("a", {"object": 1.0, "style": 0.4}), ("b", {"object": 0.9})]
    rows = [("full", clip, {kind: {"iou": value} for kind, value in kinds.items()}) for clip, kinds in edits]
    found = as_json(by_variant(rows))["full"]["iou"]
    assert (found["mean"], found["worst"]) == (0.8, 0.4)
    assert found["std"] == pytest.approx(0.2 / 2**0.5, abs=1e-6)
    assert found["values"] == {"a/object": 1.0, "a/style": 0.4, "b/object": 0.9}


def test_each_kind_of_edit_has_columns_of_its_own():
    edits = [("a", {"object": 0.5, "style": 0.4}), ("b", {"object": 0.7})]
    rows = [("full", clip, {kind: {"iou": value} for kind, value in kinds.items()}) for clip, kinds in edits]
    lines = as_tables(by_variant(rows)).splitlines()
    cells = dict(zip(*([cell.strip() for cell in line.split("|")] for line in (lines[-3], lines[-1])), strict=True))
    assert cells["object: IoU with the ideal ↑"] == "0.600 ± 0.141 (0.500)"
    assert cells["style: IoU with the ideal ↑"] == "0.400 ± 0.000 (0.400)"
    assert cells["style: edit right, % ↑"] == "-"


@pytest.mark.parametrize(("without", "verdict"), [((0.2, 0.3, 0.1), "yes"), ((1.0, 0.9, 0.9), "**no**")])
def test_a_claim_holds_where_the_difference_is_larger_than_chance(without, verdict):
    row = as_claims(by_variant(measured(full=(0.9, 1.0, 0.95), no_inversion=without))).splitlines()[-1]
    assert row.rstrip(" |").endswith(verdict)


def test_a_figure_that_every_variant_is_good_at_is_marked():
    reference = {"ideal_vae": (0.96, 0.94), "frozen": (0.1, 0.2), "source": (0.7, 0.7)}
    good, bad = (0.93, 0.94), (0.5, 0.94)
    for variants, is_marked in (({"full": good, "no_tuning": good}, True), ({"full": good, "no_tuning": bad}, False)):
        tables = as_tables(by_variant(measured(**reference, **variants)))
        assert ("IoU with the ideal ↑ (=)" in tables) == is_marked
    assert "0.720 ± 0.311 (0.500)" in tables  # the worst edit beside the mean


# The paper's scores


@pytest.fixture(scope="module")
def clip_model(tmp_path_factory):
    return write_clip_model(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def results(tmp_path):
    """A folder as `tav edit` leaves it, of one video that stands still and one that does not."""
    frames = torch.rand(4, 32, 48, 3, generator=torch.Generator().manual_seed(0))
    write_video(tmp_path / "still.mp4", frames[:1].expand(4, -1, -1, -1), 8)
    write_video(tmp_path / "wild.mp4", torch.stack([frames[0], 1 - frames[0], 0 * frames[0], frames[1]]), 8)
    edits = [{"prompt": "a ball | a box", "path": "still.mp4"}, {"prompt": "a star", "path": "wild.mp4"}]
    manifest = {"selection": {"frames": 4, "size": [48, 32]}, "edits": edits}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def test_edits_are_scored_beside_the_published_rows(results, clip_model, tmp_path):
    said = tav("eval", results, "--clip-model", clip_model, "-o", tmp_path / "scores")
    assert said.code == 0, said.err
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text())
    still, wild = scores["videos"]
    assert still["frame_consistency"] == pytest.approx(100, abs=0.1)
    assert wild["frame_consistency"] < still["frame_consistency"]
    mean = (still["textual_faithfulness"] + wild["textual_faithfulness"]) / 2
    assert scores["textual_faithfulness"]["mean"] == pytest.approx(mean)
    assert scores["published"]["Tune-A-Video"] == {"frame_consistency": 92.40, "textual_faithfulness": 27.58}
    lines = [line for line in said.out.splitlines() if line.startswith("|")]
    assert sum("(published)" in line for line in lines) == len(PUBLISHED)
    assert any("CogVideo (published) | 90.64" in " ".join(line.split()) for line in lines)
    assert any(r"a ball \| a box" in line for line in lines)


# Refusals


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["folder", "-o", "out"], "give folders of results and a --clip-model"),
        (["--clip-model", "clip", "-o", "out"], "give folders of results and a --clip-model"),
        (["folder", "--clip-model", "clip", "-o", "out"], "holds no manifest.json"),
        (["folder", "--clip-model", "clip", "--steps", 5, "-o", "out"], "--steps is for the drawn world"),
        (["--count", 0, "-o", "out"], "count must be 1 or more"),
        (["--frames", 1, "-o", "out"], "frames must be 2 or more"),
        (["--steps", 0, "-o", "out"], "num_steps must be from 1 to 999"),
        (["--guidance", "nan", "-o", "out"], "guidance_scale must be a number"),
        (["--seed", -3, "-o", "out"], "seed must be a whole number of at least 0"),
        (["--checkpoint", "none", "-o", "out"], "There is no checkpoint at"),
        (["--variant", "half", "-o", "out"], "'half' is not one of"),
    ],
)
def test_what_cannot_be_measured_gets_a_clear_error_message(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = tav("eval", *words)
    assert said.code == 2
    assert message in " ".join(said.err.split())


MANIFEST = {"selection": {"frames": 2, "size": [8, 8]}, "edits": [{"path": "a.mp4", "prompt": "a cat"}]}


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        ("{}", "it has no 'selection'"),
        ("[" * 100_000, "recursion"),
        (MANIFEST | {"selection": {"frames": "2", "size": [8, 8]}}, "its selection has '2' frames of the size (8, 8)"),
        (MANIFEST | {"selection": {"frames": 2, "size": [8]}}, "its selection has 2 frames of the size (8,)"),
        (MANIFEST | {"edits": [{"path": "a.mp4", "prompt": 5}]}, "5 is no path or prompt"),
        (MANIFEST | {"edits": [{"path": "\x1b[31ma.mp4", "prompt": "a"}]}, r"'\x1b[31ma.mp4' is no file of an edit"),
        (b"\xff" * 100_000, "can't decode byte 0xff"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_manifest_that_is_damaged_is_refused(tmp_path, manifest, reason):
    data = manifest if isinstance(manifest, (bytes, str)) else json.dumps(manifest)
    (tmp_path / "manifest.json").write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(TavError, match="make the edits again") as refused:
        edited_videos(tmp_path)
    assert reason in str(refused.value)
    assert len(str(refused.value)) < 1000
