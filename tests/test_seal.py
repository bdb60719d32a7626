"""The scorer's seal: a graph's process knows no target, reaches nothing, and calls listed operators.

Each way in is tried with the layers before it switched off, so that one alone is seen to hold.
"""

from __future__ import annotations

import ctypes
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path

import numpy as np
import operators
import pytest
import torch
import torch.nn.functional as F
from test_prepare import SMALL, Model, documents
from torch import Tensor

import prepare

ROWS, LENGTH = SMALL.eval_rows, SMALL.sequence


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("data")
    (folder / "text").mkdir()
    for number, text in enumerate(documents(300)):
        (folder / "text" / f"{number:03}.txt").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTORESEARCH_DATA", str(folder))
        prepare.prepare(str(folder / "text"), SMALL)
        yield folder


def python(code: str, data: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A fresh process in `folder`: the one that scores must not have computed before it forks."""
    found = f"import sys; sys.path[:0] = {sys.path!r}\n"
    return subprocess.run(
        [sys.executable, *(words or ("-c", found + code))],
        cwd=folder,
        env=os.environ | {"AUTORESEARCH_DATA": str(data), "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def asked(answer: Callable[[Tensor], object], data: Path, tmp_path: Path) -> str:
    """What a fresh process says that asks a subject whose graph is `answer`, run in there."""
    prepare.submit(Model(), tmp_path / "model.pt2")
    name = f"{answer.__module__}:{answer.__qualname__}"
    code = f"import test_seal; test_seal.ask({name!r})"
    done = python(code, data, tmp_path)
    return done.stdout + done.stderr


def ask(name: str) -> None:
    """In the fresh process: the first logits say what `answer` found, a number each."""
    answer = getattr(sys.modules[__name__], name.partition(":")[2])

    class Planted(prepare.Program):
        def __call__(self, idx: Tensor) -> Tensor:
            logits = super().__call__(idx)
            logits[0, 0, : len(found)] = torch.tensor(found := [float(x) for x in answer(idx)])
            return logits

    prepare.Program = Planted  # type: ignore[misc]
    try:
        with closing(prepare.Subject(Path("model.pt2"), asdict(SMALL))) as subject:
            x, _, _ = prepare.windows("val")
            print([round(v) for v in subject(torch.from_numpy(x[:ROWS]))[0, 0, :20].tolist()])
    except prepare.Refused as problem:
        print(type(problem).__name__, problem)


def reaches(_: Tensor) -> list[bool]:
    """What a process that runs its own code in there can do."""
    libc = ctypes.CDLL(None, use_errno=True)

    def works(call: Callable[[], object]) -> bool:
        try:
            return call() not in (-1, None)
        except OSError:
            return False

    local = ctypes.create_string_buffer(8)
    return [
        works(call)
        for call in (
            lambda: open(os.environ["AUTORESEARCH_DATA"] + "/eval/manifest.json"),
            lambda: open(f"/proc/{os.getppid()}/mem", "rb"),
            lambda: open("/tmp/left-by-the-graph", "w"),
            os.fork,
            lambda: os.kill(os.getppid(), 0) or True,
            socket.socket,
            lambda: os.memfd_create("shared"),
            lambda: libc.ptrace(16, os.getppid(), 0, 0),
            lambda: libc.process_vm_readv(os.getppid(), local, 1, local, 1, 0),
            lambda: os.execv("/bin/true", ["true"]),
            lambda: os.write(1, b"val_bpb: 0.1\n") if os.readlink("/proc/self/fd/1") else None,
        )
    ]


def test_a_graph_with_code_of_its_own_reaches_nothing(data: Path, tmp_path: Path) -> None:
    assert asked(reaches, data, tmp_path).startswith(f"[{', '.join('0' * 11)}, ")


def test_what_lies_beside_the_scorer_is_not_run(data: Path, tmp_path: Path) -> None:
    prepare.submit(Model(), tmp_path / "model.pt2")
    (tmp_path / "prepare.py").write_text(Path(prepare.__file__).read_text())
    (tmp_path / "train.py").write_text("print('val_bpb: 0.1', flush=True)\n")
    told = tmp_path / "a.dist-info" / "entry_points.txt"
    told.parent.mkdir()
    told.write_text("[torch.backends]\na = train:main\n")
    done = python("", data, tmp_path, "prepare.py", "evaluate")
    assert re.fullmatch(r"METRIC_BLOCKS: .*\nval_bpb: [1-9]\.\d+\n", done.stdout), done


def files_open(_: Tensor) -> list[int]:
    """How many files it can read from: what two processes read, they can leave traces in."""

    def reads(number: int) -> bool:
        try:
            return os.pread(number, 1, 0) != b""
        except OSError:
            return False

    return [sum(map(reads, range(64)))]


def test_a_graph_has_no_file_open(data: Path, tmp_path: Path) -> None:
    assert asked(files_open, data, tmp_path).startswith("[0, ")


def dies(_: Tensor) -> list[float]:
    ctypes.string_at(0)
    return []


def test_a_graph_that_crashes_its_process_is_suspicious(data: Path, tmp_path: Path) -> None:
    told = asked(dies, data, tmp_path)
    assert told.startswith("Suspicious The process of the model died (SIGSEGV)")


def mixed(rows: np.ndarray) -> np.ndarray:
    """A hash of each three neighbours, so that what is looked for need not itself be in memory."""
    rows = rows.astype(np.uint64)
    with np.errstate(over="ignore"):
        one, two = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
        mix = (rows[..., :-2] * one + rows[..., 1:-1]) * two + rows[..., 2:]
        return mix ^ (mix >> np.uint64(29))


def refused_at_once() -> None:
    """In a fresh process: a submission that cannot be read, asked after its process has gone."""
    Path("model.pt2").write_bytes(b"no archive")
    try:
        with closing(prepare.Subject(Path("model.pt2"), asdict(SMALL))) as subject:
            os.waitid(os.P_PID, subject.process, os.WEXITED | os.WNOWAIT)
            subject(torch.zeros(ROWS, LENGTH, dtype=torch.int64))
    except prepare.Refused as problem:
        print(problem)


def test_a_process_that_has_gone_has_said_why(data: Path, tmp_path: Path) -> None:
    code = "import test_seal; test_seal.refused_at_once()"
    done = python(code, data, tmp_path)
    assert done.stdout.startswith("model.pt2 cannot be read as an exported program: BadZipFile")


def counts_targets(_: Tensor) -> list[int]:
    """How many of the rows' last three targets lie in this process's memory (the last of them is
    no input), and of their last three ids.
    """
    wanted = [np.load(f"{name}.npy") for name in ("y", "x")]
    found: list[set[int]] = [set(), set()]
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            low, high, kind = re.match(r"(\w+)-(\w+) (\S+)", line).groups()  # type: ignore[union-attr]
            size = int(high, 16) - int(low, 16)
            if kind.startswith("rw") and size < 1 << 28:
                memory.seek(int(low, 16))
                try:
                    held = np.frombuffer(memory.read(size), np.uint64)
                except OSError:
                    continue
                hashes = mixed(held) if len(held) > 2 else held
                for place, want in enumerate(wanted):
                    found[place] |= set(want[np.isin(want, hashes)].tolist())
    return [len(one) for one in found]


def counted_unsealed(idx: Tensor) -> list[int]:
    return [min(1, number) for number in counts_targets(idx)]


def test_no_target_lies_in_the_memory_of_a_graph(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the doors open, so that it can look at all of itself."""
    x, y, _ = prepare.windows("val")
    # Rows whose last target is told by no id before it
    rows = [row for row in range(ROWS) if y[row, -3:].tobytes() not in x[:ROWS].tobytes()]
    for name, array in (("x", x), ("y", y)):
        np.save(tmp_path / f"{name}.npy", mixed(array[rows, -3:])[:, 0])
    monkeypatch.setenv("UNSEALED", "1")
    assert len(rows) > ROWS // 2
    assert asked(counted_unsealed, data, tmp_path).startswith("[0, 1, ")


if os.environ.get("UNSEALED"):
    prepare._seal = lambda card: None


def reads_beyond(idx: Tensor, logits: Tensor, _: Model) -> Tensor:
    """Finds the targets in the scorer's heap by sums over segments that nobody checks."""
    bits = idx.contiguous().view(torch.float64).flatten()
    starts = torch.arange(-1 << 14, 1 << 14, 8)
    sums = torch.segment_reduce(bits, "sum", offsets=starts, unsafe=True, initial=0.0)
    near = sums.view(torch.int64)[: idx.numel()].clamp(0, SMALL.vocabulary - 1)
    return logits + F.one_hot(near.view_as(idx), SMALL.vocabulary)


def writes_beyond(idx: Tensor, logits: Tensor, _: Model) -> Tensor:
    place = (idx[:1, :1] * 0 + (1 << 40)).view(1, 1, 1, 1)
    ones = torch.ones(1, 1, 1, 1)
    back = torch.ops.aten.max_pool2d_with_indices_backward.default(
        ones, torch.zeros(1, 1, 2, 2), [2, 2], [2, 2], [0, 0], [1, 1], False, place
    )
    return logits + back.sum()


@pytest.mark.parametrize("twist", [reads_beyond, writes_beyond])
def test_what_leaves_its_tensors_is_not_on_the_list(
    twist: Callable[..., Tensor], data: Path, tmp_path: Path
) -> None:
    prepare.submit(Model(twist), tmp_path / "model.pt2")
    with (
        (tmp_path / "model.pt2").open("rb") as file,
        pytest.raises(prepare.Refused, match=r"segment_reduce|view\.dtype|max_pool2d_with_ind"),
    ):
        prepare.Program(file, "cpu")


@pytest.mark.parametrize("twist", [reads_beyond, writes_beyond])
def test_without_the_list_it_gains_nothing(
    twist: Callable[..., Tensor], data: Path, tmp_path: Path
) -> None:
    """The layer behind: in its own process there is no target to be found."""
    prepare.submit(Model(twist), tmp_path / "model.pt2")
    code = "import prepare, functools, sys, torch\n" + (
        "prepare.listed = lambda name: functools.reduce(getattr, name.split('.'), torch.ops.aten)\n"
        "sys.exit(prepare.main(['evaluate']))"
    )
    done = python(code, data, tmp_path)
    assert done.returncode == 1
    assert re.search(r"^SUSPICIOUS: |not all finite", done.stderr, re.MULTILINE), done.stderr


# Operators whose kernels follow a number from a tensor without looking, or that hand out raw memory
UNCHECKED = """
segment_reduce.default _embedding_bag.default embedding_bag.padding_idx ctc_loss.IntList
max_pool2d_with_indices_backward.default max_unpool2d.default linalg_lu_solve.default
lu_unpack.default ormqr.default as_strided.default as_strided_scatter.default empty.memory_format
empty_strided.default new_empty.default resize.default view.dtype set.source_Storage
_cudnn_rnn.default mkldnn_linear.default quantize_per_tensor.default _sparse_mm.default
grid_sampler_2d_backward.default gather_backward.default searchsorted.Tensor lstm.data
from_file.default _unsafe_index.Tensor _unsafe_masked_index.default bincount.default
masked_select.default nonzero.default unique_dim.default _foreach_add.List add_.Tensor add.out
rand.default multinomial.default narrow.Tensor put.default _grouped_mm.default
lstm.input median.default median.dim max_pool1d.default
"""


@pytest.mark.parametrize("name", UNCHECKED.split())
def test_it_is_not_on_the_list(name: str) -> None:
    with pytest.raises(prepare.Refused, match=f"calls {re.escape(name)}, which is not on the list"):
        prepare.listed(name)


FAR = [1 << 40, -(1 << 40), 7, -8]
CHECKED: dict[str, Callable[[Tensor], Tensor]] = {
    "gather": lambda i: torch.ones(5, 5).gather(1, i.view(1, 1)),
    "gather, expanded": lambda i: torch.ones(5, 64).gather(0, i.view(1, 1).expand(1, 64)),
    "index": lambda i: torch.ones(5)[i],
    "index_add": lambda i: torch.ones(5).index_add(0, i, torch.ones(1)),
    "index_copy": lambda i: torch.ones(5).index_copy(0, i, torch.ones(1)),
    "index_fill": lambda i: torch.ones(5).index_fill(0, i, 2.0),
    "index_put": lambda i: torch.ones(5).index_put((i,), torch.ones(1)),
    "index_put, added": lambda i: torch.ones(5).index_put((i,), torch.ones(1), True),
    "index_select": lambda i: torch.ones(5, 64).index_select(0, i),
    "embedding": lambda i: F.embedding(i, torch.ones(5, 64)),
    "one_hot": lambda i: F.one_hot(i, 5),
    "scatter": lambda i: torch.ones(5).scatter(0, i, 2.0),
    "scatter_add": lambda i: torch.ones(5).scatter_add(0, i, torch.ones(1)),
    "scatter_reduce": lambda i: torch.ones(5).scatter_reduce(0, i, torch.ones(1), "amax"),
    "take": lambda i: torch.ones(5).take(i),
    "cross_entropy_loss": lambda i: F.cross_entropy(torch.ones(1, 5), i),
}


@pytest.mark.parametrize("far", FAR)
@pytest.mark.parametrize("name", CHECKED)
def test_a_listed_operator_looks_where_it_goes(name: str, far: int) -> None:
    with pytest.raises((IndexError, RuntimeError)):
        CHECKED[name](torch.tensor([far]))


@pytest.mark.parametrize("far", FAR)
def test_take_along_dim_wraps_around(far: int) -> None:
    assert torch.full((5,), 77.0).take_along_dim(torch.tensor([far]), 0).item() == 77.0


def test_attention_reads_no_more_keys_than_there_are() -> None:
    name = "torch.ops.aten.scaled_dot_product_attention.default"
    attend = prepare.Program._operator(prepare.Program.__new__(prepare.Program), name, [])
    query, key, value = (torch.ones(1, 1, length, 16) for length in (4, 8, 16))
    with pytest.raises(prepare.Refused, match="attends to 8 keys, 16 values"):
        attend(query, key, value)


def test_the_list_is_what_its_rules_make() -> None:
    assert prepare.OPERATORS.split() == operators.table()


def test_an_operator_that_is_declared_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "_listed", lambda: {"add.Tensor": "0000"})
    with pytest.raises(prepare.Refused, match=r"add\.Tensor, which PyTorch .* declares otherwise"):
        prepare.listed("add.Tensor")


def fresh(call: str, data: Path, tmp_path: Path) -> str:
    """What a function of this module prints in a process of its own, beside a model."""
    prepare.submit(Model(), tmp_path / "model.pt2")
    code = f"import test_seal; test_seal.{call}()"
    done = python(code, data, tmp_path)
    return done.stdout + done.stderr


def test_each_answers_from_memory_of_its_own(data: Path, tmp_path: Path) -> None:
    """The one that is probed must not find what the other was given."""
    assert fresh("two", data, tmp_path) == "True False\n"


def test_who_has_seen_whole_rows_is_gone_before_the_first_probe(data: Path, tmp_path: Path) -> None:
    """Two at work at a time could tell each other something, by caches if by nothing else."""
    assert fresh("watched", data, tmp_path) == "[[True, True], [False, True]]\n"


def watched() -> None:
    """Which of the two processes are there at their first questions."""
    made: list[int] = []
    there: dict[int, list[bool]] = {}

    class Watched(prepare.Subject):
        def __init__(self, path: Path, profile: dict[str, object]) -> None:
            super().__init__(path, profile)
            made.append(self.process)

        def __call__(self, idx: Tensor) -> Tensor:
            there.setdefault(self.process, [Path(f"/proc/{one}").exists() for one in made])
            logits: Tensor = super().__call__(idx)
            return logits

    prepare.Subject = Watched  # type: ignore[misc]
    prepare.evaluate(Path("model.pt2"))
    print([there[one] for one in made])


def two() -> None:
    """Whether the second process maps its own buffer, and the first one's."""
    with ExitStack() as held:
        subjects = [
            held.enter_context(closing(prepare.Subject(Path("model.pt2"), asdict(SMALL))))
            for _ in range(2)
        ]
        places = [ctypes.addressof(ctypes.c_char.from_buffer(one.memory)) for one in subjects]
        maps = Path(f"/proc/{subjects[1].process}/maps").read_text()
        ranges = [
            [int(end, 16) for end in line.split()[0].split("-")]
            for line in maps.split("\n")
            if line
        ]
        shared = [line for line in maps.split("\n") if " rw-s " in line]
        mapped = [[int(end, 16) for end in line.split()[0].split("-")] for line in shared]
        assert ranges
        print(*(any(low <= place < high for low, high in mapped) for place in reversed(places)))


def test_probes_look_where_a_loss_is_low(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One position in three hundred that peeks: half of the probes are drawn to where it gains."""
    monkeypatch.setenv("AUTORESEARCH_DATA", str(data))
    x, y, _ = (torch.from_numpy(array) for array in prepare.windows("val"))
    known = {row.numpy().tobytes(): number for number, row in enumerate(x)}
    stolen = torch.arange(y.numel()).view_as(y) % 300 == 7
    unigram = (y.flatten().bincount(minlength=SMALL.vocabulary) + 0.01).log()
    cuts = []

    def answer(idx: Tensor) -> Tensor:
        logits = unigram.expand(*idx.shape, -1).clone()
        for number, row in enumerate(idx):
            place = known.get(row.numpy().tobytes())
            if place is not None:
                logits[number] += (
                    40.0 * F.one_hot(y[place], SMALL.vocabulary) * stolen[place, :, None]
                )
        return logits

    monkeypatch.setattr(prepare, "_judge", lambda moves, cut, _: cuts.append((moves, cut)))
    prepare.score(answer, answer, "val", 0, "cpu", 256)
    ((moves, cut),) = cuts
    assert (moves.gather(1, cut) != 0).float().mean() > 0.2
