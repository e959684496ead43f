#!/usr/bin/env python3
"""What does an image token of a vision-language model carry at each layer; which words in context are nearest to it?

In: a transformers model, images, captions. Out: hidden states of image tokens at every decoder layer, a bank of text
tokens in context, and for each image token the nearest of them (LatentLens, arXiv 2602.00462; docs/latent-lens.md); one
picture's image tokens at several sizes, compared.

    python latent_lens.py inspect --model demo --image testimg.png
    python latent_lens.py features --model demo --num-images 8 --layers all --save-features
    python latent_lens.py bank --model demo --captions demo/captions.txt --output-dir output/bank_demo
    python latent_lens.py neighbors --model demo --bank output/bank_demo --image testimg.png --static
    python latent_lens.py scales --model demo --image testimg.png --max-pixels 4096,16384
"""

import sys
from collections.abc import Sequence

from mask_impact.lens import cli


def main(argv: Sequence[str] | None = None) -> int:
    description, _, examples = (__doc__ or "").split("\n\n")
    return cli.main(description, examples, argv)


if __name__ == "__main__":
    sys.exit(main())
