"""Pictures for the bundled vision-language demo model: colored shapes on textured backgrounds, and questions.

In:  a random.Random, so that a seed decides everything.
Out: Scene (what is where, to the pixel), its picture, and Questions with the answer and the object asked about.
     As a script: testimg.png, a scene held out of training.

    python demo/scenes.py                          # write testimg.png next to the README
    python demo/scenes.py --output /tmp/scene.png  # write it elsewhere
    python demo/scenes.py --seed 3 --output /tmp/scene.png  # a random scene held out of training, with its questions

A scene has one to three objects of different shapes and colors, so every question has one answer in one place. The
background is textured, because on an empty one every token of an object stands out, even to an untrained model. Only
numpy and PIL are needed; training, evaluation and tests share this module.
"""

from __future__ import annotations

import argparse
import colorsys
import math
import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

Color = tuple[int, int, int]
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels

TEST_IMAGE = Path(__file__).resolve().parent.parent / "testimg.png"
# No word here starts with a vowel, so that "a COLOR SHAPE" is always right.
COLORS: dict[str, Color] = {
    "red": (215, 35, 40),
    "green": (40, 160, 60),
    "blue": (40, 75, 215),
    "yellow": (240, 215, 40),
    "purple": (125, 40, 165),
    "pink": (250, 115, 185),
}
# How far a shape of radius 1 reaches from its center: left, top, right, bottom.
SHAPES: dict[str, Box] = {
    "circle": (-1.0, -1.0, 1.0, 1.0),
    "square": (-0.75, -0.75, 0.75, 0.75),
    "triangle": (-0.866, -1.0, 0.866, 0.5),
    "cross": (-0.94, -0.94, 0.94, 0.94),
}
COUNTS = {1: "one", 2: "two", 3: "three"}
SIZES = [(128, 128), (192, 128), (128, 192)]  # width, height
SIZE_WEIGHTS = [0.7, 0.15, 0.15]
RADII = (16, 28)
GAP = 4  # pixels between the circles around two objects; a square extends 6 % beyond its circle
LEFT_TO_RIGHT = 12  # horizontal pixels between the centers of two objects, so that their order is obvious

DESCRIPTIONS = ["What's in this image?", "Describe this image."]
HOW_MANY = ["How many shapes?", "How many shapes are there?"]

HELD_OUT_SHARE = 8  # one scene in 8 is kept out of training
ONE_OBJECT = 0.08  # share of the training on questions in which every picture has one object
TWO_OBJECTS = 0.25  # share of it after which there may be three objects
NOTHING, LITTLE = -1, -2  # what a square of the picture shows, if not the index of an object


@dataclass(frozen=True)
class SceneObject:
    shape: str
    color: str
    rgb: Color  # what it is painted with, a shade of `color`
    x: int
    y: int
    radius: int

    def __str__(self) -> str:
        return f"a {self.color} {self.shape}"

    @property
    def box(self) -> Box:
        """The pixels it covers: left, top, right, bottom."""
        left, top, right, bottom = (self.radius * reach for reach in SHAPES[self.shape])
        return self.x + left, self.y + top, self.x + right, self.y + bottom


@dataclass(frozen=True)
class Background:
    texture: str
    dark: Color
    light: Color
    period: int  # pixels
    angle: float
    seed: int  # of what is random in it


@dataclass(frozen=True)
class Scene:
    width: int
    height: int
    background: Background
    objects: tuple[SceneObject, ...]  # left to right


@dataclass(frozen=True)
class Question:
    kind: str
    text: str
    answer: str
    asked: int | None = None  # index of the object that holds the answer


def is_held_out(scene: Scene) -> bool:
    """Whether a scene is reserved for evaluation, by a checksum of everything in it. Python's hash() would change with
    every process. Objects are shared on purpose: their places and the backgrounds are what is new."""
    return zlib.crc32(repr(scene).encode()) % HELD_OUT_SHARE == 0


def make_background(rng: random.Random) -> Background:
    """A background in muted colors, none of which can be mistaken for the color of an object."""
    hue, dark, light = rng.random(), rng.uniform(0.3, 0.6), rng.uniform(0.1, 0.25)
    shades = [
        colorsys.hsv_to_rgb((hue + turn) % 1, rng.uniform(0, 0.18), value)
        for turn, value in ((0.0, dark), (rng.uniform(-0.2, 0.2), dark + light))
    ]
    one, two = [(round(255 * r), round(255 * g), round(255 * b)) for r, g, b in shades]
    angle = round(rng.uniform(0, math.pi), 3)
    return Background(rng.choice(list(TEXTURES)), one, two, rng.randint(6, 24), angle, rng.getrandbits(32))


def fits(placed: Sequence[SceneObject], new: SceneObject) -> bool:
    return all(
        math.hypot(new.x - o.x, new.y - o.y) >= new.radius + o.radius + GAP and abs(new.x - o.x) >= LEFT_TO_RIGHT
        for o in placed
    )


def place(rng: random.Random, width: int, height: int, names: Sequence[tuple[str, str]]) -> list[SceneObject] | None:
    """The objects at random places, or None if one found no room."""
    placed: list[SceneObject] = []
    for shape, color in names:
        r, g, b = (min(255, max(0, c + rng.randint(-12, 12))) for c in COLORS[color])
        radius = rng.randint(*RADII)
        for _ in range(20):
            x, y = rng.randint(radius + 1, width - radius - 1), rng.randint(radius + 1, height - radius - 1)
            new = SceneObject(shape, color, (r, g, b), x, y, radius)
            if fits(placed, new):
                placed.append(new)
                break
        else:
            return None
    return placed


def make_scene(rng: random.Random, count: int, held_out: bool, size: tuple[int, int] | None = None) -> Scene:
    """`count` objects in a picture of a random size, or of `size` (width, height)."""
    width, height = size or rng.choices(SIZES, SIZE_WEIGHTS)[0]
    while True:
        names = list(zip(rng.sample(list(SHAPES), count), rng.sample(list(COLORS), count), strict=True))
        objects = place(rng, width, height, names)
        if objects is None:
            continue
        scene = Scene(width, height, make_background(rng), tuple(sorted(objects, key=lambda o: o.x)))
        if is_held_out(scene) == held_out:
            return scene


def training_scenes(rng: random.Random, count: int, progress: float) -> list[Scene]:
    """A batch for the point `progress`, 0 to 1, of the training on questions: first one object each, then up to two,
    then up to three. All pictures of a batch have one size, so that they can be computed together."""
    size = rng.choices(SIZES, SIZE_WEIGHTS)[0]
    weights = [1, 0, 0] if progress < ONE_OBJECT else [1, 2, 0] if progress < TWO_OBJECTS else [1, 2, 2]
    return [make_scene(rng, n, held_out=False, size=size) for n in rng.choices([1, 2, 3], weights, k=count)]


def inside(shape: str, radius: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How deep each pixel lies inside a shape around (0, 0), in pixels; negative outside. Any shape of size [H, W]."""
    if shape == "circle":
        return radius - np.hypot(x, y)
    if shape == "square":
        return 0.75 * radius - np.maximum(abs(x), abs(y))
    if shape == "triangle":
        return 0.5 * radius - np.maximum(y, math.sqrt(0.75) * abs(x) - 0.5 * y)
    long, short = np.maximum(abs(x), abs(y)), np.minimum(abs(x), abs(y))
    return np.minimum(0.94 * radius - long, 0.34 * radius - short)  # cross


def noise(b: Background, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    cells = np.random.RandomState(b.seed).random_sample((64, 64))
    side = 1 + b.period // 6
    return cells[y // side % 64, x // side % 64]


def stripes(b: Background, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.sin((x * math.cos(b.angle) + y * math.sin(b.angle)) * 2 * math.pi / b.period)


def checks(b: Background, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x // b.period + y // b.period) % 2


def gradient(b: Background, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    slope = x * math.cos(b.angle) + y * math.sin(b.angle)
    return (slope - slope.min()) / (slope.max() - slope.min())


def blotches(b: Background, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Waves in random directions, added up."""
    waves = np.random.RandomState(b.seed).uniform(-1, 1, (5, 3))
    size = 4 * b.period
    total = sum(np.cos((x * fx + y * fy) * 2 * math.pi / size + math.pi * phase) for fx, fy, phase in waves)
    return np.clip(0.5 + 0.25 * total, 0, 1)


TEXTURES: dict[str, Callable[[Background, np.ndarray, np.ndarray], np.ndarray]] = {
    "noise": noise,
    "stripes": stripes,
    "checks": checks,
    "gradient": gradient,
    "blotches": blotches,
}


def draw(scene: Scene) -> Image.Image:
    """The picture, with smooth edges and a little grain in the background."""
    y, x = np.mgrid[: scene.height, : scene.width]
    b = scene.background
    share = TEXTURES[b.texture](b, x, y)
    share = share + np.random.RandomState(b.seed ^ 1).uniform(-0.1, 0.1, share.shape)
    dark, light = np.array(b.dark, np.float32), np.array(b.light, np.float32)
    pixels = dark + share.astype(np.float32)[..., None] * (light - dark)  # [height, width, channel]
    for o in scene.objects:
        top, left = max(0, o.y - o.radius - 1), max(0, o.x - o.radius - 1)
        here = np.s_[top : o.y + o.radius + 1, left : o.x + o.radius + 1]
        cover = np.clip(inside(o.shape, o.radius, x[here] + 0.5 - o.x, y[here] + 0.5 - o.y) + 0.5, 0, 1)[..., None]
        pixels[here] += cover * (np.array(o.rgb) - pixels[here])
    return Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8))


def squares(scene: Scene, side: int) -> list[int]:
    """What each side x side square of the picture shows, row by row: the index of an object if it shows at least half
    as much of it as any square does; LITTLE if it shows less of one; else NOTHING."""
    lefts, tops = np.meshgrid(np.arange(0, scene.width, side), np.arange(0, scene.height, side))
    shown = np.full(lefts.shape, NOTHING)
    most = np.zeros(lefts.shape)
    for i, (left, top, right, bottom) in enumerate(o.box for o in scene.objects):
        width = np.minimum(right, lefts + side) - np.maximum(left, lefts)
        height = np.minimum(bottom, tops + side) - np.maximum(top, tops)
        area = np.maximum(width, 0) * np.maximum(height, 0)
        good = area >= area.max() / 2
        shown = np.where(good & (area > most), i, np.where((area > 0) & (shown == NOTHING), LITTLE, shown))
        most = np.where(good, np.maximum(area, most), most)
    return [int(i) for i in shown.flat]


def describe(scene: Scene) -> str:
    *first, last = map(str, scene.objects)
    return f"{', '.join(first)} and {last}" if first else last


def all_questions(scene: Scene) -> list[Question]:
    """All questions about a scene, in every wording."""
    questions = [Question("description", text, describe(scene)) for text in DESCRIPTIONS]
    questions += [Question("count", text, COUNTS[len(scene.objects)]) for text in HOW_MANY]
    for i, o in enumerate(scene.objects):
        questions.append(Question("color", f"What color is the {o.shape}?", o.color, i))
        questions.append(Question("shape", f"What shape is {o.color}?", o.shape, i))
    return questions


def training_questions(rng: random.Random, scene: Scene) -> list[Question]:
    """A description, a count, the color of every object and the shape of one."""
    questions = all_questions(scene)
    by_kind = {kind: [q for q in questions if q.kind == kind] for kind in ("description", "count", "shape")}
    colors = [q for q in questions if q.kind == "color"]
    return [*colors, *(rng.choice(same) for same in by_kind.values())]


def held_out_scenes(rng: random.Random, count: int) -> list[Scene]:
    """Scenes that no training batch has, with one, two and three objects in turn."""
    return [make_scene(rng, 1 + i % 3, held_out=True) for i in range(count)]


TEST_SCENE = Scene(
    128,
    128,
    Background("blotches", (104, 112, 118), (150, 148, 138), 12, 0.6, 0),
    (
        SceneObject("circle", "red", COLORS["red"], 40, 42, 24),
        SceneObject("square", "blue", COLORS["blue"], 88, 86, 28),
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=TEST_IMAGE, help="picture to write (default: testimg.png)")
    parser.add_argument("--seed", type=int, help="draw a random scene held out of training instead")
    args = parser.parse_args(argv)
    rng = random.Random(args.seed)
    scene = TEST_SCENE if args.seed is None else make_scene(rng, rng.randint(1, 3), held_out=True)
    draw(scene).save(args.output)
    for question in all_questions(scene):
        print(f"{question.text:32} {question.answer}")
    print(f"saved to {args.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
