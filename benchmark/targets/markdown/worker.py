"""One side of the contest: renders what the scorer sends. Frozen. usage: worker.py FOLDER"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))
from contest import serve

sys.path.insert(0, sys.argv[1])
import mistune

PLUGINS = ["table", "strikethrough", "footnotes", "task_lists", "url"]
render = mistune.create_markdown(escape=False, plugins=PLUGINS)
serve(lambda request: str(render(request.decode())).encode())
