"""`python -m mask_impact index DIR`: the index of a folder of runs. Prompts are run by the scripts of the checkout."""

import sys


def main() -> int:
    if sys.argv[1:2] == ["index"]:
        from mask_impact.commands.index import main as index

        return index(sys.argv[2:])
    print(
        "usage: python -m mask_impact index DIR; prompts are run with mask_impact_analysis.py, mask_impact_vl.py and "
        "latent_lens.py",
        file=sys.stderr,
    )
    return 2


if __name__ == "__main__":
    sys.exit(main())
