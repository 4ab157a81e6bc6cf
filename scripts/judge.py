"""Scores the answers of judged benchmarks (MM-Vet, open video questions) that wait for a judge.

    python scripts/judge.py [results=results] [experiment=NAME]

The judge is a language model behind any OpenAI-compatible chat endpoint: OPENAI_BASE_URL is its address (OpenAI's own
where only a key is set), OPENAI_API_KEY its key (a server of one's own may need none), CLASP_JUDGE_MODEL the model.
What is stopped goes on where it stopped. Exit status: 0 nothing waits any more, 1 a cell still does, 2 bad input.
"""

from __future__ import annotations

import sys

from clasp.evaluation.judging.judge import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], str(__doc__)))
