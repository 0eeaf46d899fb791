"""A looping clip of a drawn dancer behind a rolling ball, with its OpenPose skeletons, depth and masks, so that
workflows with ControlNets and masks run without a preprocessor."""

from dataclasses import dataclass

import cv2
import numpy as np

CAPTION = "a man is dancing behind a rolling ball"
FRAMES, SIZE, FPS = 24, 512, 8
FINER = 2  # supersampling factor, for smooth edges

# The 18 body keypoints of COCO in OpenPose's order; right and left are the dancer's own
NOSE, NECK, R_SHOULDER, R_ELBOW, R_WRIST, L_SHOULDER, L_ELBOW, L_WRIST = range(8)
R_HIP, R_KNEE, R_ANKLE, L_HIP, L_KNEE, L_ANKLE, R_EYE, L_EYE, R_EAR, L_EAR = range(8, 18)

# As OpenPose draws them: the limbs in painting order, and a colour for the keypoint and for the limb of each index
LIMBS = [
    *((NECK, R_SHOULDER), (NECK, L_SHOULDER), (R_SHOULDER, R_ELBOW), (R_ELBOW, R_WRIST), (L_SHOULDER, L_ELBOW)),
    *((L_ELBOW, L_WRIST), (NECK, R_HIP), (R_HIP, R_KNEE), (R_KNEE, R_ANKLE), (NECK, L_HIP), (L_HIP, L_KNEE)),
    *((L_KNEE, L_ANKLE), (NECK, NOSE), (NOSE, R_EYE), (R_EYE, R_EAR), (NOSE, L_EYE), (L_EYE, L_EAR)),
]
COLOURS = [
    *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0)),
    *((0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255)),
    *((170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85)),
]
STICK = 4 / 512  # radius of keypoints, and of limbs at their middle, as a fraction of the image side
DIMMED = 0.6  # a limb's brightness

HORIZON, WALL = 0.50, 0.64  # rows, as fractions of the image side; the wall hides the horizon
GROUND = 0.885  # the row the dancer stands on
BALL_GROUND, BALL_RADIUS = 0.945, 0.095
LEG_BONE, UPPER_ARM, FOREARM = 0.165, 0.115, 0.11  # lengths; thigh and shin are equally long

SKIN, HAIR, SHIRT, TROUSERS, SHOES = (232, 184, 150), (64, 40, 30), (222, 84, 40), (44, 70, 128), (245, 245, 245)
DARK, LIPS, BALL, STRIPE, SHADOW = (40, 28, 26), (168, 70, 66), (240, 200, 40), (214, 46, 52), (150, 140, 126)

Shape = tuple[
    np.ndarray, tuple[int, int, int]
]  # a polygon's corners (n, 2), in fractions of the image side, and its colour


def dancer(num_frames: int = FRAMES, *, size: tuple[int, int] = (SIZE, SIZE)) -> np.ndarray:
    """The clip itself, (f, h, w, 3) uint8 RGB, looping; size: (width, height)."""
    return _clip(num_frames, size, lambda moment: [*_stage(moment), *_body(moment), *_ball(moment)], _room)


def poses(num_frames: int = FRAMES, *, size: tuple[int, int] = (SIZE, SIZE)) -> np.ndarray:
    """The dancer's skeleton on black, as OpenPose's preprocessor draws it; shaped as `dancer`."""
    return _clip(num_frames, size, _skeleton)


def depth(num_frames: int = FRAMES, *, size: tuple[int, int] = (SIZE, SIZE)) -> np.ndarray:
    """Inverse depth in grey, as MiDaS predicts it: near is bright, far is dark; shaped as `dancer`."""
    return _clip(num_frames, size, _nearness, _ground_nearness)


def mask(num_frames: int = FRAMES, *, size: tuple[int, int] = (SIZE, SIZE)) -> np.ndarray:
    """White where the dancer is visible, else black; shaped as `dancer`."""
    return _clip(num_frames, size, lambda moment: [*_all(_body(moment), 255), *_all(_ball(moment), 0)])


CLIPS = {"dancer": dancer, "poses": poses, "depth": depth, "mask": mask}


@dataclass(frozen=True)
class Moment:
    """body: the 18 keypoints (18, 2); ball: its centre (2,); both in fractions of the image side."""

    body: np.ndarray
    ball: np.ndarray


def moment_at(phase: float) -> Moment:
    """The moment at a phase of the loop, 0 to 1: the hips swing once and bounce twice, the ball rolls past and back."""
    swing, bounce = np.sin(2 * np.pi * phase), np.cos(4 * np.pi * phase)
    ball = np.array((0.5 + 0.36 * np.cos(2 * np.pi * phase), BALL_GROUND - BALL_RADIUS))
    body = np.zeros((18, 2))
    hips = np.array((0.5 + 0.045 * swing, 0.555 + 0.012 * bounce))
    neck = hips - (0.03 * swing, 0.215)
    lean = np.array((1.0, 0.16 * swing))
    body[NECK] = neck
    for side, arm in ((-1, (R_SHOULDER, R_ELBOW, R_WRIST)), (1, (L_SHOULDER, L_ELBOW, L_WRIST))):
        body[arm[0]] = neck + side * 0.078 * lean + (0, 0.012)
        raised = side * swing  # one arm goes up as the other comes down
        upper, fore = 0.28 - 0.75 * raised, -0.55 - 0.62 * raised
        body[arm[1]] = body[arm[0]] + UPPER_ARM * np.array((side * np.cos(upper), np.sin(upper)))
        body[arm[2]] = body[arm[1]] + FOREARM * np.array((side * np.cos(fore), np.sin(fore)))
    for side, leg in ((-1, (R_HIP, R_KNEE, R_ANKLE)), (1, (L_HIP, L_KNEE, L_ANKLE))):
        body[leg[0]] = hips + side * 0.044 * lean * (1, -0.6)
        lifted = max(0.0, -side * swing)
        body[leg[2]] = (0.5 + side * (0.082 + 0.03 * lifted), GROUND - 0.03 - 0.06 * lifted)
        body[leg[1]] = _knee(body[leg[0]], body[leg[2]], side)
    body[NOSE] = neck - (-0.022 * swing, 0.088)
    for point, place in {
        R_EYE: (0.019, 0.018),
        L_EYE: (-0.019, 0.018),
        R_EAR: (0.046, 0.01),
        L_EAR: (-0.046, 0.01),
    }.items():
        body[point] = body[NOSE] - place
    return Moment(body, ball)


def _knee(hip: np.ndarray, ankle: np.ndarray, side: int) -> np.ndarray:
    """The joint of two bones of equal length, bent outwards."""
    along = ankle - hip
    length = np.linalg.norm(along)
    bend = np.sqrt(max(0.0, LEG_BONE**2 - (length / 2) ** 2))
    across = np.array((along[1], -along[0])) / length
    return hip + along / 2 + side * bend * across


# Shapes, back to front


def _stage(moment: Moment) -> list[Shape]:
    """The shadows on the ground."""
    feet = moment.body[[R_ANKLE, L_ANKLE]].mean(0)[0]
    shadows = [_ellipse((feet, GROUND), (0.15, 0.022)), _ellipse((moment.ball[0], BALL_GROUND), (0.1, 0.016))]
    return [(shadow, SHADOW) for shadow in shadows]


def _body(moment: Moment) -> list[Shape]:
    body, shapes = moment.body, []
    for side, hip, knee, ankle in ((-1, R_HIP, R_KNEE, R_ANKLE), (1, L_HIP, L_KNEE, L_ANKLE)):
        sole = body[ankle] + (side * 0.012, 0.014)
        shapes += [(_ellipse(sole, (0.038, 0.019)), SHOES), (_limb(body[knee], body[ankle], 0.031, 0.022), TROUSERS)]
        shapes += [(_limb(body[hip], body[knee], 0.046, 0.033), TROUSERS)]
    neck, nose = body[NECK], body[NOSE]
    shoulders = _limb(body[R_SHOULDER], body[L_SHOULDER], 0.034, 0.034)
    waist = _limb(body[R_HIP] - (0, 0.02), body[L_HIP] - (0, 0.02), 0.036, 0.036)
    shapes += [(_limb(neck, nose, 0.024, 0.022), SKIN), (_hull(shoulders, waist), SHIRT)]
    shapes += [(_limb(body[R_HIP] - (0.016, 0), body[L_HIP] - (-0.016, 0), 0.028, 0.028), TROUSERS)]
    for shoulder, elbow, wrist in ((R_SHOULDER, R_ELBOW, R_WRIST), (L_SHOULDER, L_ELBOW, L_WRIST)):
        hand = body[wrist] + 0.14 * (body[wrist] - body[elbow])
        shapes += [(_limb(body[elbow], body[wrist], 0.022, 0.017), SKIN), (_ellipse(hand, (0.022, 0.022)), SKIN)]
        shapes += [(_limb(body[shoulder], body[elbow], 0.034, 0.026), SHIRT)]
    shapes += [(_ellipse(nose - (0, 0.026), (0.058, 0.066)), HAIR), (_ellipse(nose, (0.049, 0.062)), SKIN)]
    shapes += [(_ellipse(body[ear], (0.01, 0.015)), SKIN) for ear in (R_EAR, L_EAR)]
    shapes += [(_ellipse(nose - (0, 0.052), (0.047, 0.021)), HAIR), (_ellipse(nose, (0.007, 0.009)), (206, 150, 118))]
    shapes += [(_ellipse(body[eye], (0.007, 0.007)), DARK) for eye in (R_EYE, L_EYE)]
    return [*shapes, (_ellipse(nose - (0, -0.03), (0.017, 0.007)), LIPS)]


def _ball(moment: Moment) -> list[Shape]:
    """The ball, whose stripes turn as it rolls."""
    angle, shapes = (moment.ball[0] - 0.5) / BALL_RADIUS, [(_ellipse(moment.ball, [BALL_RADIUS] * 2), BALL)]
    for start in angle + np.arange(3) * 2 * np.pi / 3:
        turn = np.linspace(start, start + np.pi / 3, 24)
        rim = moment.ball + BALL_RADIUS * np.stack([np.cos(turn), np.sin(turn)], -1)
        shapes.append((np.vstack([moment.ball, rim]), STRIPE))
    return shapes


def _skeleton(moment: Moment) -> list[Shape]:
    return skeleton(moment.body)


def skeleton(body: np.ndarray, stick: float = STICK) -> list[Shape]:
    """OpenPose's drawing of 18 keypoints (18, 2). stick: the radius of keypoints, and of limbs at their middle."""
    shapes = []
    for (a, b), colour in zip(LIMBS, COLOURS, strict=False):  # there is one keypoint more than limbs
        along = (body[b] - body[a]) / 2
        limb = _ellipse((body[a] + body[b]) / 2, (np.linalg.norm(along), stick), np.arctan2(along[1], along[0]))
        shapes.append((limb, tuple(int(DIMMED * value) for value in colour)))
    return shapes + [(_ellipse(point, (stick, stick)), colour) for point, colour in zip(body, COLOURS, strict=True)]


def _nearness(moment: Moment) -> list[Shape]:
    return [*_all(_body(moment), _grey(GROUND)), *_all(_ball(moment), _grey(BALL_GROUND))]


def _all(shapes: list[Shape], grey: int) -> list[Shape]:
    return [(corners, (grey, grey, grey)) for corners, _ in shapes]


def _grey(row: float) -> int:
    """The grey of what stands on the ground at a row: inverse depth is linear in the distance below the horizon."""
    return round(255 * (row - HORIZON) / (1 - HORIZON))


# Grounds, by row


def _room(rows: np.ndarray) -> np.ndarray:
    wall = np.array((176, 204, 214)) - 40 * (rows / WALL - 0.5)[:, None]
    floor = np.array((202, 188, 166)) + 24 * (rows - GROUND)[:, None]
    return np.where((rows < WALL)[:, None], wall, floor)


def _ground_nearness(rows: np.ndarray) -> np.ndarray:
    return np.repeat(255 * (np.clip(rows, WALL, 1)[:, None] - HORIZON) / (1 - HORIZON), 3, axis=1)


def _black(rows: np.ndarray) -> np.ndarray:
    return np.zeros((len(rows), 3))


# Outlines, in fractions of the image side


def _ellipse(centre, radii, angle: float = 0.0) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    x, y, cos, sin = radii[0] * np.cos(turn), radii[1] * np.sin(turn), np.cos(angle), np.sin(angle)
    return np.asarray(centre) + np.stack([cos * x - sin * y, sin * x + cos * y], -1)


def _limb(start: np.ndarray, end: np.ndarray, start_radius: float, end_radius: float) -> np.ndarray:
    return _hull(_ellipse(start, (start_radius, start_radius)), _ellipse(end, (end_radius, end_radius)))


def _hull(*outlines: np.ndarray) -> np.ndarray:
    return cv2.convexHull(np.vstack(outlines).astype(np.float32))[:, 0]


# Clips


def _clip(num_frames: int, size: tuple[int, int], shapes_at, ground=_black) -> np.ndarray:
    """Draws the shapes of each moment on a ground; the scene fills a square in the middle of the frame."""
    width, height = size
    side, middle = FINER * min(size), FINER * np.array(size) / 2
    rows = 0.5 + (np.arange(FINER * height) + 0.5 - middle[1]) / side
    empty = np.repeat(ground(rows)[:, None], FINER * width, axis=1).round().clip(0, 255).astype(np.uint8)
    frames = []
    for number in range(num_frames):
        frame = empty.copy()
        for corners, colour in shapes_at(moment_at(number / num_frames)):
            pixels = middle + (corners - 0.5) * side - 0.5
            # OpenCV's fixed point, shift 4
            cv2.fillPoly(frame, [np.round(pixels * 16).astype(np.int32)], colour, cv2.LINE_AA, 4)
        frames.append(cv2.resize(frame, size, interpolation=cv2.INTER_AREA))
    return np.stack(frames)
