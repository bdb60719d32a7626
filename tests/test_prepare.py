"""prepare.py: splits, sources, a download over a bad line, and a scorer that cannot be fooled by a graph."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import re
import subprocess
import sys
import sysconfig
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

import prepare

SMALL = prepare.Profile("cpu", 32, 400, 300.0, 4096, 8, 1 << 20, 4 << 20)


def documents(count: int = 300) -> list[str]:
    """Real text: the head of each of the standard library's files."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    files += sorted(Path(sysconfig.get_paths()["stdlib"]).glob("[a-k]*/*.py"))
    texts = [path.read_text("utf-8", "replace")[:3000] for path in files]
    return [text for text in dict.fromkeys(texts) if len(text) > 500][:count]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Prepared once from a .jsonl file, near-duplicates and all."""
    folder = tmp_path_factory.mktemp("data")
    texts = documents()
    near = [
        text.replace("return", "yield", 1).upper() + f"\n# twin {i}"
        for i, text in enumerate(texts[:60])
    ]
    (folder / "all.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in texts + near)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTORESEARCH_DATA", str(folder))
        assert prepare.prepare(str(folder / "all.jsonl"), SMALL)
        yield folder


def texts_of(folder: Path) -> dict[str, list[str]]:
    tokenizer = Tokenizer.from_file(str(folder / "train" / "tokenizer.json"))
    found = {}
    for split, part in (("train", "train"), ("val", "eval"), ("holdout", "eval")):
        tokens, starts = prepare._tokens(folder / part, split)
        assert all(tokens[starts[:-1]] == prepare.BOS)
        found[split] = tokenizer.decode_batch(
            [tokens[a + 1 : b].tolist() for a, b in zip(starts, starts[1:], strict=False)]
        )
    return found


def test_splits_are_disjoint_and_near_duplicates_stay_together(data: Path) -> None:
    texts, found = documents(), texts_of(data)
    assert Counter(
        text for side in found.values() for text in side if "# twin" not in text
    ) == Counter(texts)  # each once, as it was
    side = {text: name for name, several in found.items() for text in several}
    assert len(found["val"]) >= 0.1 * 360 and len(found["holdout"]) >= 0.2 * 360
    torn = 0
    for copy in (text for text in side if "# twin" in text):
        original = texts[int(copy.rsplit(" ", 1)[1])]
        torn += side[copy] != side[original]
    assert torn == 0
    slices = np.load(data / "eval" / "holdout.slices.npy")
    assert set(slices) == set(range(prepare.HOLDOUT_SLICES))
    inputs, targets, _ = prepare.windows("val")
    assert (inputs[:, 0] == prepare.BOS).all() and (inputs[:, 1:] == targets[:, :-1]).all()


def test_what_is_scored_is_an_excerpt_from_anywhere_in_a_document(data: Path) -> None:
    tokens, starts = prepare._tokens(data / "eval", "val")
    documents = [tokens[a + 1 : b].tobytes() for a, b in zip(starts, starts[1:], strict=False)]
    _, targets, blocks = prepare.windows("val")
    streams = [targets[blocks == block].ravel() for block in np.unique(blocks)]
    pieces = [
        piece
        for stream in streams
        for piece in np.split(stream, np.flatnonzero(stream == prepare.BOS))
        if len(piece) > 9
    ]
    found = [piece[piece != prepare.BOS].astype(tokens.dtype).tobytes() for piece in pieces]
    assert len(found) == len(documents) and all(
        any(piece in document for document in documents) for piece in found
    )
    heads = sum(any(document.startswith(piece) for document in documents) for piece in found)
    assert heads < len(found) / 2


def test_a_decoy_looks_like_the_data_and_teaches_nothing(data: Path) -> None:
    real, fake = (
        json.loads((data / part / "manifest.json").read_text()) for part in ("train", "decoy")
    )
    assert real["profile"] == fake["profile"] and {*real["files"]} == {*fake["files"]}
    tokens, starts = prepare._tokens(data / "decoy", "train")
    assert (
        tokens.dtype == prepare._tokens(data / "train", "train")[0].dtype
        and (tokens[starts[:-1]] == prepare.BOS).all()
    )
    pairs = np.bincount(tokens[1:].astype(int) % 8 * 8 + tokens[:-1].astype(int) % 8, minlength=64)
    assert pairs.min() > 0.9 * pairs.mean()  # no token tells the next


def test_preparing_again_does_nothing_and_an_edit_does(
    data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = {
        path: (path.stat().st_mtime_ns, prepare.sha256(path))
        for path in data.rglob("*.*")
        if path.name != ".lock"
    }
    assert not prepare.prepare(str(data / "all.jsonl"), SMALL)
    assert not prepare.prepare(None, SMALL)
    assert before == {path: (path.stat().st_mtime_ns, prepare.sha256(path)) for path in before}
    for part in ("train", "eval"):
        for name, facts in prepare.meta(part)["files"].items():
            assert prepare.sha256(data / part / name) == facts["sha256"]
    monkeypatch.setenv("AUTORESEARCH_DATA", str(tmp_path))
    lines = (data / "all.jsonl").read_text()
    (tmp_path / "all.jsonl").write_text(lines)
    assert prepare.prepare(str(tmp_path / "all.jsonl"), SMALL)
    same = [path.relative_to(data) for path in before if path.suffix == ".npy"]
    assert same and all(
        prepare.sha256(data / path) == prepare.sha256(tmp_path / path) for path in same
    )  # the same anywhere
    (tmp_path / "all.jsonl").write_text(lines + json.dumps({"text": "new " * 200}) + "\n")
    assert prepare.prepare(str(tmp_path / "all.jsonl"), SMALL)
    (tmp_path / "train" / "train.tokens.npy").unlink()
    assert prepare.prepare(None, SMALL) and prepare.meta()["source"].endswith(
        "all.jsonl"
    )  # what is not whole is made again


def test_sources_read_the_same_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTORESEARCH_DATA", str(tmp_path))
    texts = documents(40)
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"content": text}) + "\n" for text in texts)
    )
    pq.write_table(
        pa.table({"id": range(40), "text": texts}), tmp_path / "a.parquet", row_group_size=7
    )
    (tmp_path / "a.txt").write_text("\n".join(texts))
    for spec in (tmp_path / "a.jsonl", tmp_path / "a.parquet", f"file://{tmp_path}/a.parquet"):
        assert [text for text, _ in prepare.open_source(str(spec), 0).documents()] == texts
    pieces = [text for text, _ in prepare.open_source(str(tmp_path / "a.txt"), 0).documents()]
    assert "".join(pieces) == "\n".join(texts) and 20 < len(pieces) < 80
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"txt": "no"}\n')
    with pytest.raises(prepare.Refused, match=r"a\.jsonl, line 2 has no string"):
        prepare.prepare(str(tmp_path / "a.jsonl"), SMALL)
    with pytest.raises(prepare.Refused, match=r"is no \.txt"):
        prepare.prepare(str(tmp_path / "a.csv"), SMALL)
    assert len(list(prepare.open_source("stdlib", 0).documents())) > 300


class Trouble(BaseHTTPRequestHandler):
    """Serves files, and for each: 503, then a dropped connection, then half of the rest as if it were all, then well."""

    files: dict[str, bytes]
    asked: list[tuple[str, str | None]]
    lock = threading.Lock()

    def do_GET(self) -> None:
        name, begin = self.path.rsplit("/", 1)[1], self.headers.get("Range")
        with self.lock:
            self.asked.append((name, begin))
            turn = sum(one == name for one, _ in self.asked)
        body, start = self.files[name], int(re.findall(r"\d+", begin)[0]) if begin else 0
        if turn == 1:
            self.send_error(503)
            return
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        rest = body[start:]
        sent = rest if turn > 3 else rest[: len(rest) // 2]
        self.send_header("Content-Length", str(len(sent) if turn == 3 else len(rest)))
        self.send_header("X-Linked-Etag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.end_headers()
        self.wfile.write(sent)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, type[Trouble]]]:
    handler = type("Handler", (Trouble,), {"files": {}, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_address[1]}/main", handler
        listening.shutdown()


def test_climbmix_arrives_over_a_bad_line(
    server: tuple[str, type[Trouble]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, handler = server
    texts = documents(260)
    for number, part in ((0, texts[:80]), (1, texts[80:160]), (prepare.PINNED, texts[160:])):
        pq.write_table(pa.table({"text": part}), tmp_path / "shard.parquet")
        handler.files[f"shard_{number:05d}.parquet"] = (tmp_path / "shard.parquet").read_bytes()
    monkeypatch.setenv("AUTORESEARCH_DATA", str(tmp_path))
    monkeypatch.setenv("AUTORESEARCH_CLIMBMIX_URL", base)
    monkeypatch.setattr(prepare.time, "sleep", lambda _: None)
    monkeypatch.setattr(prepare, "CHUNK", 1024)
    assert prepare.prepare("climbmix", SMALL, shards=2)
    for name, body in handler.files.items():
        assert (tmp_path / "shards" / name).read_bytes() == body
        tries = [begin for one, begin in handler.asked if one == name]
        assert tries[:2] == [None, None] and len(tries) == 4
        begin, later = (int(one[6:-1]) for one in tries[2:] if one)
        assert len(body) // 2 - 1024 < begin <= len(body) // 2 < later  # went on where it broke off
    found = texts_of(tmp_path)
    pinned = set(texts[160:])
    assert (
        set(found["val"]) <= pinned
        and set(found["holdout"]) <= pinned
        and len(found["train"]) >= 140
    )
    count = len(handler.asked)
    assert not prepare.prepare("climbmix", SMALL, shards=2) and len(handler.asked) == count


def test_damage_in_a_download_is_noticed(
    server: tuple[str, type[Trouble]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, handler = server
    handler.files["x.parquet"] = b"PAR1" + bytes(100) + b"PAR2"
    monkeypatch.setattr(prepare.time, "sleep", lambda _: None)
    with pytest.raises(prepare.Refused, match="damaged"):
        prepare.fetch(f"{base}/x.parquet", tmp_path / "x.parquet")
    assert not (tmp_path / "x.parquet").exists()


class Model(nn.Module):
    """Honest: the token and the mean of those before it. `twist` makes it something else."""

    def __init__(
        self, twist: Callable[[Tensor, Tensor, Model], Tensor] = lambda idx, logits, _: logits
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.embedding, self.head = (
            nn.Embedding(SMALL.vocabulary, 16),
            nn.Linear(16, SMALL.vocabulary),
        )
        with torch.no_grad():
            for weight in self.parameters():
                weight.normal_(0, 0.5, generator=generator)
        self.register_buffer("seen", torch.zeros(()))
        self.twist = twist

    def forward(self, idx: Tensor) -> Tensor:
        x = self.embedding(idx)
        x = x + x.cumsum(1) / torch.arange(1, idx.size(1) + 1).view(1, -1, 1)
        x = x + F.scaled_dot_product_attention(
            x.unsqueeze(1), x.unsqueeze(1), x.unsqueeze(1), is_causal=True
        ).squeeze(1)
        return self.twist(idx, self.head(F.rms_norm(x, (16,))), self)


def peek(idx: Tensor, logits: Tensor, _: Model) -> Tensor:
    return logits + 5 * F.one_hot(idx.roll(-1, 1), SMALL.vocabulary)


def peek_rarely(idx: Tensor, logits: Tensor, _: Model) -> Tensor:
    return logits + 5 * F.one_hot(idx.roll(-1, 1), SMALL.vocabulary) * (
        torch.arange(idx.size(1)) % 16 == 7
    ).view(1, -1, 1)


def count_calls(idx: Tensor, logits: Tensor, model: Model) -> Tensor:
    model.seen.add_(1)
    return logits + model.seen


def remember(idx: Tensor, logits: Tensor, _: Model) -> Tensor:
    return (
        logits
        + 0 * F.batch_norm(idx.float(), torch.zeros(32), torch.ones(32), training=True).mean()
    )


def honest(idx: Tensor, logits: Tensor, _: Model) -> Tensor:
    """Operators with private names, and a norm that has learnt and does so no more."""
    chosen = ((idx > 3) & (idx < 50)) | (idx == 7)
    scaled = F.batch_norm(
        logits.transpose(1, 2),
        torch.ones(SMALL.vocabulary),
        torch.ones(SMALL.vocabulary),
        training=False,
    )
    return torch.where(chosen.unsqueeze(2), scaled.transpose(1, 2), logits)


def peek_a_little(idx: Tensor, logits: Tensor, _: Model) -> Tensor:
    """No single loss moves by as much as a probe allows."""
    return logits + 0.00045 * F.one_hot(idx.roll(-1, 1), SMALL.vocabulary)


def program(path: Path) -> prepare.Program:
    with path.open("rb") as file:
        return prepare.Program(file, "cpu")


CHEATS = {
    "learns while it is scored": [remember],
    "sees what it must not": [peek, peek_rarely, peek_a_little, lambda idx, logits, _: logits * logits.mean(),
                              lambda idx, logits, _: logits + F.one_hot(idx.roll(1, 0), SMALL.vocabulary)],
    "draws random numbers": [lambda idx, logits, _: F.dropout(logits, 0.1)],
    "rand_like.default, which is not on the list": [lambda idx, logits, _: logits + torch.rand_like(logits)],
    "empty_like.default, which is not on the list": [lambda idx, logits, _: logits + 0 * torch.empty_like(logits)],
    "are not all finite": [lambda idx, logits, _: logits / (idx != idx.max()).unsqueeze(2) * 0.0],
    "not \\(8, 32, 400\\)": [lambda idx, logits, _: logits[:, :, :-1]],
    "add_.Tensor, which is not on the list|output of kind": [count_calls, lambda idx, logits, _: logits.add_(1)],
}  # fmt: skip


@pytest.mark.parametrize(
    "reason,twist", [(reason, twist) for reason, several in CHEATS.items() for twist in several]
)
def test_cheats_are_refused(
    data: Path, tmp_path: Path, reason: str, twist: Callable[..., Tensor]
) -> None:
    prepare.submit(Model(twist), tmp_path / "model.pt2")
    with pytest.raises(prepare.Refused, match=reason):
        answer = program(tmp_path / "model.pt2")
        prepare.score(answer, answer, "val", 0, "cpu", 256)


def test_the_score_is_that_of_the_model_itself(data: Path, tmp_path: Path) -> None:
    model = Model(honest)
    prepare.submit(model, tmp_path / "model.pt2")
    environment = os.environ | {"AUTORESEARCH_DATA": str(data), "OMP_NUM_THREADS": "1"}
    for split in ("val", "holdout"):
        environment |= {"AUTORESEARCH_SPLIT": split, "AUTORESEARCH_HOLDOUT_SLICE": "7"}
        command = [sys.executable, str(Path(prepare.__file__).resolve()), "evaluate"]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        told = re.findall(r"^val_bpb: (\S+)$", done.stdout, re.MULTILINE)
        x, y, _ = (torch.from_numpy(array) for array in prepare.windows(split, 7))
        sizes = torch.from_numpy(np.load(data / "eval" / "token_bytes.npy"))[y]
        with torch.no_grad():
            nats = F.cross_entropy(
                model(x).flatten(0, 1).double(), y.flatten(), reduction="none"
            ).view_as(y)
        expected = float((nats * (sizes > 0)).sum() / math.log(2) / sizes.sum())
        assert len(told) == 1 and abs(float(told[0]) - expected) < 1e-4
        blocks = re.findall(r"^METRIC_BLOCKS: (.*)$", done.stdout, re.MULTILINE)[0].split()
        assert len(blocks) >= 16 and min(map(float, blocks)) < expected < max(map(float, blocks))


def altered(path: Path, edit: Callable[[str], str]) -> Path:
    """The archive with its graph's JSON rewritten."""
    changed = path.with_name("altered.pt2")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(changed, "w") as new:
        for item in old.infolist():
            body = old.read(item)
            new.writestr(
                item.filename, edit(body.decode()) if item.filename.endswith("model.json") else body
            )
    return changed


def test_an_archive_is_read_as_data(data: Path, tmp_path: Path) -> None:
    prepare.submit(Model(), tmp_path / "model.pt2")
    mark = tmp_path / "ran"
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    told = {"guards_code": [code], "range_constraints": {code: {"min_val": 0, "max_val": None}}}

    def poison(text: str) -> str:
        return json.dumps(json.loads(text) | told).replace("Symbol('s", f"{code} or Symbol('s")

    program(altered(tmp_path / "model.pt2", poison))(torch.zeros(8, 32, dtype=torch.int64))
    assert not mark.exists()  # what torch.export.load would have run
    for target in (
        "torch.ops.aten.from_file.default", "torch.ops.aten.set_.source_Tensor", "torch.load", "_operator.attrgetter",
        "torch.ops.aten.save.default", "torch.ops.aten.manual_seed.default", "torch.ops.aten.batch_norm_update_stats.default",
        "torch.ops.aten.initial_seed.default", "torch.ops.aten.miopen_batch_norm.default",
    ):  # fmt: skip
        swapped = altered(
            tmp_path / "model.pt2",
            lambda text, target=target: text.replace("torch.ops.aten.embedding.default", target),
        )
        with pytest.raises(prepare.Refused):
            program(swapped)
    dice = random.Random(5)
    whole = (tmp_path / "model.pt2").read_bytes()
    for _ in range(100):  # damage anywhere is one sentence, or changes nothing that counts
        body = bytearray(whole[: dice.randrange(len(whole))] if dice.random() < 0.3 else whole)
        for _ in range(dice.randrange(1, 30)):
            if body:
                body[dice.randrange(len(body))] = dice.randrange(256)
        (tmp_path / "damaged.pt2").write_bytes(body)
        try:
            program(tmp_path / "damaged.pt2")(torch.zeros(8, 32, dtype=torch.int64))
        except prepare.Refused as problem:
            assert "\n" not in str(problem)
    with pytest.raises(prepare.Refused, match="bytes"):
        prepare._opened(tmp_path / "model.pt2", 1000)
    with pytest.raises(prepare.Refused, match="There is no"):
        prepare._opened(tmp_path / "absent.pt2", 1000)
    (tmp_path / "link.pt2").symlink_to("model.pt2")
    with pytest.raises(prepare.Refused, match="cannot be read"):
        prepare._opened(tmp_path / "link.pt2", 1 << 20)
