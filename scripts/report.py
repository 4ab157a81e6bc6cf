"""Builds an experiment's tables and figures from its results files, without a model.

    python scripts/report.py experiment=tiny_main [published=1] [results=results] [wandb=offline]
    python scripts/report.py experiment=all [published=1] [results=results] [wandb=offline]

Prints the paths of what it wrote and the table itself; ``all`` builds those of every experiment that has been run, and
``report.html`` from them; ``published=1`` also sets published rows beside ours, in ``tables/<experiment>_published.*``.
``wandb=offline`` or ``wandb=online`` logs each experiment's rows and files to Weights & Biases as one run (WANDB_MODE
wins; off by default), with the project and entity of configs/config.yaml. Exit status 1, with a sentence for each thing
that cannot be built or logged, 2 for bad arguments.
"""

from __future__ import annotations

import sys

from clasp.cli.report import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], str(__doc__)))
