"""Which images and videos a command uses: files, the files in folders, or scenes drawn for the demo model."""

import argparse
import importlib.util
import random
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

from PIL import Image

from mask_impact.errors import UserError
from mask_impact.model import find

SCENE_SEED = 0


def image_files(args: argparse.Namespace, folder: Path) -> list[Path]:
    """The requested files, each once, videos last. Drawn scenes are written to `folder`/scenes. Raises UserError."""
    videos = list(dict.fromkeys(args.videos))
    if videos and not (args.images or args.num_images or args.test_only):
        return videos
    images = _images(args, folder)
    if both := next((path for path in videos if path in images), None):
        raise UserError(f"{both} was given as an image and as a video; choose one of the two")
    return [*images, *videos]


def _images(args: argparse.Namespace, folder: Path) -> list[Path]:
    if args.test_only:
        if args.images or args.num_images:
            raise UserError("--test-only takes the test image alone; leave out --images and --num-images, or it")
        return drawn(None, folder / "scenes")
    if not args.images:
        if args.num_images is None:
            raise UserError("no images were given; give files or folders with --images, --video, or use --test-only")
        if args.model != "demo":
            raise UserError("--num-images without --images draws scenes for --model demo alone; add --images")
        return drawn(args.num_images, folder / "scenes")
    found: list[Path] = []
    for path in args.images:
        if path.is_dir():
            found += _in_folder(path)
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"there is no file or folder {path}; give image files, or folders of them")
    return list(dict.fromkeys(found))[: args.num_images]


def _in_folder(folder: Path) -> list[Path]:
    known = {name for name, kind in Image.registered_extensions().items() if Image.MIME.get(kind, "")[:6] == "image/"}
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in known and path.is_file())
    if not found:
        kinds = "PNG, JPEG, WebP, ..."
        raise UserError(f"there are no images in the folder {folder}; give a folder with image files ({kinds})")
    return found


def drawn(count: int | None, folder: Path) -> list[Path]:
    """`count` scenes like those the demo model was trained on, but new, as files; None: the test image."""
    scenes = _scenes()
    if count is None:
        pictures = {"testimg.png": scenes.TEST_SCENE}
    else:
        made = scenes.held_out_scenes(random.Random(SCENE_SEED), count)
        pictures = {f"scene_{index:04d}.png": scene for index, scene in enumerate(made)}
    folder.mkdir(exist_ok=True)
    for name, scene in pictures.items():
        scenes.draw(scene).save(folder / name)
    return [folder / name for name in pictures]


@cache
def _scenes() -> ModuleType:
    """demo/scenes.py, which lies beside the bundled models; in a checkout it is not part of a package."""
    path = find.demo_folder("vl").parent / "scenes.py"
    spec = importlib.util.spec_from_file_location("mask_impact_demo_scenes", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up there
    spec.loader.exec_module(module)
    return module
