"""How far experiments are: cells done, running, failed, missing, and the time left. Needs no model and no cluster.

    python scripts/status.py [experiment=table_llava15] [results=results] [watch=10]

``experiment`` is a name, with or without its backbone at the end; without it, all that were begun are listed.
``watch=10`` prints again every 10 seconds until nothing is left to do. Exit status 1 where cells have failed, 2 where
there is no such experiment.
"""

from __future__ import annotations

import sys

from clasp.cli.status import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], str(__doc__)))
