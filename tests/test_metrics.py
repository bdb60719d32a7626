"""How programs print their metrics, and what must not be taken for one: a comma that can be a decimal
one, a progress line in the scorer, another's value, a line of hostile length."""

from __future__ import annotations

import time
from pathlib import Path

import bench
import pytest
import tiny

from autoresearch_action import brief as briefs
from autoresearch_action.errors import InputError
from autoresearch_action.trials import metric_files
from autoresearch_action.trials.metrics import MAX_NAMES, NoMetric, Printed

NAME = "val_bpb"


def read(text: str, strict: bool = True, name: str = NAME) -> Printed:
    printed = Printed((name,), strict)
    for line in text.replace("\r", "\n").split("\n"):
        printed.feed(line)
    printed.end()
    return printed


def why(printed: Printed, phase: str = "evaluate") -> str:
    """Why there is no metric; "" where there is one."""
    try:
        printed.metric(phase)
    except NoMetric as error:
        return str(error)
    return ""


WRITTEN = {
    "a name and a number": "val_bpb: 0.5",
    "spaces": "   val_bpb   =   0.5000  ",
    "an equals sign": "val_bpb=0.5",
    "an arrow": "val_bpb -> 0.5",
    "METRIC": "METRIC val_bpb=0.5",
    "a Python dict": "{'loss': 2.0, 'val_bpb': 0.5}",
    "a dict behind words": "Results: {'val_bpb': 0.5}",
    "tensors": "{'loss': tensor(2.), 'val_bpb': tensor(0.5, device='cuda:0'), 'x': np.float64(1.0)}",
    "a tensor": "val_bpb: tensor(0.5, device='cuda:0')",
    "JSON": '{"val_bpb": 0.5}',
    "nested JSON": '{"eval": {"val_bpb": 0.5}}',
    "pretty JSON": '{\n  "eval": {\n    "val_bpb": 0.5\n  },\n  "n": [\n    1\n  ]\n}',
    "JSON that is cut off": '{\n  "val_bpb": 0.5,\n',
    "a list of records": '[\n  {"name": "val_bpb", "value": 0.5},\n  {"name": "x", "value": 1}\n]',
    "a list in a line": '[{"metric": "val_bpb", "score": 0.5}]',
    "a bracket that begins nothing": "{\nval_bpb: 0.5",
    "colours": "\x1b[1;32mval_bpb\x1b[0m: \x1b[33m0.5\x1b[0m",
    "logging": "INFO:root:val_bpb: 0.5",
    "logging with a time": "2026-01-01 12:00:00,123 - main - INFO - val_bpb: 0.5",
    "a time": "[12:00:01] val_bpb: 0.5",
    "a rank": "[rank0]: val_bpb: 0.5",
    "srun": "0: val_bpb: 0.5",
    "mpirun": "[1,0]<stdout>:val_bpb: 0.5",
    "glog": "I1130 12:00:00.123456  1234 f.cc:12] val_bpb: 0.5",
    "a bar in its way": " 50%|##  | 1/2 [00:01<00:00, 1.2it/s]\r100%|####| 2/2 [00:01<00:00, 1it/s]val_bpb: 0.5",
    "one a rank": "\n".join(f"[rank{rank}]: val_bpb: 0.5" for rank in range(8)),
    "eight times": "val_bpb: 0.5\n" * 8,
    "fields": "loss: 2 | val_bpb: 0.5",
    "fields by commas": "loss: 2, val_bpb: 0.5, lr: 1e-3",
    "words": "loss=2 acc=0.9 val_bpb=0.5",
    "markdown": "- **val_bpb**: 0.5",
    "a table": "│      val_bpb      │      0.5      │",
    "tabs": "val_bpb\t0.5",
    "an error bar": "val_bpb: 0.5 ± 0.01",
    "quotes and a comma": '"val_bpb": 0.5,',
}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("how", WRITTEN)
def test_however_a_metric_is_written_it_is_read(how: str, strict: bool) -> None:
    printed = read(WRITTEN[how], strict)
    assert printed.values.get(NAME) == 0.5
    assert why(printed, "evaluate") == ""


def test_a_progress_line_s_metric_counts_in_run_and_never_in_the_scorer() -> None:
    line = "step 100 | loss: 2 | val_bpb: 0.9"
    assert read(line, strict=False).values == {NAME: 0.9}
    assert read(line).values == {}
    final = "\n".join(
        ["epoch 1, val_bpb: 0.9", " 9%|# | 1/9 [00:01, 1it/s, val_bpb=0.8]", "val_bpb: 0.5"]
    )
    assert why(read(final), "evaluate") == ""
    assert read(final).values == {NAME: 0.5}


@pytest.mark.parametrize("name", ["round", "iter", "wall_ms/step"])
def test_a_metric_that_is_called_like_a_counter_is_read(name: str) -> None:
    assert read(f"{name}: 12", name=name).values == {name: 12.0}


@pytest.mark.parametrize(
    "more",
    [
        "val_bpb=0.1",
        "{'val_bpb': 0.1}",
        "loss: 2 | val_bpb: 0.1",
        "INFO:root:val_bpb: 0.1",
        '{\n"val_bpb": 0.1\n}',
        "val_bpb: 0,1",
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_second_value_in_whatever_form_is_refused_in_the_scorer(more: str, first: bool) -> None:
    lines = [more, "val_bpb: 0.5"] if first else ["val_bpb: 0.5", more]
    assert why(read("\n".join(lines)), "evaluate") != ""
    last = read("\n".join(lines), strict=False)
    assert last.values.get(NAME) in ((0.5,) if first else (0.1, None))


@pytest.mark.parametrize("text", ["0,989", "1,234", "12,345", "1.234,5", "0,99,1", "1,2345"])
def test_a_comma_that_can_be_a_decimal_one_is_refused_by_its_locale(text: str) -> None:
    printed = read(f"val_bpb: {text}")
    assert NAME not in printed.values
    assert f"as {text}" in why(printed, "evaluate")
    assert "locale" in why(printed, "evaluate")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1,234.5", 1234.5), ("1,234,567", 1234567.0), ("1_000", 1000.0), ("-12,345.25", -12345.25)],
)
def test_commas_that_can_only_be_thousands_are_read(text: str, value: float) -> None:
    assert read(f"val_bpb: {text}").values == {NAME: value}


def test_a_failure_names_what_was_read_and_the_nearest_line() -> None:
    told = why(read("loss: 2\nacc: 0.5\nFinal val_bpb was 0.5 at last"), "evaluate")
    assert told == (
        "`evaluate` printed no val_bpb; it printed loss, acc;"
        " the nearest line: Final val_bpb was 0.5 at last."
    )
    assert why(read("x"), "run") == "`run` printed no val_bpb, nor any other `name: value`."


@pytest.mark.parametrize(
    "line",
    ["val_bpb: 12.3 ms", "the val_bpb: 0.9 was best", "val_bpb: 12:30:11", "val_bpb: 0.9 (best)"],
)
def test_prose_and_units_are_no_metric(line: str) -> None:
    assert read(line).values == {}


def test_the_metric_is_read_however_many_names_there_are() -> None:
    printed = read(
        "\n".join(f"layer{index}: 1" for index in range(2 * MAX_NAMES)) + "\nval_bpb: 0.5"
    )
    assert printed.values[NAME] == 0.5
    assert len(printed.values) == MAX_NAMES + 1


@pytest.mark.parametrize(
    "line",
    ["1" * 4096, "a:1" + " " * 4000 + "x", "a:" + "1" * 4000 + "(", "[a] " * 1000, "{" * 4000,
     "'a':" * 1000 + "}", "INFO:" * 800, "a=1 " * 1000, "5%|" * 1300, "\x1b[" * 2000, "1," * 2000],
)  # fmt: skip
def test_no_line_takes_long(line: str) -> None:
    begin = time.process_time()
    read(line)
    assert time.process_time() - begin < 0.5


SPOKEN = """import locale, os
print("numeric", os.environ.get("LC_NUMERIC"), os.environ.get("LC_ALL"), os.environ.get("LC_CTYPE"))
open("model.txt", "w").write("0.5")
"""


def test_trials_run_under_the_numbers_of_c_whatever_the_machine_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    at = bench.make(tiny.repository(tmp_path / "r"))
    measured = bench.candidate(at, SPOKEN)
    assert "numeric C None" in (at.state / measured.log).read_text()


def test_a_decimal_comma_ends_in_a_sentence_and_in_no_value(tmp_path: Path) -> None:
    at = bench.make(tiny.repository(tmp_path / "r", score__py="print('val_bpb: 0,989')\n"))
    measured = bench.base(at)
    assert measured.outcome == "crash"
    assert "0,989" in measured.reason
    assert measured.value is None


def test_what_the_run_prints_is_never_the_scorer_s(tmp_path: Path) -> None:
    at = bench.make(tiny.repository(tmp_path / "r", score__py="print('loss: 1')\n"))
    measured = bench.candidate(at, "print('val_bpb: 0.1')\nopen('model.txt', 'w').write('1')\n")
    assert measured.outcome == "crash"
    assert "`evaluate` printed no val_bpb; it printed loss." in measured.reason


REPORTS = {
    "pytest-benchmark": '{"machine_info": {}, "benchmarks": [{"name": "a", "stats": {"min": 1, "median": 0.5}}]}',
    "hyperfine": '{"results": [{"command": "x", "mean": 0.6, "median": 0.5, "times": [0.5, 0.7]}]}',
    "asv": '{"results": {"bench.time_a": [[0.5], [], "v"], "bench.time_b": [[null], [], "v"]}, "version": 2}',
    "criterion": '{"mean": {"point_estimate": 6e8}, "median": {"point_estimate": 5e8}}',
    "go": "goos: linux\nBenchmarkFib-8   \t     300\t 500000000 ns/op\t  16 B/op\nPASS\n",
    "Google Benchmark": '{"context": {}, "benchmarks": [{"name": "a", "run_type": "iteration", "real_time": 500, "time_unit": "ms"}]}',
    "its aggregates": '{"benchmarks": [{"name": "a", "run_type": "iteration", "real_time": 9, "time_unit": "s"}, {"name": "a_median", "run_type": "aggregate", "aggregate_name": "median", "real_time": 5e8, "time_unit": "ns"}]}',
    "a plain object": '{"loss": 2, "val_bpb": 0.5}',
    "lines": "loss: 2\nval_bpb: 0.5\n",
}


def from_file(folder: Path, text: str, path: str = "") -> dict[str, float]:
    (folder / "out.json").write_text(text)
    printed = Printed((NAME,), strict=True)
    metric_files.read(printed, folder, "out.json", path)
    return printed.values


@pytest.mark.parametrize("tool", REPORTS)
def test_a_known_tool_s_report_is_read_in_seconds(tmp_path: Path, tool: str) -> None:
    assert from_file(tmp_path, REPORTS[tool])[NAME] == pytest.approx(0.5)


def test_a_path_leads_to_numbers_and_several_give_their_geometric_mean(tmp_path: Path) -> None:
    text = '{"a": [{"t": {"p50": 1.0}}, {"t": {"p50": 4.0}}], "b": -1}'
    assert from_file(tmp_path, text, "a.1.t.p50") == {NAME: 4.0}
    assert from_file(tmp_path, text, "a.*.t.p50") == {NAME: 2.0, f"{NAME}.count": 2.0}
    assert from_file(tmp_path, text, "b") == {NAME: -1.0}
    with pytest.raises(NoMetric, match=r"nothing at a\.7"):
        from_file(tmp_path, text, "a.7")
    for number in (1, 2):
        (tmp_path / "criterion" / f"{number}" / "new").mkdir(parents=True)
        estimate = f'{{"median": {{"point_estimate": {number**2 * 1e9}}}}}'
        (tmp_path / "criterion" / f"{number}" / "new" / "estimates.json").write_text(estimate)
    printed = Printed((NAME,))
    metric_files.read(printed, tmp_path, "criterion/*/new/estimates.json", "")
    assert printed.values[NAME] == pytest.approx(2.0)


IN_A_FILE = tiny.PROGRAM.replace(
    "metric: val_bpb", "metric: {name: val_bpb, file: out.json, path: eval.bpb}"
)
WRITES = "open('out.json', 'w').write('{\"eval\": {\"bpb\": ' + open('model.txt').read() + '}}')\n"
WAYS = {
    "written": (WRITES, "ok", ""),
    "not written": ("print('val_bpb: 1')", "crash", "was not written"),
    "a link": ("import os; os.symlink('/etc/passwd', 'out.json')", "crash", "cannot be read"),
    "a pipe": ("import os; os.mkfifo('out.json')", "crash", "no file of its own"),
    "a second name": (
        WRITES + "import os; os.link('out.json', 'x')",
        "crash",
        "no file of its own",
    ),
    "too large": ("open('out.json', 'wb').truncate(1 << 30)", "crash", "a metric's may have"),
    "no JSON": ("open('out.json', 'w').write('{')", "crash", "no JSON"),
    "deep": ("open('out.json', 'w').write('[' * 100_000)", "crash", "no JSON"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_metric_in_a_file_of_the_scorer_s(tmp_path: Path, way: str) -> None:
    score, outcome, reason = WAYS[way]
    at = bench.make(tiny.repository(tmp_path / "r", program=IN_A_FILE, score__py=score))
    forged = "open('model.txt', 'w').write('0.5')\nopen('out.json', 'w').write('{\"eval\": {\"bpb\": 0.1}}')\n"
    measured = bench.candidate(at, forged)
    assert measured.outcome == outcome, measured.reason
    assert reason in measured.reason
    assert measured.value == (0.5 if outcome == "ok" else None)


def test_a_committed_report_is_no_measurement(tmp_path: Path) -> None:
    root = tiny.repository(tmp_path / "r", program=IN_A_FILE, out__json='{"eval": {"bpb": 0.1}}')
    measured = bench.base(bench.make(root))
    assert measured.outcome == "crash"
    assert "out.json is there before" in measured.reason


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("{file: out.json}", "must be a name"),
        ("{name: a, file: /etc/passwd}", "in the working directory"),
        ("{name: a, file: ../out.json}", "leaves the working directory"),
        ("{name: a b, file: out.json}", "metric's name"),
        ("{name: a, file: out.json, key: b}", "must be a name"),
        ("[a]", "must be a valid string"),
    ],
)
def test_a_metric_s_file_is_one_sentence_where_it_is_wrong(
    tmp_path: Path, metric: str, words: str
) -> None:
    (tmp_path / "program.md").write_text(f"---\nrun: x\nmetric: {metric}\n---\n")
    (tmp_path / "train.py").touch()
    with pytest.raises(InputError, match=words):
        briefs.read(Path("program.md"), tmp_path)
