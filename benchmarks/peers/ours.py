"""mask-impact's own time, and the quantity that inseq's value zeroing gives, from our replay.

python -m benchmarks.peers.ours FOLDER 16=3,64=3
"""

import sys
from typing import Any

import torch

from benchmarks.peers import timed
from mask_impact import run_masking_experiment
from mask_impact.distances import distances
from mask_impact.impact.meter import Meter, Wanted
from mask_impact.impact.record import record_generation

SMALLEST = 1e-5  # inseq takes smaller scores for 0


def scores(model: Any, tokenizer: Any, prompt: str) -> list[list[float]]:
    """[tokens of the prompt, layers] as inseq has them.

    Zeroed values at one layer are `--ablation zero-value`. Where the results table compares the layer's update, inseq
    compares its output, that of the last layer after the final norm; and it divides by the sum over the tokens.
    """
    inputs = tokenizer(prompt, return_tensors="pt")
    meter = Meter(model, Wanted(), ablation="zero-value")
    columns = []
    with torch.no_grad():
        recording = record_generation(model, dict(inputs), 1, [])
        for record in recording.with_attention():
            query = record.queries[inputs["input_ids"].shape[1] - 1]
            masked = meter.attention(record, query).masked([[], *([token] for token in range(query.bias.shape[-1]))])
            outputs = meter.replay.rows(record, query, masked).update[:, 0] + query.hidden.flatten()  # [1 + N, C]
            if record.index + 1 == model.config.num_hidden_layers:
                outputs = model.model.norm(outputs)
            found = distances(outputs[0], outputs[1:] - outputs[0])[1]
            found = torch.where(found < SMALLEST, 0.0, found)
            columns.append(found / found.sum())
    return torch.stack(columns, dim=1).tolist()


def main() -> int:
    folder, lengths = timed.asked()
    model, tokenizer = timed.loaded(folder)

    def table(prompt: str, **how: Any) -> float:
        return timed.seconds(lambda: run_masking_experiment(prompt, model=model, tokenizer=tokenizer, **how))

    tools: dict[str, timed.Work] = {
        "mask-impact, every head": table,
        "mask-impact, what inseq measures": lambda prompt: table(prompt, ablation="zero-value", variants="full"),
    }
    times = timed.ratios(model, tokenizer, tools, lengths)
    return timed.tell(
        {"times": times, "scores": {prompt: scores(model, tokenizer, prompt) for prompt in timed.PROMPTS}}
    )


if __name__ == "__main__":
    sys.exit(main())
