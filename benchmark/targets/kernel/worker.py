"""One side of the contest: projects what the scorer sends. Frozen. usage: worker.py FOLDER"""

import io
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent))
from contest import serve

sys.path.insert(0, sys.argv[1])
from project import project


def answer(request):
    file = io.BytesIO()
    np.save(file, project(np.load(io.BytesIO(request), allow_pickle=False)), allow_pickle=False)
    return file.getvalue()


serve(answer)
