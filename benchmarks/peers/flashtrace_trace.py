"""FlashTrace (one score for each prompt token, all layers together), in its own environment: time.

.venv-peers/flashtrace/bin/python -m benchmarks.peers.flashtrace_trace FOLDER 16=3,64=3
"""

import sys

from flashtrace import FlashTrace

from benchmarks.peers import timed


def main() -> int:
    folder, lengths = timed.asked()
    model, tokenizer = timed.loaded(folder, attn_implementation="eager")  # it needs the attention weights
    plain, _ = timed.loaded(folder)

    def trace(prompt: str) -> float:
        tracer = FlashTrace(model, tokenizer)
        return timed.seconds(lambda: tracer.trace(prompt=prompt, target=timed.ANSWER, output_span=(0, 0), hops=1))

    return timed.tell({"times": timed.ratios(plain, tokenizer, {"FlashTrace, 1 hop": trace}, lengths)})


if __name__ == "__main__":
    sys.exit(main())
