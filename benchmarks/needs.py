"""What an analysis of a large model needs, counted from its shape: operations and bytes. Nothing is run.

In:  a Shape, and how many text and image tokens a prompt has.
Out: operations of the recorded forward and of the replay; bytes of the weights, of keys and values, of the float32 copy
of one layer, and of the rows of one call.

A matrix product [m, k] x [k, n] counts 2 m k n operations. Norms, softmax and activations are left out: memory and
launches limit them, not operations. tests/test_needs.py holds the counts against torch's own counter in real runs.
"""

from dataclasses import dataclass

from benchmarks.models import FRAMES, MERGE, PATCH, VISION, Shape, Tower
from mask_impact.model.memory import GPU_MEMORY_BUDGET, VECTORS_PER_ROW

LOW, FULL = 2, 4  # bytes of a number: in bfloat16, and in float32, in which layers are replayed
PIXELS = 3 * FRAMES * PATCH**2  # numbers of a patch
UNMASKED = 2  # rows of a replay beside the masks
TEXT_TOKENS, IMAGE_TOKENS = 30, 1000
# https://huggingface.co/Qwen/Qwen3-VL-8B-Instruct/blob/main/config.json
LARGE = Shape("Qwen3-VL-8B's shape", 36, 4096, 12288, 32, 8, tower=Tower(27, 1152, 4304, 16, (8, 16, 24)))
UNTIED = {LARGE.name}  # the embedding and the head are two matrices


@dataclass(frozen=True)
class Needs:
    """Operations and bytes of one output token's analysis, every token of the prompt masked alone."""

    shape: Shape
    length: int  # prompt tokens
    images: int = 0  # of these, image tokens

    @property
    def attended(self) -> int:
        """Numbers in all heads of one position."""
        return self.shape.heads * self.shape.head_dim

    @property
    def forward(self) -> int:
        """Operations of one forward of the decoder, with the logits of one position."""
        shape, length = self.shape, self.length
        layer = 2 * length * shape.layer_weights() + 4 * length**2 * self.attended
        return shape.layers * layer + 2 * shape.hidden * shape.vocabulary

    @property
    def vision(self) -> int:
        """Operations of the vision tower: its embedding, its blocks, and what merges patches to tokens."""
        tower = self.shape.tower
        if tower is None:
            return 0
        patches = self.images * MERGE**2
        blocks = tower.depth * (2 * patches * self._block(tower) + 4 * patches**2 * tower.hidden)
        return blocks + 2 * patches * tower.hidden * PIXELS + 2 * self.images * self._mergers(tower)

    @staticmethod
    def _block(tower: Tower) -> int:
        """Weights of a block."""
        return tower.hidden * (4 * tower.hidden + 2 * tower.mlp)

    def _mergers(self, tower: Tower) -> int:
        """Weights of the mergers: one at the end, one for each block whose features go to a decoder layer."""
        merged = tower.hidden * MERGE**2
        return (1 + len(tower.deepstack)) * merged * (merged + self.shape.hidden)

    @property
    def replay(self) -> int:
        """Operations of the replay: every row through the output projection and the MLP, one through the rest."""
        shape, width = self.shape, self.attended
        rows = (self.length + UNMASKED) * shape.hidden * (width + 3 * shape.mlp)
        before = shape.hidden * (width + 2 * shape.kv_heads * shape.head_dim)
        return shape.layers * (2 * (rows + before) + 6 * self.length * width)

    @property
    def weights(self) -> int:
        """Bytes of the weights in bfloat16, without biases and norms."""
        shape, tower = self.shape, self.shape.tower
        count = shape.layers * shape.layer_weights() + shape.hidden * shape.vocabulary * (1 + (shape.name in UNTIED))
        if tower is not None:
            count += tower.depth * self._block(tower) + tower.hidden * PIXELS + self._mergers(tower)
        return LOW * count

    @property
    def cache(self) -> int:
        """Bytes of keys and values, which the recording holds."""
        return LOW * 2 * self.shape.layers * self.length * self.shape.kv_heads * self.shape.head_dim

    @property
    def copy(self) -> int:
        """Bytes of the float32 copy of one layer's weights, while it is replayed."""
        return FULL * self.shape.layer_weights()

    @property
    def rows(self) -> int:
        """Bytes of the rows that are computed at once, at most the budget that they are split to."""
        width = max(self.shape.hidden, self.attended)
        return min(GPU_MEMORY_BUDGET, FULL * (self.length + UNMASKED) * width * VECTORS_PER_ROW)


def needs_table() -> str:
    """Two models with 1,000 image tokens, as Markdown."""
    lines = [
        f"| {IMAGE_TOKENS:,} image and {TEXT_TOKENS} text tokens, bfloat16 | weights | keys and values | float32 copy "
        "of a layer | rows at once | sum | operations: vision tower | forward | replay, in float32 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for shape in (VISION["4b"], LARGE):
        needs = Needs(shape, IMAGE_TOKENS + TEXT_TOKENS, IMAGE_TOKENS)
        sizes = [needs.weights, needs.cache, needs.copy, needs.rows]
        memory = " | ".join(f"{size / 1e9:.2f} GB" for size in [*sizes, sum(sizes)])
        work = " | ".join(f"{count / 1e12:.1f} x 10^12" for count in (needs.vision, needs.forward, needs.replay))
        lines.append(f"| {shape.name} | {memory} | {work} |")
    return "\n".join(lines)
