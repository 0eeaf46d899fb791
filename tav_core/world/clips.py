"""Clips of the drawn world: how things move along their paths, figures act, the camera pans and the light changes."""

from dataclasses import dataclass, replace

import numpy as np

from .scene import Light, Scene, Thing, standing

PATHS = ("still", "line", "arc", "bounce", "circle", "through", "leave", "approach")
SPAN = 0.56  # of a path from left to right, in image widths
CYCLES = {"walking": 1.5, "jumping": 0.6, "waving": 1.5}  # of an action, in one clip
PAN = 0.3  # of a panning camera


@dataclass(frozen=True)
class Clip:
    """A scene in motion.

    scene: its middle; the things' centres there are the middles of their paths.
    paths: one of PATHS for each thing. A figure that is walking turns to where its path leads.
    speed: factor of how far things go and how far their actions get; below 0, paths run backwards.
    pan: how far the camera moves, to the right.
    dimming: how much the light loses from the first to the last frame, such as 0.1.
    """

    scene: Scene
    paths: tuple[str, ...]
    speed: float = 1.0
    pan: float = 0.0
    dimming: float = 0.0

    def scenes(self, num_frames: int) -> list[Scene]:
        """The scene of each frame, at evenly spaced times."""
        return [self._at(time) for time in np.linspace(-0.5, 0.5, num_frames).tolist()]

    def _at(self, time: float) -> Scene:
        scene, light = self.scene, self.scene.light
        pairs = zip(scene.things, self.paths, strict=True)
        return replace(
            scene,
            things=tuple(_moved(thing, path, time, self.speed) for thing, path in pairs),
            camera=(scene.camera[0] + self.pan * time, scene.camera[1]),
            light=Light(light.direction, light.brightness * (1 - self.dimming * time), light.warmth),
        )


def _moved(thing: Thing, path: str, time: float, speed: float) -> Thing:
    """A thing at a time of its path, -0.5..0.5; larger if it approaches."""
    right, down = _offset(path, speed * time)
    radius = thing.radius * (1.5 ** (speed * time) if path == "approach" else 1.0)
    centre = thing.centre[0] + right, thing.centre[1] + down
    if not thing.is_figure:
        return replace(thing, centre=centre, radius=radius)
    done = abs(speed) * time * CYCLES[thing.action]
    phase = 0.5 + done if thing.action == "jumping" else (thing.phase + done) % 1
    ahead = speed * (_offset(path, speed * time + 1e-3)[0] - _offset(path, speed * time - 1e-3)[0])
    facing = int(np.sign(ahead)) if thing.action == "walking" and ahead else thing.facing
    centre = centre[0], standing(thing.foot, radius)  # it stays on its feet
    return replace(thing, centre=centre, radius=radius, phase=phase, facing=facing)


def _offset(path: str, time: float) -> tuple[float, float]:
    """How far a thing is from the middle of its path, (right, down) in image widths."""
    across = SPAN * time
    match path:
        case "still" | "approach":
            return 0.0, 0.0
        case "line":
            return across, -0.2 * time
        case "arc":
            return across, 1.2 * time**2 - 0.1
        case "bounce":
            return across, 0.12 - 0.3 * abs(np.cos(2 * np.pi * time)).item()
        case "circle":
            return 0.22 * np.cos(5.5 * time).item(), 0.2 * np.sin(5.5 * time).item()
        case "through":
            return 1.2 * time, 0.0
        case "leave":
            return 0.7 * time, 0.0
    raise ValueError(f"Unknown path {path!r}; choose one of {', '.join(PATHS)}.")
