"""Turns interlaced frames, whose odd and even rows are of two moments, into whole ones."""

from collections.abc import Iterator
from typing import NamedTuple

import av

FILTER = "bwdif", "mode=send_frame:deint=interlaced"  # one frame for each; those not flagged stay as they are


class Shot(NamedTuple):
    """A decoded frame, `now` being its time or its index; with its neighbours, where it is interlaced."""

    now: int
    frame: av.VideoFrame
    previous: av.VideoFrame | None = None
    following: av.VideoFrame | None = None


def with_neighbours(frames: Iterator[tuple[int, av.VideoFrame]]) -> Iterator[Shot]:
    """Looks ahead of interlaced frames alone, so that nothing more of other videos is decoded."""
    previous, held = None, next(frames, None)
    while held:
        now, frame = held
        if frame.interlaced_frame:
            held = next(frames, None)
            yield Shot(now, frame, previous, held and held[1])
        else:
            yield Shot(now, frame)
            held = next(frames, None)
        previous = frame


def whole(shot: Shot) -> av.VideoFrame:
    """The frame without combs, interpolated from its neighbours where it moves (FFmpeg's bwdif)."""
    frame = shot.frame
    if not frame.interlaced_frame:
        return frame
    around = [each for each in (shot.previous, frame, shot.following) if each and _alike(each, frame)]
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    graph.link_nodes(source, graph.add(*FILTER), graph.add("buffersink")).configure()
    for each in [*around, None]:
        graph.push(each)
    for _ in range(around.index(frame)):
        graph.pull()
    return graph.pull()


def _alike(one: av.VideoFrame, other: av.VideoFrame) -> bool:
    return (one.width, one.height, one.format.name) == (other.width, other.height, other.format.name)
