"""Data, splits, tokenizer and the frozen scorer. Training may read this file; nothing it does may
change it.

    python prepare.py [--source stdlib|climbmix|PATH|URL]
        make DATA/train, eval, decoy; a second time: nothing to do
    python prepare.py evaluate
        score model.pt2: one line `val_bpb: x`, blocks before it

DATA is $AUTORESEARCH_DATA or ~/.cache/autoresearch. `train/` holds what training sees; `eval/` the
validation and hold-out tokens, which training's sandbox never has; `decoy/` dice that look like
training tokens, for a pass in which code only compiles. Documents, not tokens, are split, and
near-duplicates (MinHash, Broder 1997) stay on one side. The score is bits per byte, so it does not
depend on the vocabulary. `eval/hidden.txt` names where on this machine the text of evaluation
documents also lies: a sandbox must not show these places to training.

A submission is a `torch.export` archive, read here as data: JSON and raw tensors.
`torch.export.load` would unpickle, `exec` guards and `sympify` strings that the candidate wrote;
the interpreter below calls listed ATen operators only, in processes that hold no target. Not
covered: the effort of training (the harness counts that), models that need an operator that is not
on the list.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import functools
import hashlib
import json
import math
import mmap
import os
import pickle
import re
import resource
import shutil
import signal
import stat
import struct
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

# --------------------------------------------------------------------------------------------------
# Fixed constants. Every candidate is trained and scored under the same ones.


@dataclass(frozen=True)
class Profile:
    """What one class of device is given. Token counts are per split; bytes bound the submission."""

    name: str
    # Tokens in a window, for training and scoring alike
    sequence: int
    vocabulary: int
    # Seconds of training; $AUTORESEARCH_TIME_BUDGET overrides
    time_budget: float
    # Of the validation split, and of one hold-out slice
    eval_tokens: int
    # Windows scored at once
    eval_rows: int
    # Of training text that the tokenizer learns from
    bpe_bytes: int
    model_bytes: int
    # Random positions whose future is changed
    probes: dict[str, int] = field(default_factory=lambda: {"val": 256, "holdout": 1024})


PROFILES = {
    # Scores in 4 GB: a 24 GB card will do
    "cuda": Profile("cuda", 2048, 8192, 300.0, 2**22, 16, 400 << 20, 8 << 30),
    "mps": Profile("mps", 512, 4096, 300.0, 2**19, 32, 50 << 20, 2 << 30),
    "cpu": Profile(
        "cpu", 128, 1024, 300.0, 2**15, 8, 8 << 20, 512 << 20, {"val": 128, "holdout": 256}
    ),
}
# Of the documents; the rest is for training
SHARES = {"val": 0.10, "holdout": 0.20}
# The hold-out in portions, $AUTORESEARCH_HOLDOUT_SLICE picks one: a claim uses up one
HOLDOUT_SLICES = 20
# Parts of the score, each of whole documents where there are enough: the sampling units of a test
BLOCKS = 32
# Nats a scored token may move under a probe; equal shapes give equal floats, so this is generous
TOLERANCE = 1e-3
# … and the mean over many of them. On a processor equal rows give equal bits wherever in a batch
# they stand; of a card that is not known.
MEAN_TOLERANCE = {"cpu": 1e-6, "cuda": 5e-5, "mps": 5e-5}
# Begins the line in which a scorer says that no honest candidate does this
SUSPICIOUS = "SUSPICIOUS"
MODEL = "model.pt2"
# Of the prepared folders
FORMAT = 3
BOS = 0
PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)

# Parts of the standard library that no training program imports: evaluation documents come from
# them, and its sandbox hides them.
SPARE = """
test idlelib lib2to3 tkinter turtledemo wsgiref xmlrpc pydoc_data curses dbm aifc.py asynchat.py
asyncore.py cgi.py cgitb.py chunk.py crypt.py ftplib.py imaplib.py imghdr.py mailbox.py mailcap.py
modulefinder.py nntplib.py pipes.py poplib.py pyclbr.py smtpd.py smtplib.py sndhdr.py sunau.py
tabnanny.py telnetlib.py turtle.py uu.py wave.py webbrowser.py xdrlib.py zipapp.py
""".split()
# $AUTORESEARCH_CLIMBMIX_URL
CLIMBMIX = "https://huggingface.co/datasets/karpathy/climbmix-400b-shuffle/resolve/main"
# Its last shard: the only one that validation and hold-out documents come from
PINNED = 6542
ATTEMPTS = 8
# Bytes; at most so many of what came before a break come again
CHUNK = 1 << 16


class Refused(Exception):
    """Something a user or a candidate did; the message is one sentence."""


class Suspicious(Refused):
    """What no honest model does; a word at the line's start says so to whoever runs this file."""


def data_root() -> Path:
    return Path(
        os.environ.get("AUTORESEARCH_DATA") or Path.home() / ".cache" / "autoresearch"
    ).expanduser()


def meta(part: str = "train") -> dict[str, Any]:
    """The manifest of `train` or `eval`: profile, vocabulary, sequence, files. Raises Refused when
    not prepared.
    """
    try:
        return json.loads((data_root() / part / "manifest.json").read_text())
    except (OSError, ValueError):
        raise Refused(
            f"There are no prepared data in {data_root() / part}: run `python prepare.py`."
        ) from None


def time_budget() -> float:
    """Seconds of training."""
    return float(os.environ.get("AUTORESEARCH_TIME_BUDGET") or meta()["profile"]["time_budget"])


def train_tokens() -> tuple[np.ndarray, np.ndarray]:
    """Memory-mapped tokens, every document beginning with BOS, and where documents start (one more
    at the end).
    """
    return _tokens(data_root() / "train", "train")


def _tokens(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    starts = np.load(folder / f"{split}.starts.npy", mmap_mode="r")
    return np.load(folder / f"{split}.tokens.npy", mmap_mode="r"), starts


# --------------------------------------------------------------------------------------------------
# Sources: each yields documents in a fixed order, any number of times, and knows a hash of its
# contents.


@dataclass
class Source:
    label: str
    # Sha256 over its contents
    identity: str
    # (text, whether it is pinned)
    documents: Callable[[], Iterator[tuple[str, bool]]]
    # Whether evaluation documents come from pinned ones only
    pinned: bool = False
    # Where the text of pinned documents lies that training could read
    hidden: tuple[Path, ...] = ()


def open_source(spec: str, shards: int) -> Source:
    """`stdlib`, `climbmix`, a path or a URL. Raises Refused when there is nothing to read."""
    if spec == "climbmix":
        base = os.environ.get("AUTORESEARCH_CLIMBMIX_URL", CLIMBMIX).rstrip("/")
        names = [f"shard_{index:05d}.parquet" for index in [*range(shards), PINNED]]
        paths = fetch_all([f"{base}/{name}" for name in names], data_root() / "shards")
        return _files(spec, paths, pinned=paths[-1:])
    if spec == "stdlib":
        return _standard_library(spec)
    if "://" in spec:
        folder, name = (
            data_root() / "shards",
            re.sub(r"[^\w.-]", "_", spec.split("?")[0].split("://")[1])[-120:],
        )
        if spec.startswith(("http://", "https://")):
            return _files(spec, [fetch(spec, folder / name)])
        import fsspec

        folder.mkdir(parents=True, exist_ok=True)
        with fsspec.open(spec, "rb") as remote, open(folder / f"{name}.part", "wb") as local:
            while chunk := remote.read(CHUNK):
                local.write(chunk)
        return _files(spec, [(folder / f"{name}.part").replace(folder / name)])
    path = Path(spec).expanduser()
    paths = (
        sorted(p for p in path.rglob("*") if p.is_file() and _kind(p)) if path.is_dir() else [path]
    )
    if not paths or not all(p.is_file() and _kind(p) for p in paths):
        raise Refused(f"{spec} is no .txt, .jsonl or .parquet file, nor a folder of them.")
    return _files(spec, paths)


def _standard_library(label: str) -> Source:
    """The library that this Python runs on. Training can read it too, so evaluation is on parts
    that can be hidden from it.
    """
    import sysconfig

    root = Path(sysconfig.get_paths()["stdlib"])
    outside = {"site-packages", "dist-packages", "__pycache__"}
    found = [path for path in root.rglob("*.py") if not outside & set(path.relative_to(root).parts)]
    found.sort(key=lambda path: path.relative_to(root).as_posix())
    spare = [root / name for name in SPARE if (root / name).exists()]
    pinned = [path for path in found if not {path, *path.parents}.isdisjoint(spare)]
    compiled = [
        file
        for path in spare
        if path.is_file()
        for file in (root / "__pycache__").glob(f"{path.stem}.*.pyc")
    ]
    return replace(
        _files(label, found, pinned), hidden=(*spare, *compiled, *_other_libraries(root))
    )


def _other_libraries(own: Path) -> list[Path]:
    """The libraries of the other Pythons on this machine, which hold much the same text."""
    programs = [
        program
        for entry in os.environ.get("PATH", "").split(os.pathsep)
        for program in Path(entry or ".").glob("python[23]*")
    ]
    prefixes = {
        Path(sys.base_prefix),
        *(Path(os.path.realpath(program)).parent.parent for program in programs),
    }
    places = {
        Path("/usr"),
        Path("/opt"),
        *(
            place
            for prefix in prefixes
            for place in (prefix, prefix.parent)
            if len(place.parts) > 2
        ),
    }
    found = set()
    for place in places:
        for folder, names, files in os.walk(place):
            names[:] = [
                name
                for name in names
                if name not in ("site-packages", "dist-packages", "node_modules")
            ]
            if "os.py" in files and "wsgiref" in names:
                found.add(Path(os.path.realpath(folder)))
                names.clear()
    return sorted(found - {Path(os.path.realpath(own))})


def _kind(path: Path) -> str:
    return path.suffix if path.suffix in (".txt", ".jsonl", ".parquet", ".py") else ""


def _files(label: str, paths: list[Path], pinned: Iterable[Path] = ()) -> Source:
    pins = frozenset(pinned)

    def documents() -> Iterator[tuple[str, bool]]:
        for path in paths:
            yield from ((text, path in pins) for text in _read(path) if text.strip())

    identity = hashlib.sha256(
        "".join(f"{path.name} {sha256(path)}\n" for path in paths).encode()
    ).hexdigest()
    return Source(label, identity, documents, bool(pins))


def _read(path: Path) -> Iterator[str]:
    """The documents of one file: a .py file, paragraphs of a .txt in pieces of about 2,000
    characters, rows, lines.
    """
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as parquet:
            names = parquet.schema_arrow.names
            column = next((name for name in ("text", "content") if name in names), names[0])
            for batch in parquet.iter_batches(columns=[column]):
                yield from (text for text in batch.column(0).to_pylist() if isinstance(text, str))
        return
    with open(path, encoding="utf-8", errors="replace", newline="") as lines:
        if path.suffix == ".py":
            yield lines.read()
        elif path.suffix == ".jsonl":
            for number, line in enumerate(lines, 1):
                try:
                    row = json.loads(line) if line.strip() else ""
                except ValueError:
                    raise Refused(f"{path}, line {number} is not JSON.") from None
                found = row.get("text", row.get("content")) if isinstance(row, dict) else row
                if not isinstance(found, str):
                    raise Refused(f"{path}, line {number} has no string under `text` or `content`.")
                yield found
        else:
            piece = ""
            for line in lines:
                piece += line
                if (len(piece) >= 2000 and not line.strip()) or len(piece) >= 20_000:
                    yield piece
                    piece = ""
            yield piece


def fetch_all(urls: list[str], folder: Path, workers: int = 8) -> list[Path]:
    """Fetch several files at once."""
    from tqdm import tqdm

    with ThreadPoolExecutor(workers) as pool:
        jobs = [pool.submit(fetch, url, folder / url.rsplit("/", 1)[1]) for url in urls]
        try:
            return [job.result() for job in tqdm(jobs, "download", unit="file", disable=None)]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def fetch(url: str, path: Path, wait: float = 1.0) -> Path:
    """Download `url` to `path`: resumed by Range, tried ATTEMPTS times with doubling waits,
    checked, then renamed.

    Checked: the length the server states, a sha256 it states (X-Linked-Etag), the parquet magic at
    both ends. `wait` is the first pause in seconds. Raises Refused when the last attempt fails.
    """
    import requests

    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part, reason = path.with_name(path.name + ".part"), ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(wait * 2 ** (attempt - 1))
        have = part.stat().st_size if part.exists() else 0
        try:
            headers = (
                {"Range": f"bytes={have}-", "Accept-Encoding": "identity"}
                if have
                else {"Accept-Encoding": "identity"}
            )
            with requests.get(url, headers=headers, stream=True, timeout=30) as reply:
                # More than there is: begin anew
                if reply.status_code == 416:
                    part.unlink()
                    reason = "the part on disk was longer than the file"
                    continue
                reply.raise_for_status()
                stated = [
                    one.headers.get("X-Linked-Etag", "").strip('"')
                    for one in [*reply.history, reply]
                ]
                digest = next((one for one in stated if re.fullmatch("[0-9a-f]{64}", one)), "")
                if reply.status_code == 206:
                    total = int(reply.headers["Content-Range"].rpartition("/")[2])
                else:
                    have, total = 0, int(reply.headers.get("Content-Length", -1))
                with open(part, "ab" if have else "wb") as out:
                    for chunk in reply.iter_content(CHUNK):
                        out.write(chunk)
        except (requests.RequestException, OSError, ValueError, KeyError) as error:
            reason = str(error)
            continue
        size = part.stat().st_size
        if 0 <= size < total:
            reason = f"{size:,} of {total:,} bytes came"
            # Keep what came
            continue
        if (
            (total >= 0 and size != total)
            or (digest and sha256(part) != digest)
            or not _whole(part, path.suffix)
        ):
            reason = "the contents are damaged"
            part.unlink()
            continue
        return part.replace(path)
    raise Refused(f"{url} could not be fetched in {ATTEMPTS} attempts: {reason}.")


def _whole(path: Path, suffix: str) -> bool:
    if suffix != ".parquet":
        return True
    with open(path, "rb") as file:
        head = file.read(4)
        file.seek(-4, os.SEEK_END)
        return head == file.read(4) == b"PAR1"


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --------------------------------------------------------------------------------------------------
# Splits


def bands(text: str, count: int = 8, rows: int = 4, gram: int = 24) -> list[int]:
    """Keys of which near-duplicates share at least one: one-permutation MinHash over 24-byte
    shingles, in 8 bands.

    Case and white space are ignored. Two texts with Jaccard similarity 0.8 share a band with
    probability 0.98, with 0.3 with 0.06. Shorter than a shingle: one key of the whole.
    """
    raw = np.frombuffer(
        "".join(text.lower().split()).encode("utf-8", "replace")[: 1 << 17], np.uint8
    )
    if raw.size < gram:
        return [int.from_bytes(hashlib.blake2b(raw.tobytes(), digest_size=8).digest(), "big")]
    wide = raw.astype(np.uint64)
    word = sum(
        (wide[i : raw.size - 7 + i] << np.uint64(8 * i) for i in range(8)), np.zeros(1, np.uint64)
    )
    n = raw.size - gram + 1
    keys = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)
    mixed = np.zeros(n, np.uint64)
    for i, key in enumerate(keys):
        mixed = (mixed ^ word[8 * i : 8 * i + n]) * np.uint64(key)
        mixed ^= mixed >> np.uint64(29)
    mixed.sort()
    slots = count * rows
    borders = np.arange(slots, dtype=np.uint64) << np.uint64(64 - int(math.log2(slots)))
    # An empty slot takes the next one's: densification by rotation
    lowest = mixed[np.searchsorted(mixed, borders) % n]
    hashes = (
        hashlib.blake2b(bytes([i]) + band.tobytes(), digest_size=8).digest()
        for i, band in enumerate(lowest.reshape(count, rows))
    )
    return [int.from_bytes(one, "big") for one in hashes]


def assign(source: Source) -> list[tuple[str, int]]:
    """(split, rank) of each document, whole clusters of near-duplicates at a time; `rank` orders
    clusters by content.

    Validation and hold-out get the first clusters in the order of a content hash; one of more than
    5 % of all documents is for training. Where some documents are pinned only clusters of these
    alone are evaluated on.
    """
    from tqdm import tqdm

    parent: list[int] = []
    digests: list[int] = []
    pins: list[bool] = []
    first: dict[int, int] = {}

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for number, (text, pin) in enumerate(
        tqdm(source.documents(), "near-duplicates", unit="doc", disable=None)
    ):
        parent.append(number)
        pins.append(pin)
        digests.append(
            int.from_bytes(
                hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "big"
            )
        )
        for key in bands(text):
            a, b = find(first.setdefault(key, number)), find(number)
            parent[max(a, b)] = min(a, b)
    clusters: dict[int, list[int]] = {}
    for number in range(len(parent)):
        clusters.setdefault(find(number), []).append(number)
    able = [
        c
        for c in clusters.values()
        if len(c) <= 0.05 * len(parent) and (not source.pinned or all(pins[i] for i in c))
    ]
    able.sort(key=lambda cluster: min(digests[i] for i in cluster))
    total = min(len(parent), sum(map(len, able)) / sum(SHARES.values()))
    limits = {name: share * total for name, share in SHARES.items()}
    split: list[tuple[str, int]] = [("train", 0)] * len(parent)
    counts = {"val": 0, "holdout": 0}
    for rank, cluster in enumerate(able):
        side = next((name for name in counts if counts[name] < limits[name]), "train")
        for i in cluster:
            split[i] = (side, rank)
        if side != "train":
            counts[side] += len(cluster)
    if (
        counts["val"] < 8
        or counts["holdout"] < HOLDOUT_SLICES
        or len(parent) - sum(counts.values()) < 16
    ):
        raise Refused(
            f"{source.label} has {len(parent)} documents in {len(clusters)} groups of"
            " near-duplicates: too few for three splits."
        )
    return split


# --------------------------------------------------------------------------------------------------
# Preparation


def prepare(spec: str | None, profile: Profile, shards: int = 10) -> bool:
    """Make DATA/train and DATA/eval. Returns False when they were there already. Raises Refused on
    a bad source.

    Without `spec` whatever is prepared stays if it is whole and of this profile, and is else made
    anew from the same source; `stdlib` the first time.
    """
    root = data_root()
    for part in ("train", "eval"):
        (root / part).mkdir(parents=True, exist_ok=True)
    with open(root / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        settings = {"format": FORMAT, "profile": asdict(profile)}
        if spec is None and _prepared(root, settings):
            return False
        source = open_source(spec or _recorded(root) or "stdlib", shards)
        settings |= {"source": source.label, "contents": source.identity}
        if _prepared(root, settings):
            return False
        _build(root, source, profile, settings)
    return True


def _prepared(root: Path, settings: dict[str, Any]) -> bool:
    for part in ("train", "eval"):
        try:
            manifest = json.loads((root / part / "manifest.json").read_text())
            whole = all(
                (root / part / name).stat().st_size == facts["bytes"]
                for name, facts in manifest["files"].items()
            )
        except (OSError, ValueError, KeyError):
            return False
        if not whole or any(manifest.get(key) != value for key, value in settings.items()):
            return False
    return True


def _recorded(root: Path) -> str | None:
    try:
        return str(json.loads((root / "train" / "manifest.json").read_text())["source"])
    except (OSError, ValueError, KeyError):
        return None


def _build(root: Path, source: Source, profile: Profile, settings: dict[str, Any]) -> None:
    for part in ("train", "eval"):
        # Written last: an interrupted run is not taken for whole
        (root / part / "manifest.json").unlink(missing_ok=True)
    split = assign(source)
    tokenizer = _train_tokenizer(source, split, profile)
    tokenizer.save(str(root / "train" / "tokenizer.json"))
    # A byte-level token is written with one character per byte.
    lengths = np.array(
        [0, *(len(tokenizer.id_to_token(i)) for i in range(1, profile.vocabulary))], np.int32
    )
    kind = np.uint16 if profile.vocabulary <= 1 << 16 else np.uint32
    counts: dict[str, int] = {}
    pieces: dict[str, list[tuple[int, np.ndarray]]] = {"train": [], "val": [], "holdout": []}
    for (side, rank), ids in zip(split, _encode(tokenizer, source, len(split)), strict=True):
        pieces[side].append((rank, np.array([BOS, *ids], kind)))
    for side, rows in pieces.items():
        if side != "train":
            # By content hash, so that neighbours are unrelated
            rows.sort(key=lambda row: row[0])
        folder = root / ("train" if side == "train" else "eval")
        _save(folder / f"{side}.tokens.npy", np.concatenate([ids for _, ids in rows]))
        _save(
            folder / f"{side}.starts.npy",
            np.cumsum([0, *(len(ids) for _, ids in rows)]).astype(np.int64),
        )
        if side == "holdout":
            _save(
                folder / "holdout.slices.npy",
                np.array([rank % HOLDOUT_SLICES for rank, _ in rows], np.int32),
            )
        counts[side] = sum(len(ids) for _, ids in rows)
        counts[f"{side}_documents"] = len(rows)
    (root / "eval" / "hidden.txt").write_text("".join(f"{path}\n" for path in source.hidden))
    parts = {"train": ["tokenizer.json"], "eval": ["hidden.txt"]}
    shutil.rmtree(root / "decoy", ignore_errors=True)
    # Where the text lies in the open, an untimed pass has something to learn from
    if not source.hidden:
        parts = {"decoy": ["tokenizer.json"], **parts}
        _decoy(root, profile, kind)
    for part, names in parts.items():
        folder = root / part
        _save(folder / "token_bytes.npy", lengths)
        names = sorted([*names, *(path.name for path in folder.glob("*.npy"))])
        files = {
            name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
            for name in names
        }
        told = settings | {"tokens": counts, "files": files}
        (folder / "manifest.tmp").write_text(json.dumps(told, indent=1) + "\n")
        (folder / "manifest.tmp").replace(folder / "manifest.json")


def _decoy(root: Path, profile: Profile, kind: type) -> None:
    """What looks like `train/` and teaches nothing: dice in place of tokens, for a pass in which
    code only compiles.
    """
    folder, dice = root / "decoy", np.random.default_rng(0)
    folder.mkdir()
    count, size = max(64, (1 << 20) // profile.sequence), 4 * profile.sequence
    tokens = dice.integers(1, profile.vocabulary, count * size).astype(kind)
    tokens[::size] = BOS
    _save(folder / "train.tokens.npy", tokens)
    _save(folder / "train.starts.npy", np.arange(0, count * size + 1, size, dtype=np.int64))
    shutil.copyfile(root / "train" / "tokenizer.json", folder / "tokenizer.json")


def _save(path: Path, array: np.ndarray) -> None:
    with open(path.with_suffix(".tmp"), "wb") as file:
        np.save(file, array)
    path.with_suffix(".tmp").replace(path)


def _train_tokenizer(source: Source, split: list[tuple[str, int]], profile: Profile) -> Any:
    """A byte-level BPE from training documents alone, an even sample of them up to `bpe_bytes`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    cut = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, plain])
    tokenizer.decoder = decoders.ByteLevel()
    each = max(1000, profile.bpe_bytes // max(1, sum(side == "train" for side, _ in split)))

    def sample() -> Iterator[str]:
        for (text, _), (side, _) in zip(source.documents(), split, strict=True):
            if side == "train":
                yield text[:each]

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=profile.vocabulary,
        special_tokens=["<|bos|>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample(), trainer)
    if tokenizer.get_vocab_size() != profile.vocabulary:
        raise Refused(
            f"{source.label} has too little text for a vocabulary of {profile.vocabulary}."
        )
    # A document that spells <|bos|> is text, not a boundary
    tokenizer.encode_special_tokens = True
    return tokenizer


def _encode(tokenizer: Any, source: Source, total: int) -> Iterator[list[int]]:
    from tqdm import tqdm

    batch: list[str] = []
    with tqdm(total=total, desc="tokens", unit="doc", disable=None) as bar:
        for text, _ in source.documents():
            batch.append(text)
            if len(batch) == 512:
                yield from (one.ids for one in tokenizer.encode_batch_fast(batch))
                bar.update(len(batch))
                batch.clear()
        yield from (one.ids for one in tokenizer.encode_batch_fast(batch))
        bar.update(len(batch))


# --------------------------------------------------------------------------------------------------
# Handing in


def submit(model: Any, path: str | Path = MODEL) -> None:
    """Export `model` (idx int64 [B, T] -> logits [B, T, V], B free, T fixed) for the scorer. Moves
    it to the CPU.
    """
    import torch

    model = getattr(model, "_orig_mod", model).to("cpu").eval()
    example = torch.zeros(2, meta()["profile"]["sequence"], dtype=torch.int64)
    with torch.no_grad():
        program = torch.export.export(
            model, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
        )
    program.example_inputs = None
    torch.export.save(program, str(path))


# --------------------------------------------------------------------------------------------------
# Reading a submission

_DTYPES = dict(
    enumerate(["uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"], 1)
) | {12: "bool", 13: "bfloat16"}
# Of Python's own, on sizes
_ARITHMETIC = """
getitem add sub mul floordiv truediv mod neg eq ne lt le gt ge pow and_ or_ not_
""".split()
# Written to by norms that learn, though their schemas do not say so
_STATE = ("running_mean", "running_var")
_LEARNING = ("training", "train", "use_input_stats")
# Tagged random; not so with dropout off
DROPPING = ("scaled_dot_product_attention", "dropout", "gru", "rnn_tanh", "rnn_relu")
# What a graph may call: name.overload:digest of its schema (benchmark/operators.py says by which
# rules, and writes this table)
OPERATORS_OF = "2.13.0"
OPERATORS = """
__and__.Scalar:c56d __and__.Tensor:8ca4 __lshift__.Scalar:1a76 __lshift__.Tensor:a591
__or__.Scalar:590a __or__.Tensor:bd74 __rshift__.Scalar:14db __rshift__.Tensor:c9e0
__xor__.Scalar:94c7 __xor__.Tensor:036e _assert_async.default:0b0c _assert_async.msg:b438
_assert_scalar.default:70c1 _assert_tensor_metadata.default:5f92 _log_softmax.default:907b
_softmax.default:d95d _to_copy.default:abca abs.default:e27e acos.default:c92d acosh.default:fd7e
add.Scalar:e511 add.Tensor:b10b addbmm.default:6c27 addcdiv.default:b86c addcmul.default:498f
addmm.default:125d addmm.dtype:8038 addmv.default:cb95 addr.default:a0fa adjoint.default:28b3
alias.default:f7fc all.default:bca7 all.dim:ee8d all.dims:3674 amax.default:1506 amin.default:336b
aminmax.default:932a any.default:6252 any.dim:cb51 any.dims:9480 arange.default:7065
arange.start:db7a arange.start_step:1bce argmax.default:91a6 argmin.default:2482
argsort.default:f9ac argsort.stable:d5ef asin.default:7655 asinh.default:4608 atan.default:a3da
atan2.default:c66d atanh.default:6e48 atleast_1d.Sequence:5b7b atleast_1d.default:c54d
atleast_2d.Sequence:d86e atleast_2d.default:ba9a atleast_3d.Sequence:63a4 atleast_3d.default:106a
avg_pool1d.default:1d32 baddbmm.default:083f baddbmm.dtype:f006 batch_norm.default:5b7b
bilinear.default:6f1c binary_cross_entropy_with_logits.default:a800 bitwise_and.Scalar:cd49
bitwise_and.Scalar_Tensor:5116 bitwise_and.Tensor:fbd6 bitwise_left_shift.Scalar_Tensor:de94
bitwise_left_shift.Tensor:4400 bitwise_left_shift.Tensor_Scalar:e136 bitwise_not.default:7298
bitwise_or.Scalar:c5c4 bitwise_or.Scalar_Tensor:1c99 bitwise_or.Tensor:da74
bitwise_right_shift.Scalar_Tensor:1ef5 bitwise_right_shift.Tensor:032a
bitwise_right_shift.Tensor_Scalar:ec7f bitwise_xor.Scalar:5d8b bitwise_xor.Scalar_Tensor:4741
bitwise_xor.Tensor:1352 block_diag.default:9f7b bmm.default:3749 bmm.dtype:43db
broadcast_tensors.default:3b0e broadcast_to.default:cb9f bucketize.Scalar:7737
bucketize.Tensor:baba cat.default:340b ceil.default:6c74 celu.default:fb56
chain_matmul.default:51b3 channel_shuffle.default:10ea chunk.default:aa74 clamp.Tensor:ed9c
clamp.default:4f3d clamp_max.Tensor:350e clamp_max.default:123f clamp_min.Tensor:c6e1
clamp_min.default:64e2 clip.Tensor:faa2 clip.default:33db clone.default:ddfb
column_stack.default:aea9 concat.default:e8e8 concatenate.default:ada9 constant_pad_nd.default:2b48
contiguous.default:b35c conv1d.default:faf4 conv1d.padding:cb15 conv2d.default:c57e
conv2d.padding:cb22 convolution.default:8d77 copysign.Scalar:6aec copysign.Tensor:95f3
cos.default:0269 cosh.default:5e9e cosine_similarity.default:dc01 count_nonzero.default:d904
count_nonzero.dim_IntList:32e7 cross.default:a87d cross_entropy_loss.default:0eb4
cummax.default:767f cummin.default:f36d cumprod.default:ed09 cumsum.default:0b1a
deg2rad.default:af11 detach.default:e50f detach_copy.default:7bad diag.default:716c
diag_embed.default:2cf6 diagonal.default:396c diagonal_copy.default:83f3
diagonal_scatter.default:a1c1 diff.default:6ead digamma.default:5011 div.Scalar:d4fd
div.Scalar_mode:2ec9 div.Tensor:b42c div.Tensor_mode:87e1 divide.Scalar:2a26
divide.Scalar_mode:05a7 divide.Tensor:ef72 divide.Tensor_mode:dc51 dot.default:f96e
dropout.default:cf96 dsplit.array:09bc dsplit.int:e1b2 dstack.default:5b1c einsum.default:2340
einsum.sublist:11f4 elu.default:bfef embedding.default:07ee eq.Scalar:4c8e eq.Tensor:1638
erf.default:f3e5 erfc.default:a2ae erfinv.default:7370 exp.default:1192 exp2.default:ad8e
expand.default:bab5 expand_as.default:34b7 expand_copy.default:ebfe expm1.default:8592
eye.default:a6fe eye.m:0b57 fix.default:d3b1 flatten.using_ints:eb57 flip.default:5e2b
fliplr.default:c0a1 flipud.default:728a float_power.Scalar:7c32 float_power.Tensor_Scalar:9448
float_power.Tensor_Tensor:af02 floor.default:3258 floor_divide.Scalar:4720
floor_divide.default:96ed fmax.default:a5e4 fmin.default:8ca5 fmod.Scalar:eadc fmod.Tensor:b3ae
frac.default:c936 full.default:d533 full_like.default:1d99 gather.default:1566 ge.Scalar:4d98
ge.Tensor:c945 gelu.default:340c glu.default:699d greater.Scalar:2568 greater.Tensor:020f
greater_equal.Scalar:5134 greater_equal.Tensor:321b group_norm.default:e78d gru.input:f2f3
gru_cell.default:7f13 gt.Scalar:e4dd gt.Tensor:11fe hardshrink.default:bb92
hardsigmoid.default:617f hardswish.default:ae53 hardtanh.default:84ad heaviside.default:1eaa
hsplit.array:31c3 hsplit.int:b20b hstack.default:3d16 huber_loss.default:b528 hypot.default:ee3f
index.Tensor:b03e index_add.default:66f1 index_copy.default:d643 index_fill.int_Scalar:efb2
index_fill.int_Tensor:99c9 index_put.default:ecd1 index_select.default:b8c6 inner.default:8b75
instance_norm.default:1d41 isclose.default:3bf3 isfinite.default:2687 isin.Scalar_Tensor:bf92
isin.Tensor_Scalar:5891 isin.Tensor_Tensor:d41b isinf.default:643c isnan.default:981d
isneginf.default:0e15 isposinf.default:6252 kl_div.default:7f3a kron.default:a8bc
kthvalue.default:8be8 l1_loss.default:4fd2 layer_norm.default:84af ldexp.Tensor:b9e2 le.Scalar:b34b
le.Tensor:039b leaky_relu.default:5f13 lerp.Scalar:ba87 lerp.Tensor:edbe less.Scalar:950a
less.Tensor:a106 less_equal.Scalar:bb87 less_equal.Tensor:4575 lgamma.default:0346
lift_fresh.default:da39 lift_fresh_copy.default:a70e linalg_multi_dot.default:1e0f
linalg_vecdot.default:5b66 linalg_vector_norm.default:0d78 linear.default:9b61
linspace.Scalar_Tensor:5bf2 linspace.Tensor_Scalar:7504 linspace.Tensor_Tensor:3bcc
linspace.default:0010 log.default:41b4 log10.default:4464 log1p.default:6def log2.default:cb88
log_sigmoid.default:2e56 log_softmax.int:f49a logaddexp.default:1f0d logaddexp2.default:f531
logcumsumexp.default:4947 logical_and.default:2389 logical_not.default:c263 logical_or.default:e607
logical_xor.default:7c5f logit.default:b2b2 logspace.Scalar_Tensor:4dce logspace.Tensor_Scalar:8b4c
logspace.Tensor_Tensor:fcbf logspace.default:0cb2 logsumexp.default:2929 lstm_cell.default:9a97
lt.Scalar:4336 lt.Tensor:4a4d mH.default:6b46 mT.default:7b1c masked_fill.Scalar:c97c
masked_fill.Tensor:8ed8 matmul.default:3d8f max.default:3416 max.dim:db6f max.other:f261
maximum.default:4cfb mean.default:a332 mean.dim:3507 meshgrid.default:4c8c meshgrid.indexing:e1b5
min.default:e711 min.dim:19f9 min.other:e3d8 minimum.default:bde9 mish.default:a1ae mm.default:d512
mm.dtype:ffe9 moveaxis.int:6e6e moveaxis.intlist:54b5 movedim.int:4079 movedim.intlist:fe97
mse_loss.default:c8f8 mul.Scalar:3de6 mul.Tensor:1b23 multiply.Scalar:9437 multiply.Tensor:cbba
mv.default:2496 mvlgamma.default:2178 nan_to_num.default:692a nanmean.default:d352
nansum.default:1f15 narrow.default:2918 narrow_copy.default:54b1 native_group_norm.default:c50d
native_layer_norm.default:3b62 ne.Scalar:302d ne.Tensor:f716 neg.default:6431 negative.default:2cad
new_full.default:e3ab new_ones.default:3d5f new_zeros.default:299a norm.Scalar:92cc
norm.ScalarOpt_dim:9be7 norm.ScalarOpt_dim_dtype:704a norm.ScalarOpt_dtype:df76
not_equal.Scalar:7c58 not_equal.Tensor:440c one_hot.default:ca93 ones.default:c2fa
ones_like.default:063e outer.default:9bf8 pad.default:5b21 permute.default:3683
permute_copy.default:5a7c pixel_shuffle.default:013e pixel_unshuffle.default:75e2
polygamma.default:81ac positive.default:20ad pow.Scalar:aed9 pow.Tensor_Scalar:f251
pow.Tensor_Tensor:7444 prelu.default:2ae5 prod.default:ded4 prod.dim_int:89d8 ravel.default:fb7c
reciprocal.default:d24a relu.default:2b0b relu6.default:c675 remainder.Scalar:8a7d
remainder.Scalar_Tensor:4f07 remainder.Tensor:e640 renorm.default:3a49 repeat.default:035d
repeat_interleave.self_int:1a93 reshape.default:f5eb reshape_as.default:f120 rms_norm.default:0d24
rnn_relu.input:09d7 rnn_relu_cell.default:710d rnn_tanh.input:4e9f rnn_tanh_cell.default:c3b5
roll.default:423c rot90.default:ef48 round.decimals:0bf3 round.default:771b row_stack.default:c230
rsqrt.default:fd0d rsub.Scalar:1c57 rsub.Tensor:d5ec scalar_tensor.default:e26c
scaled_dot_product_attention.default:afe7 scatter.reduce:bc11 scatter.src:713c scatter.value:fd27
scatter.value_reduce:0918 scatter_add.default:3539 scatter_reduce.two:922f select.int:a95b
select_copy.int:ec21 select_scatter.default:92b6 selu.default:a2f3 sgn.default:abd7
sigmoid.default:d865 sign.default:6d86 signbit.default:a33f silu.default:a907 sin.default:5519
sinc.default:d00f sinh.default:22b8 slice.Tensor:ab0f slice_copy.Tensor:50eb
slice_scatter.default:e66a smooth_l1_loss.default:c0de softmax.int:6c62 softplus.default:b265
softshrink.default:733b sort.default:5cf7 sort.stable:3e04 special_erf.default:8d78
special_erfcx.default:da3a special_exp2.default:de5f special_expit.default:4616
special_log1p.default:2fa5 special_log_softmax.default:d7c1 special_ndtr.default:2ad5
special_softmax.default:d5eb special_xlogy.default:350e special_xlogy.other_scalar:a441
special_xlogy.self_scalar:409e split.Tensor:2c9b split.default:df74 split.sizes:ba11
split_copy.Tensor:eb3b split_with_sizes.default:f94c split_with_sizes_copy.default:4ffd
sqrt.default:010c square.default:b251 squeeze.default:40ca squeeze.dim:640f squeeze.dims:59e6
squeeze_copy.default:6882 squeeze_copy.dim:4d77 squeeze_copy.dims:1ce2 stack.default:3c95
std.correction:0582 std.default:f1e8 std.dim:1774 std_mean.correction:86b1 std_mean.default:9acb
std_mean.dim:8cb7 sub.Scalar:8245 sub.Tensor:e9db subtract.Scalar:80ea subtract.Tensor:2bcb
sum.default:f989 sum.dim_IntList:1743 swapaxes.default:13f2 swapdims.default:0749
sym_constrain_range.default:f16b sym_constrain_range_for_size.default:59e2 sym_numel.default:cc49
sym_size.default:db91 sym_size.int:d8ec sym_storage_offset.default:61af sym_stride.default:44ed
sym_stride.int:c2c1 t.default:d950 t_copy.default:8213 take.default:e103
take_along_dim.default:f914 tan.default:3d77 tanh.default:d2c6 tensor_split.indices:e12e
tensor_split.sections:c718 tensordot.default:05f0 threshold.default:0d28 tile.default:1b4c
to.device:b6a0 to.dtype:e7a3 to.dtype_layout:339c to.other:1bf7 topk.default:996f
transpose.int:e37a transpose_copy.int:4b28 trapezoid.dx:34eb trapezoid.x:4875 tril.default:acbc
tril_indices.default:bc4c triu.default:58b4 triu_indices.default:2652 true_divide.Scalar:e542
true_divide.Tensor:c889 trunc.default:ed95 type_as.default:b23a unbind.int:02d4
unbind_copy.int:8b83 unflatten.int:21ad unfold.default:bd96 unfold_copy.default:2ceb
unsqueeze.default:10af unsqueeze_copy.default:9046 var.correction:b0e4 var.default:045a
var.dim:65ea var_mean.correction:a2a6 var_mean.default:71e4 var_mean.dim:91bf vdot.default:4b6f
view.default:146b view_as.default:1aaf view_copy.default:8cd7 vsplit.array:2fa9 vsplit.int:cc33
vstack.default:0ad9 where.Scalar:58c4 where.ScalarOther:a541 where.ScalarSelf:9a10 where.self:3474
xlogy.Scalar_Other:b345 xlogy.Scalar_Self:d221 xlogy.Tensor:4391 zeros.default:fc46
zeros_like.default:4098
"""
_PLAIN: dict[str, Callable[[Any], Any]] = {
    "as_int": int,
    "as_float": float,
    "as_bool": bool,
    "as_string": str,
    "as_none": lambda _: None,
}


_MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError, OSError)


def digest(operator: Any) -> str:
    """16 bits of a hash of an operator's schema: types, defaults, what it writes to."""
    return hashlib.blake2b(str(operator._schema).encode(), digest_size=2).hexdigest()


@functools.cache
def _listed() -> dict[str, str]:
    return dict(entry.split(":") for entry in OPERATORS.split())


def listed(name: str) -> Any:
    """The ATen operator `name.overload`. Raises Refused where it is not on the list as it is."""
    import torch

    if name not in _listed():
        raise Refused(f"The model calls {name[:80]}, which is not on the list of operators.")
    found = functools.reduce(getattr, name.split("."), torch.ops.aten)
    if digest(found) != _listed()[name]:
        raise Refused(
            f"The model calls {name}, which PyTorch {torch.__version__} declares otherwise than"
            f" {OPERATORS_OF}, for which the list of operators was made."
        )
    return found


class Program:
    """A `torch.export` archive as a function of token ids. Raises Refused when it holds more than
    listed operators, or cannot be read.
    """

    def __init__(self, file: IO[bytes], device: str) -> None:
        import torch

        self.device, self.nodes, self.constants = device, [], {}  # type: ignore[var-annotated]
        try:
            with zipfile.ZipFile(file) as archive:
                if any(item.compress_type != zipfile.ZIP_STORED for item in archive.infolist()):
                    raise Refused(f"{MODEL} is compressed; torch.export.save writes it plain.")
                top = archive.namelist()[0].split("/")[0]
                told = json.loads(archive.read(f"{top}/models/model.json"))
                tensors = self._tensors(
                    archive, f"{top}/data/weights/", "model_weights_config.json"
                )
                tensors |= self._tensors(
                    archive, f"{top}/data/constants/", "model_constants_config.json"
                )
            module = told["graph_module"]
            self._bind(module["signature"], tensors)
            graph = module["graph"]
            for node in graph["nodes"]:
                arguments = [(item["arg"], item["kind"], item["name"]) for item in node["inputs"]]
                self.nodes.append(
                    (
                        node["target"],
                        self._operator(node["target"], arguments),
                        arguments,
                        node["outputs"],
                    )
                )
            last: dict[str, int] = {}
            for number, (_, _, arguments, _) in enumerate(self.nodes):
                last |= dict.fromkeys(_names([argument for argument, _, _ in arguments]), number)
            keep = {self.output}
            self.free: list[list[str]] = [[] for _ in self.nodes]
            for name, number in last.items():
                if name not in keep:
                    self.free[number].append(name)
        except (*_MALFORMED, RecursionError, zipfile.BadZipFile) as error:
            raise Refused(
                f"{MODEL} cannot be read as an exported program:"
                f" {type(error).__name__}: {_line(error)}"
            ) from None
        self.torch = torch

    def _tensors(self, archive: zipfile.ZipFile, folder: str, config: str) -> dict[str, Any]:
        import torch

        found = {}
        for name, entry in json.loads(archive.read(folder + config))["config"].items():
            facts = entry["tensor_meta"]
            if entry["use_pickle"]:
                raise Refused(f"The tensor {name} is pickled; only plain dense tensors are read.")
            flat = torch.frombuffer(
                bytearray(archive.read(folder + entry["path_name"])), dtype=_dtype(facts["dtype"])
            )
            shape, strides = (
                [size["as_int"] for size in facts[key]] for key in ("sizes", "strides")
            )
            view = flat.as_strided(shape, strides, facts["storage_offset"]["as_int"])
            found[name] = view.clone(memory_format=torch.contiguous_format).to(self.device)
        return found

    def _bind(self, signature: dict[str, Any], tensors: dict[str, Any]) -> None:
        self.input = self.output = ""
        for spec in signature["input_specs"]:
            ((kind, facts),) = spec.items()
            if kind == "user_input" and not self.input:
                self.input = facts["arg"]["as_tensor"]["name"]
            elif kind in ("parameter", "buffer", "tensor_constant"):
                self.constants[facts["arg"]["name"]] = tensors[facts[f"{kind}_name"]]
            else:
                raise Refused(
                    f"The model takes an input of kind {kind}; token ids are all it gets."
                )
        for spec in signature["output_specs"]:
            ((kind, facts),) = spec.items()
            if kind != "user_output" or self.output:
                raise Refused(
                    f"The model has an output of kind {kind};"
                    " it may only return its logits and change nothing."
                )
            self.output = facts["arg"]["as_tensor"]["name"]

    def _operator(self, target: str, arguments: list[tuple[Any, int, str]]) -> Callable[..., Any]:
        import operator

        parts = target.split(".")
        if parts[0] == "_operator" and len(parts) == 2 and parts[1] in _ARITHMETIC:
            return getattr(operator, parts[1])
        if parts[:3] != ["torch", "ops", "aten"] or len(parts) != 5:
            raise Refused(f"The model calls {target[:80]}; only ATen operators are allowed.")
        found = listed(".".join(parts[3:]))
        told = {label: argument for argument, _, label in arguments}
        # Whatever is written while scoring could tell the next call about this one
        learns = [told[label] != {"as_bool": False} for label in _LEARNING if label in told]
        if any(item.name in _STATE for item in found._schema.arguments) and (
            not learns or any(learns)
        ):
            raise Refused(
                f"The model calls {target[:80]}, which learns while it is scored;"
                " hand it in after model.eval()."
            )
        drops = [told[label] for label in ("dropout_p", "train") if label in told]
        if parts[3] in DROPPING and not (
            all(one in ({"as_float": 0.0}, {"as_bool": False}) for one in drops)
            and (drops or parts[3] == DROPPING[0])
        ):
            raise Refused(f"The model calls {target[:80]}, which draws random numbers.")
        return _attention(found) if parts[3] == DROPPING[0] else found

    def _value(self, argument: dict[str, Any], values: dict[str, Any]) -> Any:
        ((kind, value),) = argument.items()
        if kind in _PLAIN:
            return _PLAIN[kind](value)
        if kind in ("as_tensor", "as_name"):
            return values[value["name"] if kind == "as_tensor" else value]
        if kind in ("as_sym_int", "as_sym_float", "as_sym_bool", "as_optional_tensor"):
            return self._value(value, values)
        if kind == "as_tensors":
            return [values[item["name"]] for item in value]
        if kind in ("as_sym_ints", "as_optional_tensors"):
            return [self._value(item, values) for item in value]
        if kind in ("as_ints", "as_floats", "as_bools"):
            return [_PLAIN[kind[:-1]](item) for item in value]
        if kind == "as_scalar_type":
            return _dtype(value)
        if kind == "as_device":
            return self.torch.device(self.device)
        if kind == "as_layout" and value == 7:
            return self.torch.strided
        if kind == "as_memory_format" and value in (1, 4):
            return self.torch.contiguous_format if value == 1 else self.torch.preserve_format
        raise Refused(f"The model uses an argument of kind {kind}, which is not plain arithmetic.")

    def __call__(self, idx: Any) -> Any:
        """Logits [B, T, V] of token ids [B, T]."""
        # No call leaves anything to the next
        values = {name: tensor.clone() for name, tensor in self.constants.items()}
        # Nothing else lies in its storage
        values[self.input] = idx.contiguous().clone()
        for number, (target, function, arguments, outputs) in enumerate(self.nodes):
            try:
                plain = [
                    self._value(argument, values) for argument, kind, _ in arguments if kind != 2
                ]
                named = {
                    name: self._value(argument, values)
                    for argument, kind, name in arguments
                    if kind == 2
                }
                result = function(*plain, **named)
            except _MALFORMED as error:
                raise Refused(f"The model failed in {target}: {_line(error)}") from None
            for output, value in zip(
                outputs, [result] if len(outputs) == 1 else result or [], strict=False
            ):
                _store(output, value, values)
            for name in self.free[number]:
                values.pop(name, None)
        return values[self.output]


def _attention(found: Callable[..., Any]) -> Callable[..., Any]:
    """Scaled dot-product attention behind a look that its kernels for processors do not take: they
    read as many keys as there are values.
    """

    def attention(query: Any, key: Any, value: Any, *plain: Any, **named: Any) -> Any:
        if key.size(-2) != value.size(-2):
            raise Refused(f"The model attends to {key.size(-2)} keys, {value.size(-2)} values.")
        return found(query, key, value, *plain, **named)

    return attention


def _dtype(code: int) -> Any:
    import torch

    return getattr(torch, _DTYPES[code])


def _names(value: Any) -> Iterator[str]:
    """Every name that a serialised argument mentions."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key in ("name", "as_name") and isinstance(item, str):
                yield item
            else:
                yield from _names(item)
    elif isinstance(value, list):
        for item in value:
            yield from _names(item)


def _store(output: dict[str, Any], result: Any, values: dict[str, Any]) -> None:
    ((kind, name),) = output.items()
    if kind == "as_tensor":
        values[name["name"]] = result
    elif kind in ("as_tensors", "as_optional_tensors"):
        for item, part in zip(name, result, strict=True):
            values[item["name"] if "name" in item else item["as_tensor"]["name"]] = part
    elif kind in ("as_sym_int", "as_sym_float", "as_sym_bool") and "as_name" in name:
        values[name["as_name"]] = result


def _line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200]


# --------------------------------------------------------------------------------------------------
# The graph's own processes: what is not in a process's memory cannot be read there

_PDEATHSIG, _DUMPABLE, _SECCOMP, _NO_NEW_PRIVS = 1, 4, 22, 38
# By machine: its number for audit; clone, clone3; then the two lists
_CALLS = {"x86_64": (0xC000003E, 56, 435), "aarch64": (0xC00000B7, 220, 435)}
# On a processor, these and no others: memory, threads, clocks, the pipes that are open. In order:
# read write close fstat lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn
# pread64 sched_yield mremap madvise nanosleep getpid exit uname gettimeofday getrusage sysinfo
# sigaltstack gettid futex sched_getaffinity clock_gettime clock_nanosleep exit_group
# set_robust_list ppoll getcpu getrandom membarrier rseq restart_syscall set_tid_address
_NEEDED = {
    "x86_64": (0, 1, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15, 17, 24, 25, 28, 35, 39, 60, 63, 96, 98, 99,
               131, 186, 202, 204, 228, 230, 231, 273, 271, 309, 318, 324, 334, 219, 218),
    "aarch64": (63, 64, 57, 80, 62, 222, 226, 215, 214, 134, 135, 139, 67, 124, 216, 233, 101, 172,
                93, 160, 169, 165, 179, 132, 178, 98, 123, 113, 115, 94, 99, 73, 168, 278, 283, 293,
                128, 96),
}  # fmt: skip
# With a card, whose driver needs much, all but these: other processes, programs, shared memory,
# sockets, keys, holes in the kernel. In order: ptrace process_vm_readv process_vm_writev execve
# execveat kill tkill tgkill pidfd_open pidfd_getfd pidfd_send_signal kcmp shmget msgget semget bind
# io_uring_setup bpf userfaultfd perf_event_open add_key request_key keyctl unshare setns mount
# name_to_handle_at open_by_handle_at, fork and vfork where there are any
_BARRED = {
    "x86_64": (101, 310, 311, 59, 322, 62, 200, 234, 434, 438, 424, 312, 29, 68, 64, 49, 425, 321,
               323, 298, 248, 249, 250, 272, 308, 165, 303, 304, 57, 58),
    "aarch64": (117, 270, 271, 221, 281, 129, 130, 131, 434, 438, 424, 272, 194, 186, 190, 200, 425,
                280, 282, 241, 217, 218, 219, 97, 268, 40, 264, 265),
}  # fmt: skip


def _control(option: int, value: int, program: Any = 0) -> None:
    """prctl(2). Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, program, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def _filter(machine: str, card: bool) -> bytes:
    """A program for seccomp(2): the lists above, threads but no processes, no foreign calls."""
    load, equal, at_least, has, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, refuse, absent = 0x7FFF0000, 0x00050001, 0x00050026
    audit, clone, clone3 = _CALLS[machine]
    code = [(load, 0, 0, 4), (equal, 1, 0, audit), (answer, 0, 0, refuse)]
    code += [(load, 0, 0, 0), (at_least, 0, 1, 1 << 30), (answer, 0, 0, refuse)]
    # The C library falls back to clone, whose flags can be looked at: CLONE_THREAD
    code += [(equal, 0, 1, clone3), (answer, 0, 0, absent)]
    code += [(equal, 0, 4, clone), (load, 0, 0, 16), (has, 0, 1, 1 << 16)]
    code += [(answer, 0, 0, allow), (answer, 0, 0, refuse)]
    listed, other = (_BARRED, allow) if card else (_NEEDED, refuse)
    for number in listed[machine]:
        code += [(equal, 0, 1, number), (answer, 0, 0, refuse if card else allow)]
    return b"".join(struct.pack("=HBBI", *step) for step in [*code, (answer, 0, 0, other)])


def _seal(card: bool) -> None:
    """From here on this process computes and answers, and that is all. Raises OSError, KeyError."""
    _control(_PDEATHSIG, signal.SIGKILL)
    _control(_DUMPABLE, 0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _control(_NO_NEW_PRIVS, 1)
    code = _filter(os.uname().machine, card)
    if card:
        places = (data_root() / "eval" / "hidden.txt").read_text().splitlines()
        _hide([data_root() / "eval", *map(Path, places)])
    held = ctypes.create_string_buffer(code)
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(held))
    _control(_SECCOMP, 2, ctypes.c_char_p(program))


def _hide(hidden: list[Path]) -> None:
    """Landlock(7): this process reads no file below `hidden`, and writes to the card alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    read, write = 0b1101, 0b1111 | 1 << 15
    # Everything that ABI 1 knows: what is handled and has no rule is refused
    ruleset = libc.syscall(444, ctypes.byref(ctypes.c_uint64((1 << 13) - 1)), ctypes.c_size_t(8), 0)
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "landlock")
    secret = {Path(os.path.realpath(path)) for path in hidden}
    open_to_all, queue = [], [Path("/")]
    while queue:
        for path in queue.pop().iterdir():
            if any(path in one.parents for one in secret):
                queue.append(path)
            elif path not in secret:
                open_to_all.append((path, read))
    open_to_all += [(path, write) for name in ("nvidia*", "kfd", "dri", "null", "zero", "urandom")
                    for path in Path("/dev").glob(name)]  # fmt: skip
    for path, rights in open_to_all:
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rights &= -1 if path.is_dir() else 0b111
            rule = struct.pack("=Qi", rights, handle)
            libc.syscall(445, ruleset, 1, ctypes.c_char_p(rule), 0)
            os.close(handle)
    if libc.syscall(446, ruleset, 0):
        raise OSError(ctypes.get_errno(), "landlock")
    os.close(ruleset)


class Subject:
    """A process that holds the submission at `path` and answers token ids [B, T] with logits.

    It is forked before any text is read, and given ids alone, a batch at a time. Nothing that it
    can write to is seen by another process but the buffer of its answer, float32 [B, T, V], which
    is copied before it is looked at. Linux only. Raises Refused with the reason the process gives,
    Suspicious where it dies of a signal.
    """

    def __init__(self, path: Path, profile: dict[str, Any]) -> None:
        import torch

        file = _opened(path, profile["model_bytes"])
        self.shape = (profile["eval_rows"], profile["sequence"], profile["vocabulary"])
        self.memory = mmap.mmap(-1, 4 * math.prod(self.shape))
        asked, self.asking = os.pipe()
        self.answered, answering = os.pipe()
        self.process = os.fork()
        if not self.process:
            _serve(file, self.shape, self.memory, asked, answering)
        os.close(asked)
        os.close(answering)
        file.close()
        # The next process that is forked from here must not find it
        self.memory.madvise(mmap.MADV_DONTFORK)
        self.host = torch.frombuffer(self.memory, dtype=torch.float32).view(self.shape)
        self.card: Any = None
        self.ready = False

    def __call__(self, idx: Any) -> Any:
        """Logits [B, T, V] of ids [B, T], on their device."""
        if not self.ready:
            self._share(idx.device)
        self._told(idx.to("cpu").numpy().tobytes())
        rows = idx.size(0)
        if self.card is not None:
            return self.card[:rows].clone()
        return self.host[:rows].clone().to(idx.device)

    def _share(self, device: Any) -> None:
        """Have it hand over on the card, where both can see a part of its memory."""
        from multiprocessing.reduction import ForkingPickler

        import torch

        handle = b""
        if device.type == "cuda":
            self.card = torch.empty(self.shape, device=device)
            handle = bytes(ForkingPickler.dumps(self.card))
        if self._told(handle) == "host":
            self.card = None
        self.ready = True

    def _told(self, message: bytes) -> str:
        """What it says to a message: "" when all is well, "host" where it cannot reach the card."""
        # It may have said why, and gone
        with contextlib.suppress(BrokenPipeError):
            _send(self.asking, message)
        status = _receive(self.answered)
        if status == b"":
            raise self._end()
        said = "".join(c if c.isprintable() else " " for c in status[1:].decode("utf-8", "replace"))
        if status[:1] == b"!":
            raise Refused(said[:500])
        return said[:500]

    def _end(self) -> Refused:
        """Why it is gone."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
        self.process = 0
        if code in (-signal.SIGKILL, 0):
            return Refused(
                "The process of the model was ended: there may have been too little memory."
            )
        named = signal.Signals(-code).name if code < 0 else f"exit {code}"
        return Suspicious(f"The process of the model died ({named}).")

    def close(self) -> None:
        for end in (self.asking, self.answered):
            os.close(end)
        if self.process:
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)


def _send(end: int, message: bytes) -> None:
    message = struct.pack("=Q", len(message)) + message
    while message:
        message = message[os.write(end, message) :]


def _receive(end: int) -> bytes:
    """One message; b"" where the other side is gone."""
    have, size = b"", 8
    while len(have) < size:
        if not (more := os.read(end, size - len(have))):
            return b""
        have += more
        if len(have) == 8 == size:
            size += min(struct.unpack("=Q", have)[0], 1 << 30)
    return have[8:]


def _serve(
    file: IO[bytes], shape: tuple[int, int, int], memory: mmap.mmap, asked: int, answering: int
) -> NoReturn:
    """The forked process: seal it, read the submission, answer until nobody asks."""
    code = 1
    try:
        told, nowhere = os.dup(2), os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nowhere, standard)
        kept = sorted({file.fileno(), asked, answering, told})
        for low, high in zip([2, *kept], [*kept, 1 << 16], strict=True):
            os.closerange(low + 1, high)
        device = _device()
        # Its own threads and libraries come before the doors close
        _warm(device)
        try:
            _seal(device == "cuda")
        except (OSError, KeyError) as problem:
            os.write(told, f"The model's process is not sealed here: {problem!r}.\n".encode())
        os.close(told)
        program = Program(file, device)
        # Two who can read the same file could tell each other something by it
        file.close()
        _answer(program, shape, memory, asked, answering)
        code = 0
    except BrokenPipeError:
        code = 0
    except Exception as problem:
        said = str(problem) if isinstance(problem, Refused) else f"The model failed: {problem!r}"
        _send(answering, b"!" + said.encode())
        code = 0
    finally:
        os._exit(code)


def _warm(device: str) -> None:
    import torch

    for kind in (torch.float32, torch.bfloat16):
        side = torch.ones(256, 256, dtype=kind, device=device)
        torch.nn.functional.linear(side, side).softmax(-1).sum().item()


def _answer(
    program: Program,
    shape: tuple[int, int, int],
    memory: mmap.mmap,
    asked: int,
    answering: int,
) -> None:
    import torch

    target = torch.frombuffer(memory, dtype=torch.float32).view(shape)
    said = b"."
    if handle := _receive(asked):
        try:
            target = pickle.loads(handle)
        except (RuntimeError, OSError):
            said = b".host"
    _send(answering, said)
    with torch.no_grad():
        while ids := _receive(asked):
            idx = torch.frombuffer(bytearray(ids), dtype=torch.int64).view(-1, shape[1])
            found = program(idx.to(program.device))
            expected = (len(idx), *shape[1:])
            if not isinstance(found, torch.Tensor) or tuple(found.shape) != expected:
                given = tuple(getattr(found, "shape", ()))
                raise Refused(f"The model returns {given}, not {expected}.")
            target[: len(idx)].copy_(found)
            if program.device == "cuda":
                torch.cuda.synchronize()
            _send(answering, b".")


# --------------------------------------------------------------------------------------------------
# Scoring


def windows(split: str, part: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(inputs [R, T], targets [R, T], block of each row [R]) of `val` or of hold-out slice `part`,
    always the same.

    The budget of tokens is spread evenly over documents (the shorter leave theirs to the longer),
    on one excerpt of each, whose place its number decides: heads alone are unlike the rest. Within
    a block documents follow one another, BOS between; each window starts with BOS and no token is
    scored twice.
    """
    folder, profile = data_root() / "eval", meta("eval")["profile"]
    tokens, starts = _tokens(folder, split)
    chosen = np.arange(len(starts) - 1)
    if split == "holdout":
        if not 0 <= part < HOLDOUT_SLICES:
            raise Refused(
                f"AUTORESEARCH_HOLDOUT_SLICE is {part}; there are slices 0 to {HOLDOUT_SLICES - 1}."
            )
        chosen = chosen[np.load(folder / "holdout.slices.npy") == part]
        if not chosen.size:
            raise Refused(f"Hold-out slice {part} is empty: the source has too few documents.")
    lengths = starts[chosen + 1] - starts[chosen]
    low, cap = 1, int(lengths.max())
    # The largest cap that keeps within the budget
    while low < cap:
        middle = (low + cap + 1) // 2
        low, cap = (
            (middle, cap)
            if np.minimum(lengths, middle).sum() <= profile["eval_tokens"]
            else (low, middle - 1)
        )
    documents = []
    for i, size in zip(chosen, np.minimum(lengths, cap), strict=True):
        room = int(starts[i + 1] - starts[i] - size)
        at = int(starts[i]) + int.from_bytes(hashlib.blake2b(f"{split}:{i}".encode()).digest()) % (
            room + 1
        )
        documents.append(np.concatenate([[BOS], tokens[at + 1 : at + size]]))
    if len(documents) >= BLOCKS // 2:
        groups = [
            np.concatenate([documents[i] for i in g])
            for g in np.array_split(np.arange(len(documents)), min(BLOCKS, len(documents)))
        ]
    else:
        groups = np.array_split(np.concatenate(documents), BLOCKS)
    length, rows, blocks = profile["sequence"], [], []
    for block, stream in enumerate(groups):
        stream = stream[1:] if stream[0] == BOS else stream
        padded = np.full(-(-len(stream) // length) * length, BOS, np.int64)
        padded[: len(stream)] = stream
        rows.append(padded.reshape(-1, length))
        blocks += [block] * len(rows[-1])
    targets = np.concatenate(rows)
    return (
        np.concatenate([np.full((len(targets), 1), BOS), targets[:, :-1]], 1),
        targets,
        np.array(blocks),
    )


Answer = Callable[[Any], Any]


def score(
    scored: Answer,
    probed: Answer,
    split: str,
    part: int,
    device: str,
    probes: int,
    end_scored: Callable[[], None] = lambda: None,
) -> tuple[float, list[float]]:
    """(bits per byte, bits per byte of each block). Raises Refused on a wrong shape, no finite
    number or a failed probe.

    Both map ids [B, T] to logits [B, T, V]: `scored` is asked for every row, `probed` has never
    seen a whole one, nor answers while one who has is there: `end_scored` is called in between.
    A probe replaces everything after a random position of a row, and gives it
    other neighbours: the loss up to and at that position must stay what it was. Shapes are always
    the same, so equal ids give equal floats, but for where in a batch they stand.
    """
    import torch

    profile = meta("eval")["profile"]
    x, y, blocks = (torch.from_numpy(array) for array in windows(split, part))
    count, length = x.shape
    rows = min(profile["eval_rows"], count)

    def losses(answer: Answer, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        inputs, targets = inputs.to(device), targets.to(device)
        found, shape = answer(inputs), (*inputs.shape, profile["vocabulary"])
        if not isinstance(found, torch.Tensor) or tuple(found.shape) != shape:
            raise Refused(f"The model returns {tuple(getattr(found, 'shape', ()))}, not {shape}.")
        nats = torch.nn.functional.cross_entropy(
            found.float().flatten(0, 1), targets.flatten(), reduction="none"
        )
        # As it is not when any logit is NaN or +inf
        if not bool(torch.isfinite(nats).all()):
            raise Refused("The model's logits are not all finite.")
        return nats.view_as(inputs).cpu()

    with torch.no_grad():
        # The last batch is filled up: one shape for all
        order = torch.arange(-(-count // rows) * rows) % count
        nats = torch.cat([losses(scored, x[i], y[i]) for i in order.split(rows)])[:count]
        again = losses(scored, x[order[:rows]], y[order[:rows]])
        if not bool((again - nats[:rows]).abs().max() <= TOLERANCE):
            raise Suspicious("The model gives another answer when asked again.")
        end_scored()
        # Not to be foreseen
        dice = torch.Generator().manual_seed(int.from_bytes(os.urandom(7), "big"))
        # Half of them where a loss is far below the unigram's: what peeking gains, it gains there
        odds = ((y.numel() / y.flatten().bincount().double()[y]).log() - nats).clamp(min=0)
        odds = (odds / odds.sum().clamp(min=1e-9) + 1 / odds.numel()).flatten()
        moves, cuts = [], []
        for places in odds.multinomial(-(-probes // rows) * rows, True, generator=dice).split(rows):
            picked, cut = places // length, (places % length)[:, None]
            other = x[torch.randint(count, (rows,), generator=dice)]
            other = other[:, torch.randperm(length, generator=dice)]
            past = torch.arange(length) <= cut
            found = losses(probed, torch.where(past, x[picked], other), y[picked])
            moves.append((found - nats[picked]) * past)
            cuts.append(cut)
        _judge(torch.cat(moves), torch.cat(cuts), MEAN_TOLERANCE[device])
    sizes = torch.from_numpy(np.load(data_root() / "eval" / "token_bytes.npy"))[y]
    bits = (nats.double() * (sizes > 0)).sum(1) / math.log(2)
    per_block = torch.zeros(int(blocks.max()) + 1, 2, dtype=torch.float64)
    per_block.index_add_(0, blocks, torch.stack([bits, sizes.sum(1).double()], 1))
    whole, each = per_block.sum(0), per_block[:, 0] / per_block[:, 1]
    return float(whole[0] / whole[1]), each.tolist()


def _judge(moves: Any, cuts: Any, tolerance: float) -> None:
    """Raise Suspicious where losses [N, T] moved under probes that changed all after `cuts` [N, 1].

    A single loss may move by TOLERANCE, those of the last 1, 2, 4, … positions up to the cuts on
    average by `tolerance`: a model that peeks k tokens ahead shows it in the last k alone.
    """
    import torch

    seen = "The model sees what it must not: a change of later tokens or other rows moved"
    if not bool(moves.abs().max() <= TOLERANCE):
        raise Suspicious(f"{seen} a past loss by {moves.abs().max():.3g} nats.")
    ago, reach = cuts - torch.arange(moves.size(1)), 1
    while reach < 2 * moves.size(1):
        near = (ago >= 0) & (ago < reach)
        mean = float((moves.double() * near).sum() / near.sum())
        if not abs(mean) <= tolerance:
            raise Suspicious(f"{seen} past losses by {mean:.3g} nats on average.")
        reach *= 2


def evaluate(path: Path) -> tuple[float, list[float]]:
    """Score the submission at `path` on $AUTORESEARCH_SPLIT (val, holdout). Raises Refused.

    Forks processes that compute: only for one that has not yet used PyTorch's threads.
    """
    for name, value in (
        # Threads that spin collapse on a shared machine
        ("OMP_WAIT_POLICY", "passive"),
        ("GOMP_SPINCOUNT", "0"),
        # A process that has once asked the driver itself cannot be forked from
        ("PYTORCH_NVML_BASED_CUDA_CHECK", "1"),
    ):
        os.environ.setdefault(name, value)
    # It would call what a file on the path of modules names
    os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
    import torch

    split = os.environ.get("AUTORESEARCH_SPLIT") or "val"
    part = int(os.environ.get("AUTORESEARCH_HOLDOUT_SLICE") or 0)
    if split not in SHARES:
        raise Refused(f"AUTORESEARCH_SPLIT is {split}; it is val or holdout.")
    manifest, folder = meta("eval"), data_root() / "eval"
    threads = os.environ.get("OMP_NUM_THREADS")
    torch.set_num_threads(int(threads) if threads else os.cpu_count() or 1)
    with contextlib.ExitStack() as held:
        # Before any text is read: what a process is forked from it has in its memory
        first = held.enter_context(contextlib.ExitStack())
        answers = [_respondent(path, manifest["profile"], one) for one in (first, held)]
        if sys.platform == "linux":
            _control(_DUMPABLE, 0)
        for name in (f"{split}.tokens.npy", f"{split}.starts.npy", "token_bytes.npy"):
            if sha256(folder / name) != manifest["files"][name]["sha256"]:
                raise Refused(
                    f"{folder / name} is not what was prepared: run `python prepare.py` again."
                )
        probes = manifest["profile"]["probes"][split]
        return score(*answers, split, part, _device(), probes, first.close)


def _respondent(path: Path, profile: dict[str, Any], held: contextlib.ExitStack) -> Answer:
    """Who answers: a process of its own, where there can be one."""
    if sys.platform == "linux":
        return held.enter_context(contextlib.closing(Subject(path, profile)))
    print("The model has no process of its own here.", file=sys.stderr)
    return Program(held.enter_context(_opened(path, profile["model_bytes"])), _device())


def _opened(path: Path, limit: int) -> IO[bytes]:
    """The submission, its size checked on the open file. Raises Refused."""
    try:
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
    except FileNotFoundError:
        raise Refused(
            f"There is no {path.name}: did training end with prepare.submit(model)?"
        ) from None
    except OSError as error:
        raise Refused(f"{path.name} cannot be read: {error.strerror}.") from None
    facts = os.fstat(file.fileno())
    if not stat.S_ISREG(facts.st_mode) or facts.st_size > limit:
        raise Refused(f"{path.name} has {facts.st_size:,} bytes, and {limit:,} are allowed.")
    return file


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def default_profile() -> str:
    try:
        return _device()
    except ImportError:
        return "cpu"


def main(arguments: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("task", nargs="?", choices=["prepare", "evaluate"], default="prepare")
    parser.add_argument(
        "--source", help="stdlib, climbmix, a path or a URL; default: what is prepared, else stdlib"
    )
    parser.add_argument(
        "--data", help="where to keep it; default $AUTORESEARCH_DATA or ~/.cache/autoresearch"
    )
    parser.add_argument(
        "--profile", choices=sorted(PROFILES), default=os.environ.get("AUTORESEARCH_PROFILE")
    )
    parser.add_argument(
        "--shards",
        type=int,
        default=10,
        help="how many shards of climbmix to train on (default 10)",
    )
    given = parser.parse_args(None if arguments is None else list(arguments))
    if given.data:
        os.environ["AUTORESEARCH_DATA"] = given.data
    try:
        if given.task == "evaluate":
            bpb, parts = evaluate(Path(MODEL))
            print("METRIC_BLOCKS:", *(f"{value:.6f}" for value in parts))
            print(f"val_bpb: {bpb:.6f}")
            return 0
        fresh = prepare(given.source, PROFILES[given.profile or default_profile()], given.shards)
        told = meta()
        done, profile = "Prepared" if fresh else "Already prepared", told["profile"]["name"]
        print(f"{done}: {told['source']}, profile {profile}, {data_root()}")
        tokens = ", ".join(f"{name} {told['tokens'][name]:,}" for name in ("train", *SHARES))
        print(
            f"Tokens {tokens}; hold-out in {HOLDOUT_SLICES} slices;"
            f" contents {told['contents'][:12]}"
        )
    except Refused as problem:
        print(f"{SUSPICIOUS}: " * isinstance(problem, Suspicious), problem, sep="", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    # What a candidate may have put beside this file is no module, nor tells of any
    beside = os.path.dirname(os.path.realpath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.realpath(path) != beside]
    sys.exit(main())
