"""What a command of the lens was given, as inputs of the model: pictures and videos in one prompt.

In:  a session, the command's arguments, and pictures or videos. Out: `ModelInputs`, with tokens that know their place,
     and of a video their frame and its times.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from mask_impact.errors import UserError
from mask_impact.jobs.prepared import clips_of
from mask_impact.jobs.session import Session
from mask_impact.model.lengths import check_length
from mask_impact.options import Request
from mask_impact.prompt.inputs import ModelInputs
from mask_impact.prompt.vision import open_pictures, vision_inputs


def sampling_of(args: argparse.Namespace) -> dict[str, Any]:
    """How videos are sampled, where there are any."""
    return {"fps": args.fps, "max_frames": args.max_frames} if args.videos else {}


def check_videos(session: Session, args: argparse.Namespace) -> None:
    """Raises UserError for options of videos where there is none."""
    if not args.videos:
        clips_of(session.reader, session.source.config, Request("", fps=args.fps, max_frames=args.max_frames))


def inputs_of(
    session: Session, args: argparse.Namespace, images: Sequence[Any] = (), videos: Sequence[Any] = ()
) -> ModelInputs:
    """The prompt with these pictures and videos. Raises UserError."""
    asked = Request(args.prompt, videos=tuple(map(str, videos)), max_pixels=args.max_pixels)
    if videos:
        asked = Request(**vars(asked) | sampling_of(args))
    config = session.source.config
    clips = clips_of(session.reader, config, asked)
    inputs = vision_inputs(session.reader, config, args.prompt, open_pictures(images), args.max_pixels, clips=clips)
    check_length(session.source.text_config, len(inputs.tokens), 1)
    return inputs


def first_name(args: argparse.Namespace) -> str:
    """The name of the first picture or video, for files. Raises UserError where there is none."""
    given = [*args.images, *args.videos]
    if not given:
        raise UserError("no picture was given; give one with `images`, or a video with `videos`")
    return str(given[0].absolute().stem)  # a folder of frames can be given as "."
