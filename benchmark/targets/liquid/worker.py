"""One side of the contest: parses and renders what the scorer sends. Frozen.

usage: worker.py FOLDER PACKAGES
"""

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))
from contest import serve

sys.path[:0] = sys.argv[1:]
import liquid  # noqa: E402

environment = liquid.Environment()


def answer(request):
    page = json.loads(request)
    index = page["sources"].pop("index")
    environment.loader = liquid.DictLoader(page["sources"])
    return environment.from_string(index).render(**page["data"]).encode()


serve(answer)
