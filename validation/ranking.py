"""Is the ranking right? Tables of how well each score agrees with exact effects, and what its curves are.

In:  output/validation/program.jsonl, others.jsonl, curves.jsonl and flashtrace.jsonl (validation/measure.py, curves.py,
     flashtrace_scores.py), as far as they are there.
Out: Markdown on stdout. Every interval is a 95 % bootstrap over prompts; a difference is paired.

    python -m validation.ranking
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from validation.curves import EXACT, SHARES, scores_of
from validation.statistics import Interval, bootstrap, hits, spearman
from validation.stored import Store

DEFAULT = "Full l2, root of squares"
TASKS = {"names": "indirect objects", "facts": "facts"}
JUDGED: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {  # (scores, falls) of the ranked tokens
    "rank correlation": lambda scores, falls: spearman(scores, np.abs(falls)),
    "strongest found": lambda scores, falls: hits(scores, falls, 1),
    "of the three strongest": lambda scores, falls: hits(scores, falls, 3),
}


def joined(of_program: bool = False) -> list[dict[str, Any]]:
    """For each prompt its task, its scores [n] and its falls [n]: those that have been scored in every way.

    With `of_program` all prompts, and the program's scores alone.
    """
    program, others, traced = (Store(name).known for name in ("program", "others", "flashtrace"))
    rows = []
    for text, found in program.items():
        if text in others or of_program:
            scores = scores_of(found, {"scores": {}} if of_program else others[text])
            if len(traced.get(text, ())) == len(scores[EXACT]):
                scores["FlashTrace"] = np.array(traced[text])
            rows.append({"task": found["task"], "scores": scores, "falls": -np.array([*found["effect"], 0.0])})
    return rows


def judged(rows: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """For each score and each judge one value a prompt. Position 0 and the last are not ranked."""
    names = [name for name in rows[0]["scores"] if name != EXACT and all(name in row["scores"] for row in rows)]
    return {
        name: {
            how: [judge(row["scores"][name][1:-1], row["falls"][1:-1]) for row in rows] for how, judge in JUDGED.items()
        }
        for name in names
    }


def agreement_table(task: str, rows: list[dict[str, Any]]) -> str:
    """The scores, best rank correlation first, with the paired difference from the default."""
    found = judged(rows)
    order = sorted(found, key=lambda name: -float(np.mean(found[name]["rank correlation"])))
    lines = [
        f"{len(rows)} prompts of {TASKS[task]}:",
        "",
        f"| score | {' | '.join(JUDGED)} | correlation minus the default's |",
    ]
    lines.append("|---" * (len(JUDGED) + 2) + "|")
    for name in order:
        cells = [str(bootstrap(values)) for values in found[name].values()]
        difference = np.subtract(found[name]["rank correlation"], found[DEFAULT]["rank correlation"])
        shown = "" if name == DEFAULT else signed(bootstrap(difference.tolist()))
        lines.append(f"| {f'**{name}**' if name == DEFAULT else name} | {' | '.join(cells)} | {shown} |")
    return "\n".join(lines)


def signed(found: Interval) -> str:
    return f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def curve_measures(row: dict[str, Any], name: str) -> dict[str, float]:
    """In probabilities: areas under the deletion and insertion curves, and ERASER's two measures over SHARES."""
    whole, empty = np.exp(row["whole"]), np.exp(row["empty"])
    removed, kept = (np.exp(row["curves"][name][kind]) for kind in ("removed", "kept"))
    places = (0.0, *SHARES, 1.0)
    return {
        "deletion (low is good)": float(np.trapezoid([whole, *removed, empty], places)),
        "insertion (high)": float(np.trapezoid([empty, *kept, whole], places)),
        "comprehensiveness (high)": float(np.mean(whole - removed)),
        "sufficiency (low)": float(np.mean(whole - kept)),
    }


def curve_table(task: str, rows: list[dict[str, Any]]) -> str:
    measures = {name: [curve_measures(row, name) for row in rows] for name in rows[0]["curves"]}
    titles = list(next(iter(measures.values()))[0])
    order = sorted(measures, key=lambda name: float(np.mean([each[titles[0]] for each in measures[name]])))
    lines = [f"{len(rows)} prompts of {TASKS[task]}:", "", f"| score | {' | '.join(titles)} |"]
    lines.append("|---" * (len(titles) + 1) + "|")
    for name in order:
        cells = [str(bootstrap([each[title] for each in measures[name]])) for title in titles]
        lines.append(f"| {f'**{name}**' if name == DEFAULT else name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def funnel(task: str) -> str:
    """How many prompts were made, how many had an answer of one token, how many of these were right."""
    from validation.measure import SEED
    from validation.measure import TASKS as MAKERS

    texts = {prompt.text for prompt, _ in zip(MAKERS[task](SEED), range(2000), strict=False)}
    found = [said for text, said in Store("right").known.items() if text in texts]
    single = [said for said in found if said != "several tokens"]
    return f"{TASKS[task]}: {len(found)} made, {len(single)} with an answer of one token, {single.count('right')} right"


def main() -> int:
    rows, curves = joined(), list(Store("curves").known.values())
    for task in TASKS:
        print(f"\n{funnel(task)}\n")
        print(agreement_table(task, [row for row in joined(of_program=True) if row["task"] == task]) + "\n")
        print(agreement_table(task, [row for row in rows if row["task"] == task]))
        if mine := [row for row in curves if row["task"] == task]:
            print("\n" + curve_table(task, mine))
    missed = [found["completeness missed by"] for found in Store("others").known.values()]
    print(f"\nintegrated gradients miss completeness by {bootstrap(missed)} in ln p")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
