"""program.md: the contract as people write it, and every way of writing it wrong."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from autoresearch_action import brief as briefs
from autoresearch_action.brief import metric_names
from autoresearch_action.errors import InputError
from autoresearch_action.isolation.secrets import Secrets

PROGRAM = Path("program.md")
FULL = """---
edit: [train.py]
run: python train.py
evaluate: python prepare.py evaluate
check: pytest -q
setup: python prepare.py
metric: val_bpb
goal: minimize
measures: quality
time-budget: 300
timeout: 600
limits: {peak_vram_mb: +10%, speed: -5%, size: 45000, recall: ">= 0.9", steps: "<= 3e3"}
exact: false
transfer: {set: {DEPTH: 12}}
price: 0.001
target: 0.95
data: [~/.cache/autoresearch]
evaluate-data: [~/.cache/autoresearch-eval]
decoy: ~/.cache/autoresearch-decoy
hand-over: [model.zip]
context: [docs/format.md]
profile: python -m cProfile train.py
env: [HF_HOME]
network: false
sandbox: auto
setup-env: [PRIVATE_INDEX_TOKEN]
brief-visibility: hash
---
# What to try

Smaller batches.
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text("x = 1\n")
    (tmp_path / "prepare.py").write_text("TIME_BUDGET = 120\n")
    return tmp_path


def read(directory: Path, text: str | bytes, prose: str | None = None) -> briefs.Brief:
    (directory / PROGRAM).write_bytes(text.encode() if isinstance(text, str) else text)
    return briefs.read(PROGRAM, directory, prose)


def test_every_key_is_read(directory: Path) -> None:
    brief = read(directory, FULL)
    assert brief.prose == "# What to try\n\nSmaller batches."
    assert brief.limits["peak_vram_mb"].bounds(200.0) == (float("-inf"), pytest.approx(220.0))
    assert brief.limits["speed"].bounds(100.0) == (pytest.approx(95.0), float("inf"))
    assert brief.limits["peak_vram_mb"].bounds(0.0) == (float("-inf"), 0.0)
    assert brief.limits["size"].bounds(None) == (float("-inf"), 45000.0)
    assert brief.limits["recall"].lower == 0.9 and brief.limits["steps"].upper == 3000.0
    assert brief.transfer and brief.transfer.set == {"DEPTH": 12}
    assert brief.data == [Path("~/.cache/autoresearch").expanduser()]
    assert brief.visibility == "hash" and brief.fixed_time and brief.sign == -1
    assert set(briefs.KEYS) == {
        line.split(":")[0] for line in FULL.split("---")[1].strip().splitlines()
    }


def test_dispatched_prose_replaces_only_the_prose(directory: Path) -> None:
    file, dispatched = read(directory, FULL), read(directory, FULL, prose="Try Adam.")
    assert dispatched.prose == "Try Adam." and dispatched.run == file.run
    assert dispatched.id != file.id == "program" and dispatched.hash != file.hash


def test_what_only_agents_see_changes_no_evidence(directory: Path) -> None:
    plain = FULL.replace("context: [docs/format.md]\n", "")
    assert read(directory, FULL).hash == read(directory, plain).hash
    assert read(directory, FULL).contract != read(directory, plain).contract


def test_a_plain_autoresearch_checkout(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(directory))
    brief = read(directory, "# autoresearch\n\nThis is an experiment.\n")
    told = (brief.run, brief.metric, brief.goal, brief.time_budget)
    assert told == ("python train.py", "val_bpb", "minimize", 120.0)
    assert brief.informal
    assert brief.fixed_time
    assert brief.edit == ["train.py"]
    assert brief.setup == "python prepare.py"
    (directory / "uv.lock").write_text("")
    locked = read(directory, "---- not front matter")
    assert locked.run == ".venv/bin/python train.py"
    assert locked.setup == "uv sync --frozen && .venv/bin/python prepare.py"
    (directory / ".cache" / "autoresearch").mkdir(parents=True)
    prepared = read(directory, "# As by hand")
    assert prepared.setup == "uv sync --frozen"
    assert prepared.data == [directory / ".cache" / "autoresearch"]


@pytest.mark.parametrize(
    ("front", "key", "line"),
    [
        ("run: 3", "run", 2),
        ("runn: x", "runn", 2),
        ("run: x\ntime-budget: -1", "time-budget", 3),
        ("run: x\ntime-budget: 1.0e+99", "time-budget", 3),
        ("run: x\ntime-budget: .nan", "time-budget", 3),
        ("run: x\ntimeout: true", "timeout", 3),
        ("run: x\n\nedit: [nope.py]", "edit", 4),
        ("run: x\nedit: [../train.py]", "edit", 3),
        ("run: x\nlimits: {a: big}", "limits", 3),
        ("run: x\nlimits: {a: 1" + "0" * 400 + "}", "limits", 3),
        ("run: x\nenv: [GITHUB_TOKEN]", "GITHUB_TOKEN", 3),
        ("run: x\ntransfer: {}", "transfer", 3),
        ("run: x\nhand-over: [model.zip]", "hand-over", 3),
        ("run: x\ngoal: upwards", "goal", 3),
        ("run: x\nrun: y", "run", 3),
        ("run: python gone.py", "gone.py", 2),
        ("run: x\ndata: [/]", "data", 3),
        ("run: x\nmetric: two words", "metric", 3),
        ("run: x\nmeasures: length", "measures", 3),
        ("run: x\nenv: HF_TOKEN", "HF_TOKEN", 3),
        ("run: x\nenv: [STRIPE_SIGNING_KEY]", "STRIPE_SIGNING_KEY", 3),
        ("run: x\ndata: /", "data", 3),
        ("run: 'x", "YAML", 2),
        ("run: x\nedit: *.py", "quote what begins with", 3),
        ("run: x\nedit: [!a, %b]", "quote what begins with", 3),
        ("goal: minimize", "run", 1),
        ("run: x\n<<: {edit: ['**']}", "a key must be a word", 3),
    ],
)
def test_a_mistake_is_one_sentence_with_key_and_line(
    directory: Path, front: str, key: str, line: int
) -> None:
    with pytest.raises(InputError) as caught:
        read(directory, f"---\n{front}\n---\nprose\n")
    text = str(caught.value)
    assert key in text and f"line {line}" in text and "\n" not in text


@pytest.mark.parametrize(
    "raw",
    [b"\xff\xfe\x00", b"\x00\x01\x02", b"---\nrun: x\n", b"---\n- a\n---\n", b"x" * 1_000_001],
)
def test_what_is_no_brief_is_refused(directory: Path, raw: bytes) -> None:
    with pytest.raises(InputError):
        read(directory, raw)


def test_a_missing_brief_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="autoresearch init"):
        briefs.read(PROGRAM, tmp_path)


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.battery)])
def test_fuzzed_briefs_never_end_in_a_traceback(directory: Path, count: int) -> None:
    """So many mutations of a good brief: each is read, or refused in one sentence."""
    dice = random.Random(20)
    pieces = [b"\x00", b"\xff", b"---\n", b": ", b"- ", b"{", b"}", b"[", b"&a ", b"*a", b"!!python/object:os.system ", b"\t", b"?", b"|", b"1e999", b"~",
              b"'", b'"', b"%", b"\n", b"\r", b"0x", b"9" * 40, b"2001-01-01", b"<<: ", b"!!binary x", b".inf", "é\u2028".encode(), b"[" * 300, b"{a: " * 300]  # fmt: skip
    refused = 0
    for _ in range(count):
        raw = bytearray(FULL.encode())
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(min(len(raw), 640))
            match dice.randrange(3):
                case 0:
                    raw[at:at] = dice.choice(pieces)
                case 1:
                    del raw[at : at + dice.randint(1, 30)]
                case _:
                    raw[at] = dice.randrange(256)
        try:
            read(directory, bytes(raw))
        except InputError as error:
            refused += 1
            assert len(str(error)) < 1000 and "Traceback" not in str(error)
    assert count / 10 < refused < count


LISTS = {
    "context": ("docs/format.md", "docs/format.md"),
    "edit": ("train.py", "train.py"),
    "data": ("/srv/data", Path("/srv/data")),
    "evaluate-data": ("/srv/held", Path("/srv/held")),
    "hand-over": ("model.zip", "model.zip"),
    "env": ("HF_HOME", "HF_HOME"),
    "setup-env": ("PRIVATE_INDEX_TOKEN", "PRIVATE_INDEX_TOKEN"),
}


@pytest.mark.parametrize("key", LISTS)
def test_a_string_where_a_list_is_meant_is_a_list_of_one(directory: Path, key: str) -> None:
    text, value = LISTS[key]
    brief = read(directory, f"---\nrun: x\nevaluate: x\n{key}: {text}\n---\n")
    assert getattr(brief, key.replace("-", "_")) == [value]


def test_every_key_that_takes_a_list_is_tried_with_a_string() -> None:
    taken = {
        field.alias
        for field in briefs.Brief.model_fields.values()
        if "list" in str(field.annotation)
    }
    assert taken == set(LISTS)


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("TOKENIZERS_PARALLELISM", "false", False),
        ("TOKENIZERS_PARALLELISM", None, False),
        ("MAX_TOKENS", "512", False),
        ("HF_TOKENIZER", "gpt2", False),
        ("TOKEN_BUDGET", "500", False),
        ("MONKEY_BARS", "banana", False),
        ("SSH_KEY", __file__, False),
        ("AWS_SECRET_ACCESS_KEY", "/abc/def+ghi", True),
        ("HF_TOKEN", "hf_abcdef", True),
        ("PGPASSWORD", "12345678", True),
        ("GITHUB_TOKEN", None, True),
    ],
)
def test_secrets_are_values_not_the_letters_of_a_name(
    directory: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str | None, secret: bool
) -> None:
    monkeypatch.delenv(name, raising=False)
    if value is not None:
        monkeypatch.setenv(name, value)
    taken = Secrets.take(environ := {name: value} if value else {})
    assert (name in taken.values) is (secret and value is not None)
    assert (name in environ) is (not secret and value is not None)
    text = f"---\nrun: x\nenv: [{name}]\n---\n"
    if secret:
        with pytest.raises(InputError, match=f"{name}, which looks like a secret"):
            read(directory, text)
    else:
        assert read(directory, text).env == [name]


TIMES = (
    "total_µs elapsed wall_clock runtime p99 ttft latency median_seconds seconds_to_target "
    "tokens_per_second ops_per_s ns_per_op cpuTime elapsedMs p99_latency/ms throughput_mb_s"
)
QUALITIES = "ms_ssim us_accuracy bleu_us val_bpb time_series_mae ms_marco_mrr us_score cycles"


@pytest.mark.parametrize("name", TIMES.split())
def test_a_name_that_speaks_of_time_proposes_it(directory: Path, name: str) -> None:
    brief = read(directory, f"---\nrun: x\nmetric: {name}\ntime-budget: 5\n---\n")
    assert brief.measures_time
    assert not brief.fixed_time
    other = read(directory, f"---\nrun: x\nmetric: {name}\nmeasures: quality\n---\n")
    assert not other.measures_time


@pytest.mark.parametrize("name", QUALITIES.split())
def test_a_unit_s_letters_in_a_quality_s_name_speak_of_no_time(directory: Path, name: str) -> None:
    brief = read(directory, f"---\nrun: x\nmetric: {name}\ntime-budget: 5\n---\n")
    assert not brief.measures_time
    assert brief.fixed_time
    other = read(directory, f"---\nrun: x\nmetric: {name}\nmeasures: time\n---\n")
    assert other.measures_time


LESS = (
    "rmse mae wer fid nll peak_mb cross_entropy ns_per_op cycles val_loss error_rate latency_ms "
    "total_µs accuracy_loss neg_log_likelihood median_seconds p99 eval/loss validation-error"
)
MORE = (
    "accuracy f1 bleu throughput ops_per_s tokens_per_second us_accuracy ms_ssim reward mAP "
    "log_likelihood pass_rate speedup time_accuracy throughput_mb_s"
)


@pytest.mark.parametrize(
    ("names", "goal"), [(LESS, "minimize"), (MORE, "maximize"), ("x result depth", None)]
)
def test_which_way_a_name_says(names: str, goal: str | None) -> None:
    said = {name: metric_names.goal(name) for name in names.split()}
    assert said == dict.fromkeys(names.split(), goal)
