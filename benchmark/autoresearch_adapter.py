"""What autoresearch's train.py imports, over our prepared data. train_gpu.py puts it beside that
script, as prepare.py.

`scorer` is our own prepare.py under another name. Training sees the same documents in the same
tokens, packed by autoresearch's rule (BOS before each, the largest of 1,000 that fits the row, else
the shortest one cropped), in an order of AUTORESEARCH_SEED. `evaluate_bpb` is our scorer's: the
same windows, the same bytes. Where the package `kernels` cannot be had, `get_kernel` stands in for
it, with $AUTORESEARCH_ATTENTION behind it; `python prepare.py` tries that one.
"""

from __future__ import annotations

import bisect
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scorer
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
MAX_SEQ_LEN: int = scorer.meta()["profile"]["sequence"]
TIME_BUDGET = scorer.time_budget()
ATTENTION = os.environ.get("AUTORESEARCH_ATTENTION", "sdpa")


class Tokenizer:
    """As much of one as a training script needs: the text is tokens already."""

    @classmethod
    def from_directory(cls) -> Tokenizer:
        return cls()

    def get_vocab_size(self) -> int:
        return scorer.meta()["profile"]["vocabulary"]


def make_dataloader(
    tokenizer: Tokenizer, B: int, T: int, split: str, buffer_size: int = 1000
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """(inputs, targets) [B, T] on the device and the epoch, for ever."""
    assert split == "train", "validation is evaluate_bpb's"
    tokens, starts = scorer.train_tokens()
    sizes, dice = (
        np.diff(starts),
        np.random.default_rng([int(os.environ.get("AUTORESEARCH_SEED") or 1), 1]),
    )
    queue = (
        (epoch, int(sizes[i]), int(starts[i]))
        for epoch in itertools.count(1)
        for i in dice.permutation(len(sizes))
    )
    epoch, row, buffer = 1, np.empty(T + 1, np.int64), []  # type: int, np.ndarray, list[tuple[int, int]]
    pages = [torch.empty(2, B, T, dtype=torch.int64, pin_memory=CUDA) for _ in range(2)]
    copied = [torch.cuda.Event() for _ in pages] if CUDA else []
    for turn in itertools.cycle(range(2)):
        if CUDA:
            # This page's last copy has left it
            copied[turn].synchronize()
        inputs, targets = pages[turn].numpy()
        for number in range(B):
            at = 0
            while at <= T:
                while len(buffer) < buffer_size:
                    epoch, size, start = next(queue)
                    bisect.insort(buffer, (size, start))
                fit = bisect.bisect_right(buffer, (T + 1 - at, sys.maxsize)) - 1
                size, start = buffer.pop(max(fit, 0))
                size = min(size, T + 1 - at)
                row[at : at + size] = tokens[start : start + size]
                at += size
            inputs[number], targets[number] = row[:-1], row[1:]
        moved = pages[turn].to(DEVICE, non_blocking=True) if CUDA else pages[turn].clone()
        if CUDA:
            copied[turn].record()
        yield moved[0], moved[1], epoch


def evaluate_bpb(model: Callable[[Tensor], Tensor], tokenizer: Tokenizer, batch_size: int) -> float:
    """Our val_bpb of `model` (ids -> logits), in this process: no archive between, no probes."""
    return scorer.score(model, "val", 0, DEVICE, 0)[0]


def block_mask(left: int) -> Any:
    return create_block_mask(
        lambda b, h, i, j: (i >= j) & (i - j <= left), None, None, MAX_SEQ_LEN, MAX_SEQ_LEN, DEVICE
    )


MASKS = (
    {MAX_SEQ_LEN // part: block_mask(MAX_SEQ_LEN // part) for part in (2, 4, 8)}
    if ATTENTION == "flex"
    else {}
)


def flash_attn_func(
    q: Tensor, k: Tensor, v: Tensor, causal: bool = True, window_size: tuple[int, int] = (-1, -1)
) -> Tensor:
    """FlashAttention 3's call of [B, T, H, D] through what torch has; position i sees i -
    window_size[0] to i.
    """
    length, left = q.size(1), window_size[0]
    q, k, v = q.to(v.dtype).transpose(1, 2), k.to(v.dtype).transpose(1, 2), v.transpose(1, 2)
    if left < 0 or left >= length - 1:
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    elif left in MASKS and length == MAX_SEQ_LEN:
        y = flex_attention(q, k, v, block_mask=MASKS[left])
    else:
        ago = (
            torch.arange(length, device=q.device)[:, None]
            - torch.arange(length, device=q.device)[None, :]
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=(ago >= 0) & (ago <= left))
    return y.transpose(1, 2)


if ATTENTION == "flash_attn_interface":
    from flash_attn_interface import flash_attn_func
flash_attn_interface = sys.modules[__name__]


def get_kernel(name: str) -> Any:
    return flash_attn_interface


# Exit 0: ATTENTION works here, compiled, forward and backward
if __name__ == "__main__":
    if ATTENTION == "kernels":
        from kernels import get_kernel

        name = (
            "varunneal/flash-attention-3"
            if torch.cuda.get_device_capability() == (9, 0)
            else "kernels-community/flash-attn3"
        )
        flash_attn_func = get_kernel(name).flash_attn_interface.flash_attn_func
    q, k, v = (
        torch.randn(2, MAX_SEQ_LEN, 4, 128, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
        for _ in range(3)
    )
    call = torch.compile(flash_attn_func, dynamic=False) if CUDA else flash_attn_func
    call(q, k, v, causal=True, window_size=(MAX_SEQ_LEN // 2, 0)).sum().backward()
    if CUDA:
        torch.cuda.synchronize()
