"""train.py: real short runs on processor cores, scored through the file that they hand in."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from test_prepare import documents

import prepare
import train

HERE = Path(prepare.__file__).resolve().parent
SMALL = prepare.Profile("cpu", 64, 512, 300.0, 8192, 8, 1 << 20, 64 << 20)
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("data")
    (folder / "text").mkdir()
    for i, text in enumerate(documents()):
        (folder / "text" / f"{i:04d}.py").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTORESEARCH_DATA", str(folder))
        prepare.prepare(str(folder / "text"), SMALL)
        yield folder


@pytest.fixture
def run(data: Path, tmp_path: Path) -> Run:
    """python COMMAND in a folder with both files; `edits` rewrites knobs of train.py."""

    def go(command: str, edits: dict[str, str] | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        source = (HERE / "train.py").read_text()
        for name, value in ({"WIDTH": "64"} | (edits or {})).items():
            source, count = re.subn(rf"^{name} = .*", f"{name} = {value}", source, flags=re.MULTILINE)
            assert count == 1
        (tmp_path / "train.py").write_text(source)
        (tmp_path / "prepare.py").write_bytes((HERE / "prepare.py").read_bytes())
        env = os.environ | {"AUTORESEARCH_DATA": str(data), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | environment
        return subprocess.run([sys.executable, *command.split()], cwd=tmp_path, env=env, capture_output=True, text=True)

    return go


def losses(output: str) -> list[float]:
    return [float(loss) for loss in re.findall(r"^step \d{5} \([\d.]+%\) \| loss: ([\d.]+) \|", output, re.MULTILINE)]


def test_a_run_learns_and_hands_in_what_it_learned(run: Run, data: Path, tmp_path: Path) -> None:
    done = run("train.py", AUTORESEARCH_TIME_BUDGET="3")
    assert done.returncode == 0, done.stderr
    curve = losses(done.stdout)
    assert len(curve) >= 10 and curve[-1] < curve[0] - 0.5
    told = dict(re.findall(r"^(\w+): +([\d.]+)$", done.stdout.partition("---\n")[2], re.MULTILINE))
    assert set(told) == {"training_seconds", "total_seconds", "peak_vram_mb", "mfu_percent", "total_tokens_M", "num_steps",
                         "num_params_M", "depth"}  # fmt: skip
    assert 3.0 <= float(told["training_seconds"]) < 4.0 and int(told["num_steps"]) >= 10
    scored = run("prepare.py evaluate")
    assert scored.returncode == 0, scored.stderr
    (bpb,) = re.findall(r"^val_bpb: (\S+)$", scored.stdout, re.MULTILINE)
    _, targets, _ = prepare.windows("val")
    sizes = np.load(data / "eval" / "token_bytes.npy")[targets]
    guessing = math.log2(SMALL.vocabulary) * (sizes > 0).sum() / sizes.sum()
    assert 0.5 < float(bpb) < guessing - 0.3


def test_seeds_and_checkpoints(run: Run, tmp_path: Path) -> None:
    first, same, other = (losses(run("train.py", AUTORESEARCH_TIME_BUDGET="0.01", AUTORESEARCH_SEED=seed).stdout) for seed in "778")
    assert first and first == same != other  # the budget is one step long
    model = train.GPT(SMALL.vocabulary, SMALL.sequence, torch.Generator().manual_seed(0))
    weights = {name: torch.full_like(weight, 0.5) for name, weight in model.state_dict().items() if "lambdas" in name}
    torch.save({"model": weights | {"embedding.weight": torch.zeros(3, 3), "stranger": torch.zeros(1)}}, tmp_path / "before.pt")
    done = run("train.py", AUTORESEARCH_TIME_BUDGET="0.01", AUTORESEARCH_CHECKPOINT=str(tmp_path / "before.pt"))
    assert done.returncode == 0 and "before.pt: 2 of" in done.stdout, done.stdout + done.stderr


def test_an_exploding_loss_stops_the_run(run: Run, tmp_path: Path) -> None:
    for edits in ({"SOFTCAP": "0.0"}, {"UNEMBEDDING_LR": "1e3", "SOFTCAP": "1e3"}):
        done = run("train.py", edits, AUTORESEARCH_TIME_BUDGET="60")
        assert done.returncode == 1 and re.search(r"^FAIL: loss ", done.stdout, re.MULTILINE), done.stdout + done.stderr
        assert not (tmp_path / "model.pt2").exists()


def test_rows_are_packed_from_the_beginning_of_something(data: Path) -> None:
    tokens, _ = prepare.train_tokens()
    x, y = next(train.batches(16, SMALL.sequence, seed=5))
    assert (x[:, 0] == prepare.BOS).all() and (x[:, 1:] == y[:, :-1]).all()
    text = np.asarray(tokens).astype(np.uint16).tobytes()
    for row in torch.cat([x, y[:, -1:]], 1).numpy().astype(np.uint16):
        for piece in np.split(row, np.flatnonzero(row == prepare.BOS)):
            assert piece[1:].tobytes() in text  # every piece is a run of one document


def test_muon_steps_have_singular_values_near_one() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 64, 64), (2, 32, 128), (2, 128, 32)):
        values = torch.linalg.svdvals(train.orthogonalised(torch.randn(shape, generator=generator)))
        assert float(values.quantile(0.05)) > 0.7 and float(values.max()) < 1.3


def test_every_even_width_has_a_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    for width in (98, 128, 196, 206, 240):  # 1 / (2 / 98) is a little more than 49
        monkeypatch.setattr(train, "WIDTH", width)
        model = train.GPT(64, 16, torch.Generator().manual_seed(0))
        assert model(torch.zeros(1, 16, dtype=torch.int64)).shape == (1, 16, 64)
