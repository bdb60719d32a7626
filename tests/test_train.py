"""train.py: real short runs on processor cores, scored through the file that they hand in."""

from __future__ import annotations

import math
import os
import re
import shutil
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
sys.path.insert(0, str(HERE / "benchmark"))
import train_gpu  # noqa: E402

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

    def go(
        command: str, edits: dict[str, str] | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        source = (HERE / "train.py").read_text()
        for name, value in ({"WIDTH": "64"} | (edits or {})).items():
            source, count = re.subn(
                rf"^{name} = .*", f"{name} = {value}", source, flags=re.MULTILINE
            )
            assert count == 1
        (tmp_path / "train.py").write_text(source)
        (tmp_path / "prepare.py").write_bytes((HERE / "prepare.py").read_bytes())
        env = (
            os.environ
            | {"AUTORESEARCH_DATA": str(data), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
            | environment
        )
        return subprocess.run(
            [sys.executable, *command.split()],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
        )

    return go


def losses(output: str) -> list[float]:
    return [
        float(loss)
        for loss in re.findall(
            r"^step \d{5} \([\d.]+%\) \| loss: ([\d.]+) \|", output, re.MULTILINE
        )
    ]


@pytest.fixture
def inside(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """train.py's own run in this process, which spares the start: what it printed. It hands nothing in."""
    monkeypatch.setattr(train, "WIDTH", 64)
    monkeypatch.setattr(prepare, "submit", lambda model: None)

    def go(code: int = 0, **environment: str) -> str:
        for name, value in environment.items():
            monkeypatch.setenv(f"AUTORESEARCH_{name}", value)
        assert train.main() == code
        return capsys.readouterr().out

    return go


def test_it_runs_on_a_decoy_and_learns_nothing(
    inside: Callable[..., str], data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data / "decoy", tmp_path / "decoy" / "train")
    told = inside(TIME_BUDGET="1", DATA=str(tmp_path / "decoy"))
    assert losses(told)[-1] > math.log(SMALL.vocabulary) - 0.1


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


def test_seeds_and_checkpoints(inside: Callable[..., str], tmp_path: Path) -> None:
    first, same, other = (losses(inside(TIME_BUDGET="0.01", SEED=seed)) for seed in "778")
    assert first and first == same != other  # the budget is one step long
    model = train.GPT(SMALL.vocabulary, SMALL.sequence, torch.Generator().manual_seed(0))
    weights = {
        name: torch.full_like(weight, 0.5)
        for name, weight in model.state_dict().items()
        if "lambdas" in name
    }
    torch.save(
        {"model": weights | {"embedding.weight": torch.zeros(3, 3), "stranger": torch.zeros(1)}},
        tmp_path / "before.pt",
    )
    assert "before.pt: 2 of" in inside(TIME_BUDGET="0.01", CHECKPOINT=str(tmp_path / "before.pt"))


def test_an_exploding_loss_stops_the_run(
    inside: Callable[..., str], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run("train.py", {"SOFTCAP": "0.0"}, AUTORESEARCH_TIME_BUDGET="60")
    assert done.returncode == 1 and re.search(r"^FAIL: loss ", done.stdout, re.MULTILINE), (
        done.stdout + done.stderr
    )
    assert not (tmp_path / "model.pt2").exists()
    monkeypatch.setattr(train, "UNEMBEDDING_LR", 1e3)
    monkeypatch.setattr(train, "SOFTCAP", 1e3)
    assert re.search(r"^FAIL: loss ", inside(1, TIME_BUDGET="60"), re.MULTILINE)


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


# ----------------------------------------------------------------------------------------------------------------------
# benchmark/train_gpu.py: another's script over our data. This one asks for what autoresearch's does, on a CPU.

OTHER = """
from kernels import get_kernel
fa3 = get_kernel("somebody/flash-attention-3").flash_attn_interface

import time, torch, torch.nn as nn, torch.nn.functional as F
from prepare import MAX_SEQ_LEN, TIME_BUDGET, Tokenizer, make_dataloader, evaluate_bpb

class Model(nn.Module):
    def __init__(self, vocabulary):
        super().__init__()
        self.embedding, self.head = nn.Embedding(vocabulary, 32), nn.Linear(32, vocabulary, bias=False)
        self.mix = nn.ModuleList(nn.Linear(32, 96, bias=False) for _ in range(2))

    def forward(self, idx, targets=None, reduction="mean"):
        x = self.embedding(idx)
        for layer, left in zip(self.mix, (MAX_SEQ_LEN // 2, MAX_SEQ_LEN)):
            q, k, v = layer(x).view(*idx.shape, 3, 2, 16).unbind(2)
            x = x + fa3.flash_attn_func(q, k, v, causal=True, window_size=(left, 0)).contiguous().view(x.shape)
        logits = self.head(x).float()
        if targets is None:
            return logits
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1), ignore_index=-1, reduction=reduction)

torch.manual_seed(42)
tokenizer = Tokenizer.from_directory()
model = Model(tokenizer.get_vocab_size())
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
loader = make_dataloader(tokenizer, 8, MAX_SEQ_LEN, "train")
begin, step = time.time(), 0
x, y, epoch = next(loader)
while step < 20 or time.time() - begin < TIME_BUDGET:
    loss = model(x, y)
    loss.backward()
    x, y, epoch = next(loader)
    optimizer.step()
    model.zero_grad(set_to_none=True)
    print(f"\\rstep {step:05d} | loss: {loss.item():.6f} | epoch: {epoch}    ", end="", flush=True)
    step += 1
print()
model.eval()
bpb = evaluate_bpb(model, tokenizer, 8)
print(f"---\\nval_bpb:          {bpb:.6f}\\ntraining_seconds: {time.time() - begin:.1f}\\nnum_steps:        {step}")
print(f"total_tokens_M:   {step * 8 * MAX_SEQ_LEN / 1e6:.3f}")
import scorer
scorer.submit(model)
"""


@pytest.mark.battery
def test_another_script_is_trained_on_our_data_and_scored_as_ours(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert train_gpu.lay_out_theirs(tmp_path / "theirs", ["sdpa"]) == "sdpa"
    (tmp_path / "theirs" / "train.py").write_text(OTHER)
    run = train_gpu.measure(tmp_path / "theirs", 3, 0.5, "sdpa")
    assert (
        run.told["num_steps"] >= 20 and 0 < run.start < 60 and run.end > 0 and run.evaluation == 0
    )
    scored = subprocess.run(
        [sys.executable, prepare.__file__, "evaluate"],
        cwd=tmp_path / "theirs",
        capture_output=True,
        text=True,
    )
    told = re.findall(r"^val_bpb: (\S+)$", scored.stdout, re.MULTILINE)
    assert run.told["val_bpb"] == pytest.approx(float(told[0]), abs=1e-4)
    _, targets, _ = prepare.windows("val")
    sizes = np.load(data / "eval" / "token_bytes.npy")[targets]
    assert (
        run.told["val_bpb"] < math.log2(SMALL.vocabulary) * (sizes > 0).sum() / sizes.sum() - 0.1
    )  # it learned something
    (tmp_path / "theirs" / "train.py").write_text("import nothing_of_that_name")
    with pytest.raises(
        train_gpu.Failed, match=r"(?s)theirs, seed 3: train.py ended with 1.*nothing_of_that_name"
    ):
        train_gpu.measure(tmp_path / "theirs", 3, 0.5, "sdpa")


def test_the_adapter_packs_whole_documents_and_windows_attention(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "scorer", prepare)
    import autoresearch_adapter as adapter

    def first(seed: str) -> tuple[torch.Tensor, torch.Tensor, int]:
        monkeypatch.setenv("AUTORESEARCH_SEED", seed)
        return next(
            adapter.make_dataloader(
                adapter.Tokenizer.from_directory(), 16, SMALL.sequence, "train", 50
            )
        )

    x, y, epoch = first("5")
    assert epoch == 1 and (x[:, 0] == prepare.BOS).all() and (x[:, 1:] == y[:, :-1]).all()
    assert torch.equal(x, first("5")[0]) and not torch.equal(x, first("6")[0])
    text = np.asarray(prepare.train_tokens()[0]).astype(np.uint16).tobytes()
    for row in torch.cat([x, y[:, -1:]], 1).numpy().astype(np.uint16):
        for piece in np.split(row, np.flatnonzero(row == prepare.BOS)):
            assert piece.tobytes() in text  # from its BOS on
    q, k, v = torch.randn(3, 2, 16, 2, 8, generator=torch.Generator().manual_seed(0))
    ago = torch.arange(16)[:, None] - torch.arange(16)[None, :]
    for left in (-1, 0, 5, 14, 15, 16):
        seen = (ago >= 0) & (ago <= (left if left >= 0 else 16))
        weight = (
            (torch.einsum("bihd,bjhd->bhij", q, k) / 8**0.5)
            .masked_fill(~seen, -math.inf)
            .softmax(-1)
        )
        expected = torch.einsum("bhij,bjhd->bihd", weight, v)
        torch.testing.assert_close(
            adapter.flash_attn_func(
                q, k, v, causal=True, window_size=(left, 0 if left >= 0 else -1)
            ),
            expected,
        )


def test_without_a_card_the_benchmark_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train_gpu.py"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert train_gpu.main() == 3
    told = capsys.readouterr()
    assert (
        told.err.startswith("There is no CUDA card") and told.err.count("\n") == 1 and not told.out
    )


def test_the_verdict_needs_an_interval() -> None:
    def side(*values: float) -> list[train_gpu.Run]:
        names = dict.fromkeys(
            ("training_seconds", "peak_vram_mb", "mfu_percent", "total_tokens_M", "num_steps"), 1.0
        )
        return [train_gpu.Run(names | {"val_bpb": value}, 1.0, 1.0) for value in values]

    low, high = (
        side(*(0.98 + i / 1000 for i in range(6))),
        side(*(0.99 + i / 900 for i in range(6))),
    )
    assert train_gpu.report({"ours": low, "theirs": high})[-1].startswith(
        "Ours reached the lower val_bpb: theirs − ours +0.0102"
    )
    assert train_gpu.report({"ours": high, "theirs": low})[-1].startswith("Ours did NOT reach")
    assert train_gpu.report({"ours": low[:3], "theirs": high[:3]})[-1].startswith("Chance aside")
