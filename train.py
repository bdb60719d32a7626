"""Train a small GPT for a fixed time and hand it in. This is the file to edit; prepare.py is
frozen.

    python train.py        writes model.pt2; `python prepare.py evaluate` scores it

One device: a CUDA card, Apple's GPU, or processor cores. The window is AUTORESEARCH_TIME_BUDGET
seconds: wall time on a GPU, the process's CPU time divided by its threads on a CPU, so that a busy
machine makes no shorter run. Start-up, compilation and the hand-in do not count. AUTORESEARCH_SEED
seeds data order and initialisation apart, and AUTORESEARCH_CHECKPOINT names a file whose weights
are taken over where name and shape match.
"""

from __future__ import annotations

import bisect
import gc
import itertools
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

START = time.perf_counter()
# Threads that spin for one another collapse on a shared machine
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import prepare  # noqa: E402

CUDA = torch.cuda.is_available()
MPS = not CUDA and torch.backends.mps.is_available()
CPU = not CUDA and not MPS

# --------------------------------------------------------------------------------------------------
# Knobs. Plain literals, meant to be edited. Where there are two values, the second is for processor
# cores and Apple's GPU.

# The model
DEPTH = 8 if CUDA else 2
WIDTH = 512 if CUDA else 128
# At least; the heads share WIDTH evenly
HEAD_DIM = 128 if CUDA else 64
MLP_RATIO = 4
# Per layer, repeated: S sees SHORT_WINDOW of the sequence, L all of it; the last is always L
WINDOW_PATTERN = "SSSL"
SHORT_WINDOW = 0.5
ROPE_BASE = 10000.0
# Logits stay within ±SOFTCAP
SOFTCAP = 15.0
# On every other layer, gated per head
VALUE_EMBEDDINGS = True
# Channels that the gate looks at
VALUE_GATE_WIDTH = 32
# How much of the embedding each layer starts by adding back
X0_LAMBDA = 0.1

# The optimisers: Muon for matrices, AdamW for the rest. Rates but MATRIX_LR and SCALAR_LR scale
# with (WIDTH/768)^-1/2.
TOKENS_PER_STEP = 2**18 if CUDA else 2**11
# Windows per forward pass at most; less on a card of less than 64 GB
DEVICE_ROWS = 128 if CUDA else 16
MATRIX_LR = 0.04
EMBEDDING_LR = 0.6
UNEMBEDDING_LR = 0.004
SCALAR_LR = 0.5
# Cautious, and falling to nothing over the run
MATRIX_WEIGHT_DECAY = 0.2
ADAM_BETA1 = 0.8
ADAM_BETA2 = 0.95
# Of Muon, from 0.85 on over the first MOMENTUM_STEPS
MOMENTUM = 0.95
MOMENTUM_STEPS = 300
NORMUON_BETA2 = 0.95
POLAR_STEPS = 5
# Largest norm; 0: none
GRADIENT_CLIP = 0.0

# The schedule, over the share of the time that is gone
WARMUP_RATIO = 0.0
WARMDOWN_RATIO = 0.5
FINAL_LR_RATIO = 0.0

# Of progress
LOG_LINES = 40

# --------------------------------------------------------------------------------------------------
# Device


def bf16_pays() -> bool:
    """On CUDA from Ampere on; on a CPU only where it has bf16 matrix units."""
    if CUDA:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return CPU and torch.cpu._is_amx_tile_supported()


def flash_attention_3() -> Callable[..., Any] | None:
    """FlashAttention 3 where it is installed and the card is a Hopper; else
    scaled_dot_product_attention is used.
    """
    if not CUDA or torch.cuda.get_device_capability() != (9, 0):
        return None
    try:
        from flash_attn_interface import flash_attn_func  # type: ignore[import-not-found]
    except ImportError:
        return None
    return flash_attn_func


DEVICE = torch.device("cuda" if CUDA else "mps" if MPS else "cpu")
DTYPE = torch.bfloat16 if bf16_pays() else torch.float32
FA3 = flash_attention_3()
THREADS = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


def clock() -> float:
    """Seconds of the budget: wall on a GPU, the whole process's CPU time per thread on a CPU."""
    if CPU:
        return time.process_time() / THREADS
    synchronize()
    return time.perf_counter()


def synchronize() -> None:
    if CUDA:
        torch.cuda.synchronize()
    elif MPS:
        torch.mps.synchronize()


# --------------------------------------------------------------------------------------------------
# Model


def norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.size(-1),))


class Linear(nn.Linear):
    """No bias; weights are kept in float32 and used in the type of the input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021) of [B, T, H, D]."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos + b * sin, b * cos - a * sin], -1)


class Attention(nn.Module):
    """Causal attention with QK-norm, a sliding window, and a gated value embedding where the layer
    has one.
    """

    def __init__(self, width: int, heads: int, window: int, length: int, gated: bool) -> None:
        super().__init__()
        self.heads, self.window, self.full = heads, window, window >= length
        self.query = Linear(width, width)
        self.key, self.value = Linear(width, width), Linear(width, width)
        self.output = Linear(width, width)
        self.gate = Linear(min(VALUE_GATE_WIDTH, width), self.heads) if gated else None

    def forward(
        self, x: Tensor, extra: Tensor | None, cos: Tensor, sin: Tensor, band: Tensor
    ) -> Tensor:
        rows, length, width = x.shape
        layers = (self.query, self.key, self.value)
        q, k, v = (layer(x).view(rows, length, self.heads, -1) for layer in layers)
        if self.gate is not None and extra is not None:
            gate = 2 * torch.sigmoid(self.gate(x[..., : self.gate.in_features]))
            v = v + gate.unsqueeze(-1) * extra.view(rows, length, self.heads, -1)
        q, k = norm(rotate(q, cos, sin)), norm(rotate(k, cos, sin))
        if FA3 is not None and q.is_cuda:
            window = (-1, -1) if self.full else (self.window - 1, 0)
            y = FA3(q, k, v, causal=True, window_size=window)
            y = y[0] if isinstance(y, tuple) else y
        else:
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
            if self.full:
                y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            else:
                y = F.scaled_dot_product_attention(q, k, v, attn_mask=band[:length, :length])
            y = y.transpose(1, 2)
        return self.output(y.reshape(rows, length, width))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, window: int, length: int, gated: bool) -> None:
        super().__init__()
        self.attention = Attention(width, heads, window, length, gated)
        self.up, self.down = Linear(width, MLP_RATIO * width), Linear(MLP_RATIO * width, width)

    def forward(
        self, x: Tensor, extra: Tensor | None, cos: Tensor, sin: Tensor, band: Tensor
    ) -> Tensor:
        x = x + self.attention(norm(x), extra, cos, sin, band)
        return x + self.down(F.relu(self.up(norm(x))).square())


class GPT(nn.Module):
    """idx int64 [B, T] -> logits float32 [B, T, V]."""

    cos: Tensor
    sin: Tensor
    band: Tensor

    def __init__(self, vocabulary: int, length: int, generator: torch.Generator) -> None:
        super().__init__()
        heads = next(
            (n for n in range(max(1, WIDTH // HEAD_DIM), 0, -1) if WIDTH % (2 * n) == 0), 0
        )
        if not heads or DEPTH < 1:
            raise ValueError(
                f"there is no model of depth {DEPTH} and width {WIDTH}:"
                " it takes a layer and an even width"
            )
        short = max(1, int(SHORT_WINDOW * length))
        if CUDA and FA3 is None:
            # A masked window loses the fused kernel and costs more than it saves
            short = length
        kinds = [WINDOW_PATTERN[i % len(WINDOW_PATTERN)] for i in range(DEPTH - 1)] + ["L"]
        gated = [VALUE_EMBEDDINGS and (DEPTH - 1 - i) % 2 == 0 for i in range(DEPTH)]
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        self.value_embeddings = nn.ModuleDict(
            {str(i): nn.Embedding(vocabulary, WIDTH) for i in range(DEPTH) if gated[i]}
        )
        self.blocks = nn.ModuleList(
            Block(WIDTH, heads, short if kind == "S" else length, length, has)
            for kind, has in zip(kinds, gated, strict=True)
        )
        self.head = Linear(WIDTH, vocabulary)
        self.residual_lambdas = nn.Parameter(torch.ones(DEPTH))
        self.x0_lambdas = nn.Parameter(torch.full((DEPTH,), X0_LAMBDA))
        size = WIDTH // heads
        angles = torch.outer(torch.arange(length), ROPE_BASE ** -(torch.arange(0, size, 2) / size))
        self.register_buffer("cos", angles.cos()[None, :, None, :].to(DTYPE), persistent=False)
        self.register_buffer("sin", angles.sin()[None, :, None, :].to(DTYPE), persistent=False)
        ago = torch.arange(length)[:, None] - torch.arange(length)[None, :]
        self.register_buffer("band", (ago >= 0) & (ago < short), persistent=False)
        self.initialise(generator)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Uniform with standard deviation WIDTH^-1/2; what writes into the residual stream and the
        gates start at zero.
        """
        bound = (3 / WIDTH) ** 0.5
        self.embedding.weight.normal_(0, 1, generator=generator)
        self.head.weight.normal_(0, 0.001, generator=generator)
        for name, weight in self.named_parameters():
            if name.endswith(("output.weight", "down.weight", "gate.weight")):
                weight.zero_()
            elif name.startswith(("blocks", "value_embeddings")):
                weight.uniform_(-bound, bound, generator=generator)

    def forward(self, idx: Tensor) -> Tensor:
        length = idx.size(1)
        cos, sin = self.cos[:, :length], self.sin[:, :length]
        x = x0 = norm(self.embedding(idx).to(DTYPE))
        for i, block in enumerate(self.blocks):
            x = self.residual_lambdas[i].to(DTYPE) * x + self.x0_lambdas[i].to(DTYPE) * x0
            extra = (
                self.value_embeddings[str(i)](idx).to(DTYPE)
                if str(i) in self.value_embeddings
                else None
            )
            x = block(x, extra, cos, sin, self.band)
        logits = self.head(norm(x)).float()
        return SOFTCAP * torch.tanh(logits / SOFTCAP)

    def flops_per_token(self, length: int) -> float:
        """Of forward and backward: 6 per weight that is multiplied, and attention's own."""
        weights = sum(p.numel() for p in self.blocks.parameters()) + self.head.weight.numel()
        reach = sum(block.attention.window for block in self.blocks)  # type: ignore[union-attr, misc]
        return 6 * weights + 12 * WIDTH * reach


# --------------------------------------------------------------------------------------------------
# Optimisers

# Polar Express (Amsel et al. 2025): the best odd quintic of each of the first five iterations
# towards U Vᵀ.
POLAR = (
    8.156554524902461, -22.48329292557795, 15.878769915207462,
    4.042929935166739, -2.808917465908714, 0.5000178451051316,
    3.8916678022926607, -2.772484153217685, 0.5060648178503393,
    3.285753657755655, -2.3681294933425376, 0.46449024233003106,
    2.3465413258596377, -1.7097828382687081, 0.42323551169305323,
)  # fmt: skip


def orthogonalised(g: Tensor) -> Tensor:
    """[N, rows, columns] with every singular value brought near 1."""
    x = g.to(torch.bfloat16) if CUDA else g
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-6)
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    for a, b, c in list(zip(POLAR[0::3], POLAR[1::3], POLAR[2::3], strict=True))[:POLAR_STEPS]:
        s = x @ x.mT
        x = a * x + (b * s + c * (s @ s)) @ x
    return (x.mT if tall else x).to(g.dtype)


def muon_update(
    p: Tensor,
    g: Tensor,
    m: Tensor,
    v: Tensor,
    lr: Tensor,
    momentum: Tensor,
    decay: Tensor,
    beta2: float,
) -> None:
    """One step of matrices of one shape, stacked: Nesterov momentum, Polar Express, NorMuon,
    cautious weight decay.
    """
    m.mul_(momentum).add_(g * (1 - momentum))
    update = orthogonalised(g + momentum * (m - g))
    # NorMuon (Li et al. 2025): each row, or column if those are fewer, is divided by its running
    # size; the whole keeps its norm.
    axis = -1 if p.size(-2) >= p.size(-1) else -2
    size = update.square().mean(axis, keepdim=True)
    v.lerp_(size, 1 - beta2)
    scaled = update * v.clamp_min(1e-10).rsqrt()
    update = scaled * (
        update.norm(dim=(-2, -1), keepdim=True)
        / scaled.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-10)
    )
    lr = lr * max(1.0, p.size(-2) / p.size(-1)) ** 0.5
    # Cautious: decay only where the step shrinks the weight anyway
    agree = (update * p >= 0).to(p.dtype)
    p.sub_(lr * update + lr * decay * p * agree)


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised (Jordan et al. 2024), for the matrices inside the blocks."""

    def __init__(self, params: list[nn.Parameter], lr: float, decay: float) -> None:
        groups = [
            {"params": [p for p in params if p.shape == shape]}
            for shape in dict.fromkeys(p.shape for p in params)
        ]
        super().__init__(groups, {"lr": lr, "weight_decay": decay, "momentum": MOMENTUM})
        self.update = (
            torch.compile(muon_update, dynamic=False, fullgraph=True) if CUDA else muon_update
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            params = group["params"]
            state = self.state[params[0]]
            p, g = torch.stack(params), torch.stack([p.grad for p in params])
            if not state:
                axis = -1 if p.size(-2) >= p.size(-1) else -2
                state["m"], state["v"] = (
                    torch.zeros_like(p),
                    torch.zeros_like(p.mean(axis, keepdim=True)),
                )
            # Tensors on the host: a number would be compiled in, and its every change compile anew.
            lr, momentum, decay = (
                torch.tensor(group[key], dtype=torch.float32)
                for key in ("lr", "momentum", "weight_decay")
            )
            self.update(p, g, state["m"], state["v"], lr, momentum, decay, NORMUON_BETA2)
            torch._foreach_copy_(params, list(p.unbind()))


def optimisers(model: GPT) -> list[torch.optim.Optimizer]:
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    scale = (WIDTH / 768) ** -0.5
    groups = [
        {
            "params": [model.embedding.weight, *model.value_embeddings.parameters()],
            "lr": EMBEDDING_LR * scale,
        },
        {"params": [model.head.weight], "lr": UNEMBEDDING_LR * scale},
        {"params": [model.residual_lambdas], "lr": SCALAR_LR * 0.01},
        {"params": [model.x0_lambdas], "lr": SCALAR_LR, "betas": (0.96, 0.95)},
    ]
    adam = torch.optim.AdamW(
        groups, betas=(ADAM_BETA1, ADAM_BETA2), eps=1e-10, weight_decay=0.0, fused=not MPS
    )
    both = [adam, Muon(matrices, MATRIX_LR, MATRIX_WEIGHT_DECAY)]
    for optimiser in both:
        for group in optimiser.param_groups:
            group["peak"] = group["lr"]
    return both


def lr_multiplier(progress: float) -> float:
    """Of every rate, `progress` in [0, 1] being the share of the time gone: flat, then a straight
    line down.
    """
    if progress < WARMUP_RATIO:
        return progress / WARMUP_RATIO
    if progress < 1 - WARMDOWN_RATIO:
        return 1.0
    left = (1 - progress) / WARMDOWN_RATIO
    return left + (1 - left) * FINAL_LR_RATIO


def schedule(both: list[torch.optim.Optimizer], step: int, progress: float) -> None:
    for optimiser in both:
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * lr_multiplier(progress)
            if "momentum" in group:
                group["momentum"] = 0.85 + (MOMENTUM - 0.85) * min(1.0, step / MOMENTUM_STEPS)
                group["weight_decay"] = MATRIX_WEIGHT_DECAY * (1 - progress)


# --------------------------------------------------------------------------------------------------
# Data


def batches(rows: int, length: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(inputs, targets) [rows, length] on DEVICE for ever, in an order of its own seed.

    Every row starts with BOS. Documents are cut into pieces of at most a row, each with a BOS
    before it; a row takes the largest piece of a buffer that fits, again and again, and the first
    part of the shortest when none does.
    """
    tokens, starts = prepare.train_tokens()
    # Without BOS
    begins, ends = np.asarray(starts[:-1]) + 1, np.asarray(starts[1:])
    pieces = np.maximum(1, -(-(ends - begins) // length))
    first = np.repeat(begins, pieces) + length * (
        np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    )
    sizes = np.minimum(length, np.repeat(ends, pieces) - first)
    dice = np.random.default_rng([seed, 1])

    def shuffled() -> Iterator[tuple[int, int]]:
        while True:
            for i in dice.permutation(len(first)):
                yield int(sizes[i]), int(first[i])

    queue, buffer = shuffled(), []  # type: Iterator[tuple[int, int]], list[tuple[int, int]]
    pages = [torch.empty(rows, length + 1, dtype=torch.int64, pin_memory=CUDA) for _ in range(2)]
    copied = [torch.cuda.Event() for _ in pages] if CUDA else []
    for turn in itertools.cycle(range(2)):
        if CUDA:
            # This page's last copy has left it; the other's may still wait for the card
            copied[turn].synchronize()
        for row in pages[turn].numpy():
            at = 0
            while at <= length:
                while len(buffer) < 512:
                    bisect.insort(buffer, next(queue))
                # After a BOS
                room = length - at
                fit = bisect.bisect_right(buffer, (room, sys.maxsize)) - 1
                size, start = buffer.pop(max(fit, 0))
                size = min(size, room)
                row[at] = prepare.BOS
                row[at + 1 : at + 1 + size] = tokens[start : start + size]
                at += 1 + size
        moved = pages[turn].clone() if CPU else pages[turn].to(DEVICE, non_blocking=CUDA)
        if CUDA:
            copied[turn].record()
        yield moved[:, :-1], moved[:, 1:]


# --------------------------------------------------------------------------------------------------
# The run


def continue_from(model: GPT, path: Path) -> None:
    """Take over the weights of a checkpoint (a state dict, bare or under `model`) where names and
    shapes match.
    """
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    loaded = loaded.get("model", loaded)
    own = model.state_dict()
    fitting = {
        name: weight
        for name, weight in loaded.items()
        if name in own and own[name].shape == weight.shape
    }
    model.load_state_dict(fitting, strict=False)
    print(f"Checkpoint {path.name}: {len(fitting)} of {len(own)} tensors taken over.", flush=True)


def rows_per_pass(length: int) -> tuple[int, int]:
    """(rows of a forward pass, passes per step) that make TOKENS_PER_STEP and fit the device."""
    rows = max(1, TOKENS_PER_STEP // length)
    most = DEVICE_ROWS
    if CUDA and torch.cuda.get_device_properties(0).total_memory < 64 << 30:
        most = max(1, most // 4)
    passes = -(-rows // most)
    return -(-rows // passes), passes


def peak_flops() -> float | None:
    """Dense bf16 operations per second of the card, as its maker states."""
    name = torch.cuda.get_device_name() if CUDA else ""
    known = {
        "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "H200": 989e12, "B200": 2250e12,
        "A100": 312e12, "L40S": 362e12, "L40": 181e12, "L4": 121e12, "A10G": 70e12, "A6000": 155e12,
        "5090": 210e12, "4090": 165e12, "3090": 71e12,
    }  # fmt: skip
    # The longer names come first
    return next((flops for part, flops in known.items() if part in name), None)


def main() -> int:
    torch.set_num_threads(THREADS)
    torch.set_float32_matmul_precision("high")
    seed = int(os.environ.get("AUTORESEARCH_SEED") or 1337)
    facts, budget = prepare.meta(), prepare.time_budget()
    length, vocabulary = facts["profile"]["sequence"], facts["profile"]["vocabulary"]
    rows, passes = rows_per_pass(length)

    model = GPT(vocabulary, length, torch.Generator().manual_seed(seed))
    if checkpoint := os.environ.get("AUTORESEARCH_CHECKPOINT"):
        continue_from(model, Path(checkpoint))
    model.to(DEVICE)
    both = optimisers(model)
    data = batches(rows, length, seed)
    params = sum(p.numel() for p in model.parameters())
    print(
        f"{DEVICE.type} {str(DTYPE)[6:]}, {params / 1e6:.2f} M parameters,"
        f" {passes} x {rows} x {length} tokens per step,"
        f" {budget:g} s, seed {seed}, data {facts['contents'][:12]}",
        flush=True,
    )

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(x).flatten(0, 1), y.flatten())

    forward = torch.compile(loss_of, dynamic=False) if CUDA else loss_of

    def backward(x: Tensor, y: Tensor) -> Tensor:
        loss = forward(x, y) / passes
        loss.backward()
        return loss.detach()

    def clear() -> None:
        for optimiser in both:
            optimiser.zero_grad(set_to_none=True)

    # An untimed pass first: kernels compile and memory is laid out; with a rate of 0 it leaves no
    # trace.
    x, y = next(data)
    for _ in range(2 if CUDA else 1):
        backward(x, y)
        for optimiser in both:
            for group in optimiser.param_groups:
                group["lr"] = 0.0
            optimiser.step()
        clear()
    for optimiser in both:
        optimiser.state.clear()
    gc.collect()
    # What compilation left is not gone through again: that would halt the card for half a second
    gc.freeze()

    # Guessing, and e³ times worse
    step, told, smooth, limit = 0, 0, 0.0, math.log(vocabulary) + 3
    begun, wall = clock(), time.perf_counter()
    progress = 0.0
    while progress < 1:
        schedule(both, step, progress)
        loss = torch.zeros((), device=DEVICE)
        for _ in range(passes):
            loss += backward(x, y)
            # Packed while the card computes
            x, y = next(data)
        if GRADIENT_CLIP:
            nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_CLIP)
        for optimiser in both:
            optimiser.step()
        clear()
        value = loss.item()
        if not value <= limit:
            print(f"FAIL: loss {value:.4g} at step {step}", flush=True)
            return 1
        step += 1
        smooth = 0.9 * smooth + 0.1 * value
        elapsed = clock() - begun
        progress = elapsed / budget
        if step == 1 or int(progress * LOG_LINES) > told or progress >= 1:
            told = int(progress * LOG_LINES)
            speed = step * passes * rows * length / elapsed
            print(
                f"step {step:05d} ({100 * min(progress, 1):.1f}%)"
                f" | loss: {smooth / (1 - 0.9**step):.6f}"
                f" | lrm: {lr_multiplier(min(progress, 1)):.2f}"
                f" | tok/s: {speed:,.0f} | left: {max(0.0, budget - elapsed):.0f} s",
                flush=True,
            )
    seconds, wall = clock() - begun, time.perf_counter() - wall

    tokens, peak = step * passes * rows * length, peak_flops()
    used = model.flops_per_token(length) * tokens / wall
    prepare.submit(model)
    print("---")
    print(f"training_seconds: {seconds:.1f}")
    print(f"total_seconds:    {time.perf_counter() - START:.1f}")
    print(f"peak_vram_mb:     {torch.cuda.max_memory_allocated() / 2**20 if CUDA else 0.0:.1f}")
    print(f"mfu_percent:      {100 * used / peak if peak else 0.0:.2f}")
    print(f"total_tokens_M:   {tokens / 1e6:.3f}")
    print(f"num_steps:        {step}")
    print(f"num_params_M:     {params / 1e6:.3f}")
    print(f"depth:            {DEPTH}", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (prepare.Refused, ValueError) as problem:
        sys.exit(f"{problem}")
