"""Makes the file that VQAv2's evaluation server scores, from a cell of the benchmark vqav2_testdev.

    python scripts/submission.py cell=SIGNATURE [results=results] [questions=v2_..._questions.json] [output=FILE]

`questions` is the data set's file of the whole test split: the server wants every question of it named, and those
outside of test-dev get empty answers. Exit status: 0, or 2 for bad input.
"""

from __future__ import annotations

import sys

from clasp.evaluation.vqa_server import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], str(__doc__)))
