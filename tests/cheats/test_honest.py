"""The honest path: varied edits of the architecture train in a window of a second and are scored without special help."""

from __future__ import annotations

import math

import numpy as np
import pytest
import trio

import prepare
from autoresearch_action.isolation.sandbox import choose
from autoresearch_action.records import Measurement
from autoresearch_action.trials.slot import SlotContext

BLOCK = """        x = x + self.attention(norm(x), extra, cos, sin, band)
        return x + self.down(F.relu(self.up(norm(x))).square())
"""
UP = "        self.up, self.down = Linear(width, MLP_RATIO * width), Linear(MLP_RATIO * width, width)\n"
KEYS = "        self.key, self.value = Linear(width, width), Linear(width, width)\n"
HEADS = "        q, k, v = (layer(x).view(rows, length, self.heads, -1) for layer in layers)\n"
ADAM = '        {"params": [model.x0_lambdas], "lr": SCALAR_LR, "betas": (0.96, 0.95)},\n'
REST = (
    ADAM
    + '        {"params": [p for p in model.blocks.parameters() if p.ndim != 2], "lr": 0.01},\n'
)
ATTEND = "                y = F.scaled_dot_product_attention(q, k, v, is_causal=True)\n"

EDITS: dict[str, list[tuple[str, str]]] = {
    "attention written out, with a linear bias in place of a mask (ALiBi)": [
        (
            ATTEND,
            """\
                ago = torch.arange(length)[:, None] - torch.arange(length)[None, :]
                slope = torch.arange(1, self.heads + 1).view(-1, 1, 1) / self.heads
                bias = (-slope * ago).masked_fill(ago < 0, -math.inf)
                y = (q @ k.mT * q.size(-1) ** -0.5 + bias).softmax(-1) @ v
""",
        ),
    ],
    "multi-query attention": [
        (
            KEYS,
            """\
        self.key, self.value = Linear(width, width // heads), Linear(width, width // heads)
""",
        ),
        (
            HEADS,
            """\
        q = self.query(x).view(rows, length, self.heads, -1)
        k, v = (layer(x).view(rows, length, 1, -1).expand(-1, -1, self.heads, -1) for layer in (self.key, self.value))
""",
        ),
    ],
    "linear attention with a decay, as sums": [
        (
            ATTEND,
            """\
                q, k = F.elu(q) + 1, F.elu(k) + 1
                state = (k.unsqueeze(-1) * v.unsqueeze(-2)).cumsum(2)
                y = (q.unsqueeze(-2) @ state).squeeze(-2) / (q * k.cumsum(2)).sum(-1, keepdim=True)
""",
        ),
    ],
    "a mixture of four experts, the best two of each token": [
        (
            UP,
            UP
            + """\
        self.router = Linear(width, 4)
        self.experts = nn.ModuleList(nn.Sequential(Linear(width, width), nn.ReLU(), Linear(width, width)) for _ in range(4))
""",
        ),
        (
            BLOCK,
            """\
        x = x + self.attention(norm(x), extra, cos, sin, band)
        h = norm(x)
        weight, chosen = self.router(h).softmax(-1).topk(2, -1)
        gates = torch.zeros_like(h[..., :4]).scatter(-1, chosen, weight)
        mixed = sum(gates[..., i : i + 1] * expert(h) for i, expert in enumerate(self.experts))
        return x + mixed + self.down(F.relu(self.up(h)).square())
""",
        ),
    ],
    "embedding and head tied": [
        (
            "        logits = self.head(norm(x)).float()\n",
            "        logits = F.linear(norm(x), self.embedding.weight).float()\n",
        ),
        ("        self.head = Linear(WIDTH, vocabulary)\n", ""),
        (
            """\
        self.embedding.weight.normal_(0, 1, generator=generator)
        self.head.weight.normal_(0, 0.001, generator=generator)
""",
            "        self.embedding.weight.normal_(0, 0.02, generator=generator)\n",
        ),
        ('        {"params": [model.head.weight], "lr": UNEMBEDDING_LR * scale},\n', ""),
        ("EMBEDDING_LR * scale", "0.05 * scale"),
        ("+ self.head.weight.numel()", "+ self.embedding.weight.numel()"),
    ],
    "layer norm with learnt gains and biases": [
        (
            "        self.attention = Attention(",
            """\
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attention = Attention(""",
        ),
        (
            BLOCK,
            BLOCK.replace("norm(x)", "self.norms[0](x)", 1).replace(
                "norm(x)", "self.norms[1](x)", 1
            ),
        ),
        (ADAM, REST),
        (
            '            elif name.startswith(("blocks"',
            '            elif "norms" not in name and name.startswith(("blocks"',
        ),
    ],
    "four times the tokens per step, a longer warm-down, clipping": [
        ("TOKENS_PER_STEP = 512", "TOKENS_PER_STEP = 2048"),
        ("WARMDOWN_RATIO = 0.5", "WARMDOWN_RATIO = 0.8"),
        ("GRADIENT_CLIP = 0.0", "GRADIENT_CLIP = 1.0"),
    ],
    "a recurrence: a gated unit, step by step, after attention": [
        (UP, UP + "        self.gates, self.feed = Linear(width, width), Linear(width, width)\n"),
        (
            BLOCK,
            """\
        x = x + self.attention(norm(x), extra, cos, sin, band)
        h = norm(x)
        keep, new = torch.sigmoid(self.gates(h)), torch.tanh(self.feed(h))
        state, states = torch.zeros_like(h[:, 0]), []
        for t in range(h.size(1)):
            state = keep[:, t] * state + (1 - keep[:, t]) * new[:, t]
            states.append(state)
        return x + torch.stack(states, 1) + self.down(F.relu(self.up(h)).square())
""",
        ),
    ],
    "PyTorch's own GRU before the blocks": [
        (
            "        self.residual_lambdas =",
            """\
        self.gru = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.residual_lambdas =""",
        ),
        (
            """\
        x = x0 = norm(self.embedding(idx).to(DTYPE))
""",
            """\
        x = norm(self.embedding(idx).to(DTYPE))
        x = x0 = norm(x + self.gru(x)[0])
""",
        ),
        (ADAM, ADAM + '        {"params": list(model.gru.parameters()), "lr": 0.01},\n'),
    ],
    "a causal convolution over four tokens, and a shift": [
        (UP, UP + "        self.convolution = nn.Conv1d(width, width, 4, groups=width)\n"),
        (
            BLOCK,
            """\
        h = self.convolution(F.pad(norm(x).mT, (3, 0))).mT
        x = x + self.attention(h, extra, cos, sin, band)
        h = norm(x)
        h = torch.cat([h[..., : h.size(-1) // 2], F.pad(h, (0, 0, 1, 0))[:, :-1, h.size(-1) // 2 :]], -1)
        return x + self.down(F.relu(self.up(h)).square())
""",
        ),
        (ADAM, REST),
    ],
    "SwiGLU": [
        (UP, UP + "        self.side = Linear(width, MLP_RATIO * width)\n"),
        (
            BLOCK,
            BLOCK.replace(
                "F.relu(self.up(norm(x))).square()", "F.silu(self.up(norm(x))) * self.side(norm(x))"
            ),
        ),
    ],
    "no value embeddings, narrow windows in every layer but the last, three layers": [
        ("VALUE_EMBEDDINGS = True", "VALUE_EMBEDDINGS = False"),
        ("SHORT_WINDOW = 0.5", "SHORT_WINDOW = 0.2"),
        ("DEPTH = 2", "DEPTH = 3"),
        ('WINDOW_PATTERN = "SSSL"', 'WINDOW_PATTERN = "S"'),
    ],
    "attention and feed-forward side by side": [
        (
            BLOCK,
            """\
        h = norm(x)
        return x + self.attention(h, extra, cos, sin, band) + self.down(F.gelu(self.up(h)))
""",
        ),
    ],
    "a bigram table and an average of the last weights": [
        (
            "        self.residual_lambdas =",
            """\
        self.bigrams = nn.Embedding(1024, WIDTH)
        self.residual_lambdas =""",
        ),
        (
            "        x = x0 = norm(self.embedding(idx).to(DTYPE))\n",
            """\
        pair = (idx * 31 + F.pad(idx, (1, 0))[:, :-1]) % 1024
        x = x0 = norm((self.embedding(idx) + self.bigrams(pair)).to(DTYPE))
""",
        ),
        (ADAM, ADAM + '        {"params": list(model.bigrams.parameters()), "lr": 0.1},\n'),
        (
            """\
        clear()
        value = loss.item()
""",
            """\
        clear()
        if progress > 0.8:
            average = average or {}
            for name, p in model.state_dict().items():
                average[name] = p.clone() if name not in average else average[name].lerp_(p, 0.2)
        value = loss.item()
""",
        ),
        (
            "    step, told, smooth,",
            """\
    average: dict[str, Tensor] = {}
    step, told, smooth,""",
        ),
        (
            "    prepare.submit(model)\n",
            """\
    model.load_state_dict(average)
    prepare.submit(model)
""",
        ),
    ],
}
ALWAYS = "a mixture"


@pytest.fixture(scope="module")
def guessing(at: SlotContext) -> float:
    """Bits per byte where every token is as likely as any other."""
    _, targets, _ = prepare.windows("val")
    sizes = np.load(prepare.data_root() / "eval" / "token_bytes.npy")[targets]
    return math.log2(trio.SMALL.vocabulary) * float((sizes > 0).sum() / sizes.sum())


@pytest.mark.parametrize(
    "what",
    [
        pytest.param(name, marks=[] if name.startswith(ALWAYS) else [pytest.mark.battery])
        for name in EDITS
    ],
)
def test_an_honest_edit_trains_and_is_scored(at: SlotContext, guessing: float, what: str) -> None:
    measured = trio.measure(at, trio.edited(*EDITS[what]), budget=1.0)
    assert measured.outcome == "ok" and measured.value is not None, measured.reason + measured.tail
    assert 1.0 < measured.value < guessing - 1.0
    assert measured.metrics["num_steps"] > 5


def test_the_score_inside_the_sandbox_is_that_outside(
    at: SlotContext, honest: Measurement, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(at, "isolation", choose("none"))
    outside = trio.measure(at, trio.train())
    assert outside.sandbox == "none" and honest.sandbox == "full"
    assert outside.value == pytest.approx(honest.value, abs=1e-6)  # one step: no noise at all
