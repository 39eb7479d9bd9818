"""What the objects of generated scenes are built of: blocks with colored patches, in units of their 3D boxes.

Lamps, windows, faces, backpacks and a cabin behind the middle tell an object's front from its back.
"""
import numpy as np

SQUARE = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
TURN = np.linspace(0, 2 * np.pi, 12, endpoint=False)
ROUND = 0.5 + 0.5 * np.stack([np.cos(TURN), np.sin(TURN)], 1)
FULL = (0, 0, 1, 1)
AROUND = ("front", "back", "left", "right")
NEUTRAL: dict[str, tuple[float, ...]] = {  # BGR
    "dark": (38, 34, 32), "glass": (92, 72, 52), "lamp": (205, 250, 255), "red": (35, 30, 225), "skin": (150, 185, 235),
    "hair": (30, 45, 70), "pale": (215, 220, 220), "shadow": (48, 46, 46)}

Polygon = tuple[np.ndarray, str]  # corners [M, 3], counterclockwise seen from outside, and the name of a color
Part = tuple[int, list[Polygon]]  # a convex one; parts with a higher number are above the others


def block(along: tuple, up: tuple, across: tuple, top: tuple = (), top_across: tuple = ()) -> dict[str, np.ndarray]:
    """The sides {name: corners [4, 3]} of a block between limits in units of the box: along -0.5 (back) to 0.5, up 0 to
    1, across -0.5 to 0.5; top and top_across are its upper limits if they differ."""
    (back, front), (low, high), (left, right) = along, up, across
    (top_back, top_front), (top_left, top_right) = top or along, top_across or across
    sides = {
        "front": [(front, low, left), (front, low, right), (top_front, high, top_right), (top_front, high, top_left)],
        "back": [(back, low, right), (back, low, left), (top_back, high, top_left), (top_back, high, top_right)],
        "right": [(front, low, right), (back, low, right), (top_back, high, top_right), (top_front, high, top_right)],
        "left": [(back, low, left), (front, low, left), (top_front, high, top_left), (top_back, high, top_left)],
        "top": [(top_back, high, top_right), (top_back, high, top_left), (top_front, high, top_left),
                (top_front, high, top_right)]}
    return {name: np.array(side, float) for name, side in sides.items()}


def part(level: int, sides: dict[str, np.ndarray], color: str, *patches: tuple) -> Part:
    """A block in a color with patches: (side, (left, low, right, high) in 0..1 of it, color, outline=SQUARE)."""
    polygons = [(side, color) for side in sides.values()]
    for name, (left, low, right, high), ink, *outline in patches:
        start, end, far_end, far_start = sides[name]
        x, y = ((left, low) + (outline[0] if outline else SQUARE) * (right - left, high - low)).T[..., None]
        polygons.append(((1 - y) * ((1 - x) * start + x * end) + y * ((1 - x) * far_start + x * far_end), ink))
    return level, polygons


def car() -> list[Part]:
    """A body with lamps, red at the back, on dark wheels, and a cabin behind its middle."""
    body = block((-0.5, 0.5), (0.14, 0.58), (-0.5, 0.5))
    wheels = [(side, (x - 0.085, -0.32, x + 0.085, 0.6), "dark", ROUND) for side in ("left", "right")
              for x in (0.19, 0.8)]
    ends = [(side, (x, 0.5, x + 0.24, 0.85), ink) for side, ink in (("front", "lamp"), ("back", "red"))
            for x in (0.04, 0.72)]
    flanks = [(side, (x, 0.55, x + 0.05, 0.85), ink) for side, x, ink in (
        ("right", 0, "lamp"), ("right", 0.95, "red"), ("left", 0.95, "lamp"), ("left", 0, "red"))]
    windows = [(side, (0.08, 0.12, 0.92, 0.88), "glass") for side in AROUND]
    cabin = block((-0.44, 0.24), (0.58, 1), (-0.48, 0.48), (-0.34, 0.06), (-0.38, 0.38))
    return [part(0, block((-0.5, 0.5), (0, 0), (-0.5, 0.5)), "shadow"),
            part(1, body, "paint", ("front", (0.3, 0.1, 0.7, 0.75), "dark"), ("back", (0.36, 0.3, 0.64, 0.6), "pale"),
                 *ends, *flanks, *wheels), part(2, cabin, "paint", *windows)]


def pedestrian() -> list[Part]:
    """Walking legs and arms, a backpack, and a face under hair."""
    left, right = (-0.42, -0.04), (0.04, 0.42)
    steps = [part(1, block((x - 0.18, x + 0.2), (0, 0.48), across, (-0.17, 0.17)), "cloth",
                  *((side, (0, 0, 1, 0.13), "dark") for side in AROUND))
             for x, across in ((0.3, left), (-0.32, right))]
    arms = [part(2, block((x - 0.1, x + 0.1), (0.45, 0.82), across, (-0.1, 0.1)), "paint",
                 *((side, (0, 0, 1, 0.2), "skin") for side in AROUND))
            for x, across in ((-0.3, (-0.5, -0.37)), (0.3, (0.37, 0.5)))]
    head = block((-0.17, 0.17), (0.84, 1), (-0.2, 0.2))
    return [part(0, block((-0.5, 0.5), (0, 0), (-0.5, 0.5)), "shadow"), *steps, *arms,
            part(2, block((-0.2, 0.2), (0.46, 0.83), (-0.37, 0.37)), "paint", ("front", (0.28, 0, 0.72, 1), "pale")),
            part(2, block((-0.46, -0.2), (0.52, 0.8), (-0.28, 0.28)), "dark"),
            part(3, head, "hair", ("front", (0, 0, 1, 0.8), "skin"), ("left", (0.55, 0, 1, 0.7), "skin"),
                 ("right", (0, 0, 0.45, 0.7), "skin"))]


def cyclist() -> list[Part]:
    """A rider who leans forward on a bicycle, with a lamp in front and a red one behind."""
    wheels = []
    for x in (-0.31, 0.31):
        hub = block((x - 0.19, x + 0.19), (0, 0.39), (-0.04, 0.04))
        rings = [(side, rect, ink, ROUND) for side in ("left", "right")
                 for rect, ink in ((FULL, "dark"), ((0.2, 0.2, 0.8, 0.8), "pale"))]
        rim = part(0, block((x, x), (0, 0.39), (-0.06, 0.06)), "dark")
        level, polygons = part(0, hub, "dark", *rings)
        wheels += [rim, (level, polygons[5:])]  # without the block itself
    legs = [part(0, block((x - 0.08, x + 0.06), (low, 0.54), across, (-0.15, 0.04)), "cloth")
            for x, low, across in ((0.06, 0.2, (-0.34, -0.1)), (0, 0.1, (0.1, 0.34)))]
    arms = [part(2, block((0.22, 0.28), (0.57, 0.78), across, (0.08, 0.17)), "paint")
            for across in ((-0.48, -0.36), (0.36, 0.48))]
    return [part(0, block((-0.5, 0.5), (0, 0), (-0.2, 0.2)), "shadow"), *wheels, *legs, *arms,
            part(0, block((-0.3, 0.3), (0.3, 0.38), (-0.07, 0.07)), "paint"),
            part(1, block((0.22, 0.3), (0.5, 0.57), (-0.5, 0.5)), "dark", ("front", (0.3, -0.5, 0.7, 1.3), "lamp")),
            part(1, block((-0.36, -0.2), (0.42, 0.5), (-0.2, 0.2)), "dark", ("back", (0, -0.6, 1, 1), "red")),
            part(2, block((-0.2, 0.02), (0.5, 0.83), (-0.36, 0.36), (0, 0.2)), "paint",
                 ("back", (0.3, 0.1, 0.7, 0.9), "dark"), ("front", (0.3, 0, 0.7, 1), "pale")),
            part(3, block((0.04, 0.2), (0.84, 1), (-0.24, 0.24)), "pale", ("front", (0, 0, 1, 0.6), "skin"))]


PARTS = {"Car": car(), "Pedestrian": pedestrian(), "Cyclist": cyclist()}
