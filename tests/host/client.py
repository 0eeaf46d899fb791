"""What a headless client of ComfyUI does: queue a prompt, listen to what the server says, fetch the results."""

import asyncio
import json
import struct
import threading
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

PATIENCE = 300  # seconds until a test gives up on a server that says nothing
ENDS = ("execution_success", "execution_error", "execution_interrupted")


@dataclass
class Event:
    """A message of the websocket: `data` as the server sent it; of a preview, its metadata, and the image beside.

    Of a "text" in a node, `data` is {"node", "text", "prompt_id"}.
    """

    type: str
    data: dict
    image: bytes = b""

    @property
    def node(self) -> str | None:
        return self.data.get("node") or self.data.get("node_id")


class RefusedPromptError(Exception):
    """The server did not queue a prompt; `messages` is what it says about it and its nodes."""

    def __init__(self, answer: dict):
        errors = [error for node in answer.get("node_errors", {}).values() for error in node["errors"]]
        self.node_errors = answer.get("node_errors", {})
        self.messages = [f"{error['message']}: {error['details']}" for error in [answer["error"], *errors]]
        super().__init__("\n".join(self.messages))


@dataclass
class Run:
    """One prompt, carried out: `status` is "success", "error" or "interrupted"."""

    id: str
    status: str
    outputs: dict  # what /history holds of each node's ui result
    events: list[Event] = field(repr=False)

    @property
    def end(self) -> dict:
        return next(event.data for event in reversed(self.events) if event.type in ENDS)

    @property
    def executed(self) -> set[str]:
        """The nodes that ran, those whose results were still there left out."""
        return {event.node for event in self.events if event.type == "executing" and event.node}

    @property
    def message(self) -> str:
        return self.end.get("exception_message", "")

    def of(self, node: str, *types: str) -> list[Event]:
        return [event for event in self.events if event.node == node and event.type in types]


class Client:
    """A client of a server; `queue` returns at once, `run` when all is done."""

    def __init__(self, server):
        self.server, self.id = server, uuid.uuid4().hex
        self.events: list[Event] = []
        self.news = threading.Condition()
        self.opened = threading.Event()
        self.listener = threading.Thread(target=lambda: asyncio.run(self._listen()), daemon=True)
        self.listener.start()
        assert self.opened.wait(60), f"No websocket at {server.address}"

    async def _listen(self) -> None:
        import aiohttp  # comes with ComfyUI

        address = f"{self.server.address}/ws?clientId={self.id}"
        async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as socket:
            await socket.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
            self.opened.set()
            running = None
            async for message in socket:
                if event := _event(message.data):
                    if event.type == "execution_start":
                        running = event.data["prompt_id"]
                    elif event.type == "text":  # the one kind that does not say of which prompt it is
                        event.data["prompt_id"] = running
                    with self.news:
                        self.events.append(event)
                        self.news.notify_all()

    def request(self, path: str, body: dict | None = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.server.address + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.read()

    def get(self, path: str) -> dict:
        return json.loads(self.request(path))

    def queue(self, prompt: dict) -> str:
        try:
            return json.loads(self.request("/prompt", {"prompt": prompt, "client_id": self.id}))["prompt_id"]
        except urllib.error.HTTPError as error:
            if error.code != 400:
                raise
            raise RefusedPromptError(json.loads(error.read())) from None

    def run(self, prompt: dict) -> Run:
        return self.finish(self.queue(prompt))

    def finish(self, prompt_id: str) -> Run:
        """Waits for the end of a queued prompt."""
        end = self.wait_for(lambda event: event.type in ENDS and event.data["prompt_id"] == prompt_id)
        with self.news:  # /history has it before the server says that nothing is executing any more
            self._wait(lambda: any(e.type == "executing" and e.node is None and _of(e, prompt_id) for e in self.events))
            events = [event for event in self.events if _of(event, prompt_id)]
        history = self.get(f"/history/{prompt_id}")
        return Run(prompt_id, end.type.removeprefix("execution_"), history[prompt_id]["outputs"], events)

    def wait_for(self, wanted: Callable[[Event], bool]) -> Event:
        """The first event like that, of those that came since the client opened."""
        with self.news:
            self._wait(lambda: any(wanted(event) for event in self.events))
            return next(event for event in self.events if wanted(event))

    def _wait(self, there: Callable[[], bool]) -> None:
        waited = 0
        while not there():
            if not self.server.alive() or waited >= PATIENCE:
                raise AssertionError(f"The server stopped or fell silent. Its log ends:\n{self.server.log[-6000:]}")
            waited = 0 if self.news.wait(1) else waited + 1

    def interrupt(self) -> None:
        self.request("/interrupt", {})

    def free(self) -> None:
        """Lets the server forget all models and results."""
        self.request("/free", {"unload_models": True, "free_memory": True})
        image = {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}}
        preview = {"class_type": "PreviewImage", "inputs": {"images": ["image", 0]}}
        self.run({"image": image, "preview": preview})  # it frees between two prompts, so no later than behind this

    def view(self, file: dict) -> bytes:
        """A file that a node's ui result names."""
        return self.request("/view?" + urllib.parse.urlencode(file))

    def upload(self, name: str, content: bytes) -> dict:
        boundary = uuid.uuid4().hex
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
        body = head.encode() + b"Content-Type: application/octet-stream\r\n\r\n" + content
        request = urllib.request.Request(
            self.server.address + "/upload/image",
            body + f"\r\n--{boundary}--\r\n".encode(),
            {"Content-Type": f"multipart/form-data; boundary={boundary}"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.loads(answer.read())


def _of(event: Event, prompt_id: str) -> bool:
    return event.data.get("prompt_id") == prompt_id


def _event(message: str | bytes) -> Event | None:
    if isinstance(message, str):
        content = json.loads(message)
        return Event(content["type"], content.get("data") or {})
    kind, length = struct.unpack_from(">II", message)
    if kind == 3:  # a line of text in a node
        node, text = message[8 : 8 + length].decode(), message[8 + length :].decode()
        return Event("text", {"node": node, "text": text})
    if kind == 4:  # a preview with metadata, see protocol.py of the host
        return Event("preview", json.loads(message[8 : 8 + length]), message[8 + length :])
    return None
