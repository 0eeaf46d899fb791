"""Stands in for PyAV on machines that have none, for what reads and writes no video, such as `tav eval`.

Every name in its modules is a class of errors, which annotations and `except` take.
"""

import sys
from types import ModuleType

MODULES = (
    "av",
    "av.audio",
    "av.audio.stream",
    "av.container",
    "av.error",
    "av.sidedata",
    "av.sidedata.sidedata",
    "av.stream",
    "av.video",
    "av.video.reformatter",
    "av.video.stream",
)


class StandIn(ModuleType):
    __path__ = ()

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        value = sys.modules.get(f"{self.__name__}.{name}") or type(name, (Exception,), {})
        setattr(self, name, value)
        return value


sys.modules.update({name: StandIn(name) for name in MODULES})
