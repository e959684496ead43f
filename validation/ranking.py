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
from validation.statistics import bootstrap, hits, signed, spearman
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
            if not of_program and len(traced.get(text, ())) == len(scores[EXACT]):
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


def agreement_table(rows: dict[str, list[dict[str, Any]]]) -> str:
    """The scores by their mean rank correlation, with its paired difference from the default; `rows` by task."""
    found = {task: judged(each) for task, each in rows.items()}
    names = [name for name in next(iter(found.values())) if all(name in each for each in found.values())]
    columns = (*list(JUDGED)[:2], "correlation minus the default's")
    titles = [f"{TASKS[task]}: {how}" for task in rows for how in columns]
    lines = [f"| score | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    for name in sorted(names, key=lambda name: -sum(np.mean(found[task][name]["rank correlation"]) for task in rows)):
        cells = []
        for task in rows:
            first, second, _ = found[task][name].values()
            difference = np.subtract(first, found[task][DEFAULT]["rank correlation"])
            cells += [str(bootstrap(first)), str(bootstrap(second))]
            cells.append("" if name == DEFAULT else signed(bootstrap(difference.tolist())))
        lines.append(f"| {f'**{name}**' if name == DEFAULT else name} | {' | '.join(cells)} |")
    counts = ", ".join(f"{len(each)} prompts of {TASKS[task]}" for task, each in rows.items())
    return f"{counts}:\n\n" + "\n".join(lines)


def by_task(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    return {task: mine for task in TASKS if (mine := [row for row in rows if row["task"] == task])}


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
    for task in TASKS:
        print(funnel(task))
    lengths = [len(found["tokens"]) for found in Store("program").known.values()]
    print(f"tokens in a prompt: {min(lengths)} to {max(lengths)}")
    rows = joined()
    print("\n" + agreement_table(by_task(joined(of_program=True))))
    print("\n" + agreement_table(by_task(rows)))
    if traced := [row for row in rows if "FlashTrace" in row["scores"]]:
        print("\n" + agreement_table(by_task(traced)))
    for task, mine in by_task(list(Store("curves").known.values())).items():
        print("\n" + curve_table(task, mine))
    missed = [found["completeness missed by"] for found in Store("others").known.values()]
    print(f"\nintegrated gradients miss completeness by {bootstrap(missed)} in ln p")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
