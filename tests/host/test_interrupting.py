"""Progress, previews, Cancel, power cuts: what the server says while it works, and that no work is lost."""

import io
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.host.client import ENDS, Client, Event
from tests.host.workflows import ending_in, new, small

STEPS = 6
CLIP = {"clip": {"frames": 8, "width": 128, "height": 128}}  # so that a step takes longer than a word to the server


def tuning(prefix: str, steps: int = STEPS, **settings) -> dict:
    changes = CLIP | {"tune": {"steps": steps, **settings}, "save_weights": {"filename_prefix": prefix}}
    return ending_in(small("tune-and-edit", changes), "save_weights")


def editing(steps: int, text: str) -> dict:
    changes = CLIP | {"sample": {"steps": steps}, "edit": {"text": text}}
    return ending_in(small("edit-with-saved-weights", changes), "save")


def wait_until(client: Client, node: str, step: int, prompt_id: str) -> None:
    """Until a node of a running prompt has done so many steps."""

    def reached(event: Event) -> bool:
        if event.data.get("prompt_id") != prompt_id:
            return False
        return event.type in ENDS or (event.type == "progress" and event.node == node and event.data["value"] >= step)

    event = client.wait_for(reached)
    assert event.type == "progress", f"It ended before step {step}: {event}"


def steps_of(run, node: str) -> list[int]:
    return [event.data["value"] for event in run.of(node, "progress")]


def interrupted_at(client: Client, prompt: dict, node: str, step: int):
    prompt_id = client.queue(prompt)
    wait_until(client, node, step, prompt_id)
    client.interrupt()
    return client.finish(prompt_id)


def values_of(run, node: str) -> dict:
    return run.outputs[node]["tune_a_video"][0]


def runs(server) -> list[Path]:
    return list((server.base / "models" / "tune_a_video" / ".runs").iterdir())


@pytest.fixture
def weights(server):
    def load(prefix: str) -> dict[str, torch.Tensor]:
        return load_file(server.base / "models" / "tune_a_video" / f"{prefix}_00001.safetensors")

    return load


@pytest.fixture
def forget(server, client):
    """Makes the server forget all results and all runs, as if it had never tuned."""

    def forget():
        client.free()
        shutil.rmtree(server.base / "models" / "tune_a_video" / ".runs", ignore_errors=True)

    return forget


def test_tuning_reports_each_step_in_order_and_shows_a_preview_at_each_validation(client, tuned):
    graph = {"graph": new("PreviewImage", images=["tune", 3])}
    run = client.run(tuning("reported", seed=1, validate_every=2) | graph)
    assert run.status == "success", run.message
    events = run.of("tune", "progress", "executed")
    losses = values_of(run, "tune")["losses"]
    first, *steps, last = [event.data["text"] for event in run.of("tune", "text")]
    assert first == "Preparing"
    assert [text.rpartition(",")[0] for text in steps] == [
        f"Step {step} of {STEPS}, loss {loss:.4f}" for step, loss in enumerate(losses, 1)
    ]
    assert all(re.fullmatch(r"\d+ s left", text.rpartition(", ")[2]) for text in steps)
    assert last == f"Tuned, {STEPS} steps, loss {losses[-1]:.4f}."
    assert steps_of(run, "tune") == list(range(1, STEPS + 1))
    assert {event.data["max"] for event in events if event.type == "progress"} == {STEPS}
    assert [event.type for event in events[-2:]] == ["progress", "executed"]
    while_running = [i for i, event in enumerate(events[:-1]) if event.type == "executed"]
    done = [sum(event.type == "progress" for event in events[:i]) for i in while_running]
    assert len(done) == STEPS // 2
    assert all(steps == 2 * n - 1 for n, steps in enumerate(done, 1)), done  # just before the step is reported
    shown = [events[i].data["output"] for i in while_running]
    assert run.outputs["tune"]["images"] == shown[-1]["images"]  # the last one stays
    for each in shown:
        animation = Image.open(io.BytesIO(client.view(each["images"][0])))
        assert (animation.n_frames, max(animation.size)) == (values_of(run, "tune")["frames"], 256)
    assert Image.open(io.BytesIO(client.view(run.outputs["graph"]["images"][0]))).size == (800, 480)


def test_sampling_reports_each_step_in_order_with_a_preview(client, tuned):
    run = client.run(editing(5, "reported"))
    assert run.status == "success", run.message
    assert steps_of(run, "sample") == [1, 2, 3, 4, 5]
    assert len(run.of("sample", "preview")) == 5
    order = [event.node for event in run.events if event.type == "executing" and event.node]
    assert order.index("sample") < order.index("decode") < order.index("save")


def test_an_interrupted_tuning_stops_within_a_step_and_ends_as_an_uninterrupted_one_does(
    server, client, tuned, weights, forget
):
    assert client.run(tuning("whole", seed=2)).status == "success"
    forget()
    run = interrupted_at(client, tuning("cut", seed=2), "tune", 2)
    said = [event.data["text"] for event in run.of("tune", "text")]
    assert re.fullmatch(rf"Stopped at step \d of {STEPS}. Run again to resume.", said[-1])
    assert run.status == "interrupted"
    done = steps_of(run, "tune")[-1]
    assert done <= 4  # the step in which the word came is ended, and one that ended while it was under way
    assert "save_weights" not in run.executed

    again = client.run(tuning("cut", seed=2))
    assert again.status == "success", again.message
    first = values_of(again, "tune")["first_step"]
    assert first in (done, done + 1)  # a step may be done, yet its word cut off
    assert f"resumed at step {first}" in server.log
    assert steps_of(again, "tune") == list(range(first + 1, STEPS + 1))
    whole, cut = weights("whole"), weights("cut")
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_finished_tuning_is_not_done_again(client, tuned, weights):
    first = client.run(tuning("first", seed=3))
    assert first.status == "success", first.message
    client.free()  # the host's cache is gone, our files are not
    second = client.run(tuning("second", seed=3))
    assert "tune" in second.executed
    assert values_of(second, "tune")["how"] == "already tuned"
    assert values_of(second, "tune")["losses"] == values_of(first, "tune")["losses"]
    assert steps_of(second, "tune") == []
    ours, theirs = weights("first"), weights("second")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_an_interrupted_edit_stops_within_a_step_and_the_next_prompt_runs(client, tuned):
    run = interrupted_at(client, editing(40, "cut"), "sample", 3)
    assert run.status == "interrupted"
    assert steps_of(run, "sample")[-1] <= 5
    assert client.run(editing(3, "next")).status == "success"


def test_an_interrupted_inversion_stops_within_a_step(client, tuned):
    prompt = small("edit-with-saved-weights", CLIP | {"invert": {"steps": 60}})
    run = interrupted_at(client, ending_in(prompt, "save"), "invert", 3)
    assert run.status == "interrupted"
    assert steps_of(run, "invert")[-1] <= 5


def test_a_tuning_that_was_killed_resumes_when_the_server_is_back(server, tuned, weights, forget):
    client = Client(server)
    assert client.run(tuning("unharmed", seed=4)).status == "success"
    forget()
    prompt_id = client.queue(tuning("killed", seed=4))
    wait_until(client, "tune", 4, prompt_id)
    server.kill()
    server.start()
    client = Client(server)
    run = client.run(tuning("killed", seed=4))
    assert run.status == "success", run.message
    assert steps_of(run, "tune")[0] >= 4  # the step that was reported, and all before it, were safe on the disk
    unharmed, killed = weights("unharmed"), weights("killed")
    assert all(torch.equal(unharmed[name], killed[name]) for name in unharmed)
    (folder,) = (folder for folder in runs(server) if folder.name == values_of(run, "tune")["run"])
    kept = {"inputs.safetensors", "state.safetensors", f"weights-{STEPS:06}.safetensors"}
    assert {file.name for file in folder.iterdir()} == kept
