"""Progress of a long job: the host's progress bar, the console's, and a line of text in the node."""

import time

import comfy.model_management
import comfy.utils
import server
from tqdm import tqdm


def say(text: str, node_id: str | None) -> None:
    """Shows a line of text in a node."""
    # safe: how core's own nodes send text to the browser; there is no server if nodes run in a script
    host = getattr(server.PromptServer, "instance", None)
    if host and node_id:
        host.send_progress_text(text, node_id)


class Progress:
    """The progress of one node. title: on the console."""

    def __init__(self, total: int, node_id: str | None, title: str = ""):
        self.bar, self.total, self.node_id = comfy.utils.ProgressBar(total, node_id=node_id), total, node_id
        self.step, self.title, self.console, self._began = 0, title, None, (0, time.monotonic())

    def say(self, text: str) -> None:
        """Shows a line of text in the node."""
        say(text, self.node_id)

    def start_at(self, step: int) -> None:
        """Says that the first steps are done already."""
        self.step, self._began = step, (step, time.monotonic())
        self.console = tqdm(
            total=self.total, initial=step, desc=self.title, disable=not comfy.utils.PROGRESS_BAR_ENABLED
        )

    def at(self, step: int, text: str) -> None:
        """Shows a step: the bars, and the text with the time left."""
        if self.console is not None:
            self.console.update(step - self.step)
        self.step = step
        self.bar.update_absolute(step, self.total)
        first, began = self._began
        each = (time.monotonic() - began) / max(1, step - first)
        self.say(f"Step {step} of {self.total}, {text}, {_duration(each * (self.total - step))} left")
        comfy.model_management.throw_exception_if_processing_interrupted()

    def close(self) -> None:
        if self.console is not None:
            self.console.close()


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
