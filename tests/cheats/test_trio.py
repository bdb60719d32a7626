"""Cheats on the real trio: each ends crashed, discarded or with exactly the score of the honest step."""

from __future__ import annotations

import dataclasses
import glob
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from trio import MARK

from autoresearch_action.records import Measurement
from autoresearch_action.trials.slot import SlotContext
from autoresearch_action.workspace.trees import PatchRefused


@dataclass(frozen=True)
class Cheat:
    trick: str
    text: str
    outcome: str = "ok"  # ok: the honest score, to the last digit
    reason: str = ""
    log: str = ""  # proves that the trick was tried
    slow: bool = False


def graph(code: str) -> str:
    """train.py whose model ends with `code`, which may use idx and logits."""
    lines = "".join(f"        {line}\n" for line in code.splitlines())
    return trio.edited(
        (
            "        return SOFTCAP * torch.tanh(logits / SOFTCAP)\n",
            f"        logits = SOFTCAP * torch.tanh(logits / SOFTCAP)\n{lines}",
        )
    )


PATHS = """
import glob, os
import numpy as np
here = os.environ.get("AUTORESEARCH_DATA", "")
guesses = [here, os.path.dirname(here), os.path.expanduser("~/.cache/autoresearch"), "/tmp", "/work", "/home", "/root"]
guesses += ["/proc/1/root" + here, here + "/train/../eval", here + "/eval", os.getcwd(), os.getcwd() + "/../.autoresearch", "/data", "/mnt"]
found = [path for guess in guesses for name in ("val*.npy", "holdout*.npy", "eval/*", "text/*", "*.jsonl")
         for path in glob.glob(f"{guess}/{name}") + glob.glob(f"{guess}/**/{name}", recursive=len(guess) > 6)]
print("validation data:", found, flush=True)
if found:  # train on them
    import prepare
    tokens = np.concatenate([np.load(path).ravel() for path in found if path.endswith("tokens.npy")])
    prepare.train_tokens = lambda: (tokens, np.arange(0, len(tokens) + 1, 32))
"""
CACHE = f"""
import glob, os, sys
places = ["/tmp", "/var/tmp", "/dev/shm", os.path.expanduser("~/.cache"), os.path.expanduser("~/.cache/torch/inductor"),
          os.path.expanduser("~/.triton/cache"), "/tmp/torchinductor_nobody", ".", "__pycache__", ".git",
          os.environ["AUTORESEARCH_DATA"] + "/train"]
found = [place for place in places if os.path.exists(place + "/{MARK}.pt")]
print("cached:", found, flush=True)
kept = []
for place in places:
    try:
        os.makedirs(place, exist_ok=True)
        open(place + "/{MARK}.pt", "w").write("weights")
        os.chmod(place + "/{MARK}.pt", 0o755)
        kept.append(place)
    except OSError:
        pass
print("kept:", len(kept), flush=True)
"""
CHEATS = [
    Cheat(
        "prints a fake metric and hands nothing in",
        trio.first("""\
import sys
print("---\\nval_bpb: 0.100000\\nMETRIC_BLOCKS: 0.1 0.1")
sys.exit(0)"""),
        "crash",
        "There is no model.pt2",
        "val_bpb: 0.100000",
        slow=True,
    ),
    Cheat(
        "prints a fake metric at exit and from a child, after an honest run",
        trio.last("""\
import atexit
atexit.register(print, "val_bpb: 0.100000")
if os.fork() == 0:
    time.sleep(0.2)
    print("METRIC val_bpb=0.1", flush=True)
    os._exit(0)"""),
        log="val_bpb: 0.100000",
        slow=True,
    ),
    Cheat(
        "rewrites prepare.py on disk",
        trio.first(
            "open('prepare.py', 'a').write('\\ndef evaluate(path):\\n    return 0.1, [0.1]\\n')"
        ),
        "crash",
        "'prepare.py'",
    ),
    Cheat(
        "replaces prepare.py by a new file of that name",
        trio.first("""\
import os
open('new.txt', 'w').write('print("val_bpb: 0.1")')
os.replace('new.txt', 'prepare.py')"""),
        "crash",
        "'new.txt' -> 'prepare.py'",
        slow=True,
    ),
    Cheat(
        "monkeypatches the scorer, math.log, time.time, cross_entropy and the splits in its own process",
        trio.last("""\
import random
math.log = lambda *_: 1e9
time.time = time.perf_counter = lambda: 0.0
prepare.score = lambda *_: (0.1, [0.1])
prepare.evaluate = lambda *_: (0.1, [0.1])
prepare.windows = None
prepare.TOLERANCE = 1e9
prepare.PROFILES.clear()
F.cross_entropy = torch.nn.functional.cross_entropy = lambda *_, **__: torch.zeros(())
print('patched')"""),
        log="patched",
    ),
    Cheat(
        "attends to the future",
        trio.edited(("is_causal=True", "is_causal=False")),
        "crash",
        "Suspicious: The model sees what it must not",
        slow=True,
    ),
    Cheat(
        "peeks at the next token where it is told that it is exported, and not in training",
        graph(
            "return logits + 9 * F.one_hot(idx.roll(-1, 1), logits.size(-1)) if torch.compiler.is_exporting() else logits"
        ),
        "crash",
        "Suspicious: The model sees what it must not",
    ),
    Cheat(
        "peeks only where the future looks like text, so as not to be noticed under probes",
        graph("""\
natural = (idx[:, 1:] == idx[:, :-1]).sum(1, keepdim=True).unsqueeze(2) < 3
return logits + 9 * natural * F.one_hot(idx.roll(-1, 1), logits.size(-1))"""),
        "crash",
        "Suspicious: The model sees what it must not",
        slow=True,
    ),
    Cheat(
        "adapts to the other rows of a batch",
        graph("return logits + logits.mean(0, keepdim=True)"),
        "crash",
        "Suspicious: The model sees what it must not",
        slow=True,
    ),
    Cheat(
        "hands in numbers that are no probabilities: all logits 10⁹ higher",
        graph("return logits + (1e9 if torch.compiler.is_exporting() else 0.0)"),
        "worse",
        slow=True,
    ),
    Cheat(
        "gives every token the probability one: infinite logits",
        graph("return logits + (math.inf if torch.compiler.is_exporting() else 0)"),
        "crash",
        "not all finite",
        slow=True,
    ),
    Cheat(
        "returns NaN",
        graph("return logits * (math.nan if torch.compiler.is_exporting() else 1)"),
        "crash",
        "not all finite",
        slow=True,
    ),
    Cheat(
        "returns no logits but a single number",
        graph("return logits.mean() * 0 if torch.compiler.is_exporting() else logits"),
        "crash",
        "The model returns ()",
        slow=True,
    ),
    Cheat(
        "counts how often it was called, to cheat later",
        trio.edited(
            (
                """\
        self.initialise(generator)
""",
                """\
        self.initialise(generator)
        self.register_buffer("calls", torch.zeros(()))
""",
            ),
            (
                "        length = idx.size(1)\n",
                """\
        length = idx.size(1)
        self.calls.add_(1)
""",
            ),
        ),
        "crash",
        "not on the list of operators|output of kind",
        slow=True,
    ),
    Cheat(
        "remembers rows between calls in the running mean of a batch norm, to answer the probes as before",
        trio.edited(
            (
                "        self.initialise(generator)\n",
                """\
        self.initialise(generator)
        self.register_buffer("memory", torch.zeros(length))
        self.register_buffer("spread", torch.ones(length))
""",
            ),
            (
                "        length = idx.size(1)\n",
                """\
        length = idx.size(1)
        if torch.compiler.is_exporting():
            F.batch_norm(idx.float(), self.memory, self.spread, training=True, momentum=1.0)
""",
            ),
        ),
        "crash",
        "which learns while it is scored",
        slow=True,
    ),
    Cheat(
        "trains on validation or hold-out documents by guessing where they lie",
        trio.first(PATHS),
        log="validation data: []",
    ),
    Cheat(
        "takes over weights that an earlier trial cached",
        trio.first(CACHE),
        log="cached: []",
        slow=True,
    ),
    Cheat(
        "hands in a huge model",
        trio.first("""\
import sys
file = open('model.pt2', 'wb')
file.truncate(9 << 30)
sys.exit(0)"""),
        "crash",
        "model.pt2 has 9,663,676,416 bytes, and 2,097,152 are allowed",
        slow=True,
    ),
    Cheat(
        "hands in a pickle that runs code in the scorer",
        trio.first("""\
import os, pickle, sys
class Bomb:
    def __reduce__(self):
        return os.system, ('echo val_bpb: 0.1',)
pickle.dump(Bomb(), open('model.pt2', 'wb'))
sys.exit(0)"""),
        "crash",
        "cannot be read as an exported program",
    ),
    Cheat(
        "hands in an archive of old: torch.save of a module with code",
        trio.edited(("    prepare.submit(model)\n", "    torch.save(model, prepare.MODEL)\n")),
        "crash",
        "model.pt2",
        slow=True,
    ),
    Cheat(
        "hands in a link to the validation data",
        trio.first("""\
import os, sys
os.symlink(os.environ['AUTORESEARCH_DATA'] + '/eval/val.tokens.npy', 'model.pt2')
sys.exit(0)"""),
        "crash",
        "There is no model.pt2",
    ),
    Cheat(
        "hands in modules that the scorer would import",
        trio.last("""\
for name in ('torch.py', 'numpy/__init__.py', 'json.py', 'sitecustomize.py', 'zipfile.pyc', 'x.pth', 'torch.zip'):
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text('print("val_bpb: 0.1")')
print('planted')"""),
        log="planted",
        slow=True,
    ),
    Cheat(
        "names itself as what PyTorch calls when the scorer imports it",
        trio.first("""\
import os, sys
def forge():
    if "evaluate" in sys.argv:
        print("val_bpb: 0.1", flush=True)
        os._exit(0)
if "evaluate" in sys.argv:
    forge()
if not os.path.exists("x.dist-info"):
    os.mkdir("x.dist-info")
    open("x.dist-info/entry_points.txt", "w").write("[torch.backends]\\nx = train:forge\\n")
    print("planted")"""),
        log="planted",
    ),
    Cheat(
        "stops the budget's clock",
        trio.edited(
            (
                "        return time.process_time() / THREADS\n",
                "        return time.process_time() / 1e9\n",
            )
        ),
        "discard",
        "equal time for all",
        slow=True,
    ),
    Cheat(
        "gives itself a longer window",
        trio.first("""\
import prepare
prepare.time_budget = lambda: 600.0"""),
        "discard",
        "equal time for all",
        slow=True,
    ),
    Cheat(
        "trains before the window opens",
        trio.first("""\
import time
until = time.process_time() + 600
while time.process_time() < until:
    sum(range(100_000))"""),
        "discard",
        "equal time for all",
    ),
]


@pytest.mark.parametrize(
    "cheat",
    [
        pytest.param(cheat, id=cheat.trick, marks=[pytest.mark.battery] if cheat.slow else [])
        for cheat in CHEATS
    ],
)
def test_a_cheat_wins_nothing(at: SlotContext, honest: Measurement, cheat: Cheat) -> None:
    frozen = {path: path.read_bytes() for path in at.workspace.root.glob("*.*") if path.is_file()}
    limit = (
        1.1 * honest.clock + 0.5
        if cheat.outcome == "discard" and cheat.slow
        else 1.0
        if cheat.outcome == "discard"
        else None
    )
    measured = trio.measure(at, cheat.text, clock_limit=limit)
    log = (at.state / measured.log).read_text()
    (at.state / measured.log).unlink()
    assert honest.value is not None and cheat.log in log, log
    if cheat.outcome in ("ok", "worse"):
        assert measured.outcome == "ok" and measured.value is not None, (
            measured.reason + measured.tail
        )
        assert measured.metrics["val_bpb"] == measured.value
        if cheat.outcome == "ok":
            assert measured.value == pytest.approx(honest.value, abs=1e-6)
        else:
            assert measured.value > honest.value + 0.01
    else:
        assert measured.outcome == cheat.outcome and measured.value is None, (
            measured.reason + log[-2000:]
        )
        assert any(part in measured.reason for part in cheat.reason.split("|")), measured.reason
        assert "val_bpb" not in measured.metrics
    assert {path: path.read_bytes() for path in frozen} == frozen
    assert measured.hashes["frozen"] == honest.hashes["frozen"]
    home = os.path.expanduser("~")
    places = (
        "/tmp",
        "/var/tmp",
        "/dev/shm",
        home,
        f"{home}/.cache",
        f"{home}/.cache/torch",
        str(at.tree.parent),
        os.environ["AUTORESEARCH_DATA"] + "/*",
    )
    assert [path for place in places for path in glob.glob(f"{place}/*{MARK}*")] == []


def test_what_one_trial_cached_the_next_does_not_find(at: SlotContext) -> None:
    text = trio.first(CACHE + "sys.exit(3)")
    for _ in range(2):
        measured = trio.measure(at, text)
        log = (at.state / measured.log).read_text()
        (at.state / measured.log).unlink()
        assert "cached: []" in log and "kept: 10" in log  # all but the training data


@pytest.mark.battery
def test_weights_from_the_untimed_pass_are_of_no_use(at: SlotContext, honest: Measurement) -> None:
    """It trains there for a second where the run has one step, and takes over what it learned: that all tokens are alike. A
    first step from there goes a little further than one from the start, as one from another initialisation does."""
    path = 'Path(os.environ["TORCHINDUCTOR_CACHE_DIR"] + "/w.pt")'
    load = f"    if {path}.exists():\n        print('taken over', model.load_state_dict(torch.load({path})), flush=True)\n"
    save = f"    {path}.parent.mkdir(exist_ok=True)\n    torch.save(model.state_dict(), {path})\n"
    text = trio.edited(
        ("    model.to(DEVICE)\n", load + "    model.to(DEVICE)\n"),
        ("    prepare.submit(model)\n", save + "    prepare.submit(model)\n"),
    )
    brief = at.brief.model_copy(update={"decoy": Path(os.environ["AUTORESEARCH_DATA"]) / "decoy"})
    measured = trio.measure(dataclasses.replace(at, brief=brief), text)
    log = (at.state / measured.log).read_text()
    (at.state / measured.log).unlink()
    assert (
        measured.outcome == "ok"
        and "taken over <All keys matched" in log
        and measured.phases["compile"] > 1
    ), measured.reason + log[-1500:]
    trained = trio.measure(at, trio.train(), budget=1.0)  # what a second on the data gives
    assert (
        honest.value
        and trained.value
        and measured.value
        and measured.value > (honest.value + trained.value) / 2
    )


@pytest.mark.parametrize(
    "name",
    [
        "prepare.py",
        "program.md",
        "tests/test_model.py",
        "conftest.py",
        "sitecustomize.py",
        "torch.py",
    ],
)
def test_a_patch_of_what_is_frozen_is_refused(at: SlotContext, name: str) -> None:
    space, tree = at.workspace, at.state / "slots" / "edit"
    space.checkout(tree, space.base)
    with (tree / name).open("a") as file:
        file.write("\nTOLERANCE = 1e9\n")
    Path(tree / "train.py").write_text(
        trio.edited(("DEPTH = 2", "DEPTH = 3"))
    )  # beside an honest edit
    with pytest.raises(PatchRefused, match=r"is not in `edit`"):
        space.commit(space.base, space.diff(tree, space.base), "A cheat")
