"""Data, splits, tokenizer and the frozen scorer. Training may read this file; nothing it does may
change it.

    python prepare.py [--source stdlib|climbmix|PATH|URL]     make DATA/train, eval, decoy; a second
    time: nothing to do python prepare.py evaluate                                score model.pt2:
    one line `val_bpb: x`, blocks before it

DATA is $AUTORESEARCH_DATA or ~/.cache/autoresearch. `train/` holds what training sees; `eval/` the
validation and hold-out tokens, which training's sandbox never has; `decoy/` dice that look like
training tokens, for a pass in which code only compiles. Documents, not tokens, are split, and
near-duplicates (MinHash, Broder 1997) stay on one side. The score is bits per byte, so it does not
depend on the vocabulary. `eval/hidden.txt` names where on this machine the text of evaluation
documents also lies: a sandbox must not show these places to training.

A submission is a `torch.export` archive, read here as data: JSON and raw tensors.
`torch.export.load` would unpickle, `exec` guards and `sympify` strings that the candidate wrote;
the interpreter below calls listed ATen operators only. Not covered: the effort of training (the
harness counts that), models that need an operator outside ATen.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import math
import os
import re
import shutil
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

# ----------------------------------------------------------------------------------------------------------------------
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
MODEL = "model.pt2"
# Of the prepared folders
FORMAT = 3
BOS = 0
PATTERN = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"

# Parts of the standard library that no training program imports: evaluation documents come from
# them, and its sandbox hides them.
SPARE = (
    "test", "idlelib", "lib2to3", "tkinter", "turtledemo", "wsgiref", "xmlrpc", "pydoc_data", "curses", "dbm", "aifc.py",
    "asynchat.py", "asyncore.py", "cgi.py", "cgitb.py", "chunk.py", "crypt.py", "ftplib.py", "imaplib.py", "imghdr.py", "mailbox.py",
    "mailcap.py", "modulefinder.py", "nntplib.py", "pipes.py", "poplib.py", "pyclbr.py", "smtpd.py", "smtplib.py", "sndhdr.py",
    "sunau.py", "tabnanny.py", "telnetlib.py", "turtle.py", "uu.py", "wave.py", "webbrowser.py", "xdrlib.py", "zipapp.py",
)  # fmt: skip
# $AUTORESEARCH_CLIMBMIX_URL
CLIMBMIX = "https://huggingface.co/datasets/karpathy/climbmix-400b-shuffle/resolve/main"
# Its last shard: the only one that validation and hold-out documents come from
PINNED = 6542
ATTEMPTS = 8
# Bytes; at most so many of what came before a break come again
CHUNK = 1 << 16


class Refused(Exception):
    """Something a user or a candidate did; the message is one sentence."""


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


# ----------------------------------------------------------------------------------------------------------------------
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


# ----------------------------------------------------------------------------------------------------------------------
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
    return [int.from_bytes(hashlib.blake2b(bytes([i]) + band.tobytes(), digest_size=8).digest(), "big")
            for i, band in enumerate(lowest.reshape(count, rows))]  # fmt: skip


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
            f"{source.label} has {len(parent)} documents in {len(clusters)} groups of near-duplicates: too few for three splits."
        )
    return split


# ----------------------------------------------------------------------------------------------------------------------
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


# ----------------------------------------------------------------------------------------------------------------------
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


# ----------------------------------------------------------------------------------------------------------------------
# Reading a submission

_DTYPES = dict(
    enumerate(["uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"], 1)
) | {12: "bool", 13: "bfloat16"}
_OPERATORS = ("getitem", "add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge", "pow", "and_",
              "or_", "not_")  # fmt: skip
_ASSERTS = ("_assert_scalar", "_assert_tensor_metadata", "_assert_async")
_PRIVATE = ("_softmax", "_log_softmax", "_to_copy", "_scaled_dot_product_attention_math", "_grouped_mm", "_weight_norm",
            "__and__", "__or__", "__xor__", "__lshift__", "__rshift__", *_ASSERTS)  # fmt: skip
# Not exported, or raw memory
_FOREIGN = ("cudnn_", "miopen_", "mkldnn_", "mps_", "quantized_", "empty", "from_file", "resize")
# In a schema
_TAKEN = re.compile(r"(?:Optional\[|List\[)*(?:Tensor|int|float|bool|number|str|Device)\]*")
# Written to by norms that learn, though their schemas do not say so
_STATE = ("running_mean", "running_var")
_LEARNING = ("training", "train", "use_input_stats")
# Tagged random; not so with dropout off
_DROPPING = ("scaled_dot_product_attention", "dropout", "gru", "lstm", "rnn_tanh", "rnn_relu")
_PLAIN: dict[str, Callable[[Any], Any]] = {
    "as_int": int,
    "as_float": float,
    "as_bool": bool,
    "as_string": str,
    "as_none": lambda _: None,
}


class Program:
    """A `torch.export` archive as a function of token ids. Raises Refused when it holds more than
    arithmetic.
    """

    def __init__(self, path: Path, device: str, limit: int) -> None:
        import torch

        self.device, self.nodes, self.constants = device, [], {}  # type: ignore[var-annotated]
        try:
            size = path.stat().st_size
            if path.is_symlink() or size > limit:
                raise Refused(f"{path.name} has {size:,} bytes, and {limit:,} are allowed.")
            with zipfile.ZipFile(path) as archive:
                if any(item.compress_type != zipfile.ZIP_STORED for item in archive.infolist()):
                    raise Refused(f"{path.name} is compressed; torch.export.save writes it plain.")
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
        except FileNotFoundError:
            raise Refused(
                f"There is no {path.name}: did training end with prepare.submit(model)?"
            ) from None
        except (
            KeyError,
            TypeError,
            ValueError,
            IndexError,
            AttributeError,
            RuntimeError,
            OSError,
            RecursionError,
            zipfile.BadZipFile,
        ) as error:
            raise Refused(
                f"{path.name} cannot be read as an exported program: {type(error).__name__}: {_line(error)}"
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
                    f"The model has an output of kind {kind}; it may only return its logits and change nothing."
                )
            self.output = facts["arg"]["as_tensor"]["name"]

    def _operator(self, target: str, arguments: list[tuple[Any, int, str]]) -> Callable[..., Any]:
        import operator

        import torch

        parts = target.split(".")
        if parts[0] == "_operator" and len(parts) == 2 and parts[1] in _OPERATORS:
            return getattr(operator, parts[1])
        if parts[:3] != ["torch", "ops", "aten"] or len(parts) != 5 or parts[4].startswith("__"):
            raise Refused(f"The model calls {target[:80]}; only ATen operators are allowed.")
        name = parts[3]
        if (name.startswith("_") and name not in _PRIVATE) or any(
            word in name for word in _FOREIGN
        ):
            raise Refused(f"The model calls {target[:80]}, which is not plain arithmetic.")
        found = getattr(getattr(torch.ops.aten, name), parts[4])
        taken, given = (
            [str(item.type) for item in side]
            for side in (found._schema.arguments, found._schema.returns)
        )
        tensors = bool(given) and set(given) <= {"Tensor", "List[Tensor]", "number"}
        if not (tensors or name.startswith("sym_") or name in _ASSERTS) or not all(
            map(_TAKEN.fullmatch, taken)
        ):
            raise Refused(f"The model calls {target[:80]}, which does not make tensors of tensors.")
        self._refuse_memory(target, found, arguments)
        drops = {
            label: argument for argument, _, label in arguments if label in ("dropout_p", "train")
        }
        off = all(
            argument in ({"as_float": 0.0}, {"as_bool": False}) for argument in drops.values()
        )
        if torch.Tag.nondeterministic_seeded in found.tags and not (
            name in _DROPPING and off and (drops or name == _DROPPING[0])
        ):
            raise Refused(f"The model calls {target[:80]}, which draws random numbers.")
        return found

    def _refuse_memory(
        self, target: str, found: Any, arguments: list[tuple[Any, int, str]]
    ) -> None:
        """Whatever is written while scoring could tell the next call about this one."""
        if found._schema.is_mutable:
            raise Refused(
                f"The model calls {target[:80]}, which changes a tensor in place; write it without."
            )
        learns = [
            argument != {"as_bool": False} for argument, _, label in arguments if label in _LEARNING
        ]
        if any(item.name in _STATE for item in found._schema.arguments) and (
            not learns or any(learns)
        ):
            raise Refused(
                f"The model calls {target[:80]}, which learns while it is scored; hand it in after model.eval()."
            )

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
            except (
                RuntimeError,
                TypeError,
                ValueError,
                KeyError,
                IndexError,
                NotImplementedError,
            ) as error:
                raise Refused(f"The model failed in {target}: {_line(error)}") from None
            for output, value in zip(
                outputs, [result] if len(outputs) == 1 else result or [], strict=False
            ):
                _store(output, value, values)
            for name in self.free[number]:
                values.pop(name, None)
        return values[self.output]


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
    return (str(error).strip().splitlines() or [""])[0][:200]


# ----------------------------------------------------------------------------------------------------------------------
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


def score(
    logits: Callable[[Any], Any], split: str, part: int, device: str, probes: int
) -> tuple[float, list[float]]:
    """(bits per byte, bits per byte of each block). Raises Refused on a wrong shape, no finite
    number or a failed probe.

    `logits` maps ids [B, T] to [B, T, V]. A probe replaces everything after a random position of a
    row, and gives it other neighbours: the loss up to and at that position must stay. It is also
    what makes a repeat comparable: shapes are always the same.
    """
    import torch

    profile = meta("eval")["profile"]
    x, y, blocks = (torch.from_numpy(array) for array in windows(split, part))
    count, length = x.shape
    rows = min(profile["eval_rows"], count)

    def losses(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        inputs, targets = inputs.to(device), targets.to(device)
        found = logits(inputs)
        if not isinstance(found, torch.Tensor) or tuple(found.shape) != (
            *inputs.shape,
            profile["vocabulary"],
        ):
            raise Refused(
                f"The model returns {tuple(getattr(found, 'shape', ()))}, not {(*inputs.shape, profile['vocabulary'])}."
            )
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
        nats = torch.cat([losses(x[i], y[i]) for i in order.split(rows)])[:count]
        again = losses(x[order[:rows]], y[order[:rows]])
        if not bool((again - nats[:rows]).abs().max() <= TOLERANCE):
            raise Refused("The model gives another answer when asked again.")
        # Not to be foreseen
        dice = torch.Generator().manual_seed(int.from_bytes(os.urandom(7), "big"))
        for _ in range(-(-probes // rows)):
            picked = torch.randint(count, (rows,), generator=dice)
            cut = torch.randint(length, (rows, 1), generator=dice)
            other = x[torch.randint(count, (rows,), generator=dice)][
                :, torch.randperm(length, generator=dice)
            ]
            past = torch.arange(length) <= cut
            moved = (
                losses(torch.where(past, x[picked], other), y[picked]) - nats[picked]
            ).abs() * past
            if not bool(moved.max() <= TOLERANCE):
                raise Refused(
                    f"The model sees what it must not: a change of later tokens or other rows moved a past loss by {moved.max():.3g} nats."
                )
    sizes = torch.from_numpy(np.load(data_root() / "eval" / "token_bytes.npy"))[y]
    bits = (nats.double() * (sizes > 0)).sum(1) / math.log(2)
    per_block = torch.zeros(int(blocks.max()) + 1, 2, dtype=torch.float64)
    per_block.index_add_(0, blocks, torch.stack([bits, sizes.sum(1).double()], 1))
    return float(per_block[:, 0].sum() / per_block[:, 1].sum()), (
        per_block[:, 0] / per_block[:, 1]
    ).tolist()


def evaluate(path: Path) -> tuple[float, list[float]]:
    """Score the submission at `path` on $AUTORESEARCH_SPLIT (val, holdout). Raises Refused."""
    for name, value in (("OMP_WAIT_POLICY", "passive"), ("GOMP_SPINCOUNT", "0")):
        # Before the first import: threads that spin collapse on a shared machine
        os.environ.setdefault(name, value)
    import torch

    split, part = (
        os.environ.get("AUTORESEARCH_SPLIT") or "val",
        int(os.environ.get("AUTORESEARCH_HOLDOUT_SLICE") or 0),
    )
    if split not in SHARES:
        raise Refused(f"AUTORESEARCH_SPLIT is {split}; it is val or holdout.")
    manifest, folder = meta("eval"), data_root() / "eval"
    for name in (f"{split}.tokens.npy", f"{split}.starts.npy", "token_bytes.npy"):
        if sha256(folder / name) != manifest["files"][name]["sha256"]:
            raise Refused(
                f"{folder / name} is not what was prepared: run `python prepare.py` again."
            )
    threads = os.environ.get("OMP_NUM_THREADS")
    torch.set_num_threads(int(threads) if threads else os.cpu_count() or 1)
    device = (
        "cuda"
        if torch.cuda.is_available()
        else "mps"
        if torch.backends.mps.is_available()
        else "cpu"
    )
    program = Program(path, device, manifest["profile"]["model_bytes"])
    return score(program, split, part, device, manifest["profile"]["probes"][split])


def default_profile() -> str:
    try:
        import torch
    except ImportError:
        return "cpu"
    return (
        "cuda"
        if torch.cuda.is_available()
        else "mps"
        if torch.backends.mps.is_available()
        else "cpu"
    )


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
        print(
            f"{'Prepared' if fresh else 'Already prepared'}: {told['source']}, profile {told['profile']['name']}, {data_root()}"
        )
        print("Tokens " + ", ".join(f"{side} {told['tokens'][side]:,}" for side in ("train", "val", "holdout"))
              + f"; hold-out in {HOLDOUT_SLICES} slices; contents {told['contents'][:12]}")  # fmt: skip
    except Refused as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
