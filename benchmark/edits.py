"""Edits of train.py as a language model proposes them, for the recorded curves: a name, what it
does to the source, its kind.

Written by one, asked once for what it would try on this file, before any of them was measured; none
was taken out afterwards. Many are ablations of what the file has, many are what is known from speed
runs and papers, some go together. `comparable` is what the prompt asks for: false where the edit
changes the loss, the context, the tokenizer or the schedule (here also where it adds dropout).
Numbers turn by a factor (`*2`) or to a value (`=0.9`), so that they fit every incumbent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Edit:
    name: str
    kind: str
    # Literal → factor or value
    turns: Mapping[str, str] = field(default_factory=dict)
    # Source text → other text
    swaps: tuple[tuple[str, str], ...] = ()
    comparable: bool = True


def _turned(kind: str, *lines: str, comparable: bool = True) -> list[Edit]:
    return [
        Edit(line, kind, dict(part.split(" ") for part in line.split(", ")), comparable=comparable)
        for line in lines
    ]  # type: ignore[misc]


MLP = "x + self.down(F.relu(self.up(norm(x))).square())"
ATTEND = "x = x + self.attention(norm(x), extra, cos, sin, band)"
LAYERS = "self.up, self.down = Linear(width, MLP_RATIO * width), Linear(MLP_RATIO * width, width)"
QK = "q, k = norm(rotate(q, cos, sin)), norm(rotate(k, cos, sin))"
X0 = "x = self.residual_lambdas[i].to(DTYPE) * x + self.x0_lambdas[i].to(DTYPE) * x0"
EMBED = "x = x0 = norm(self.embedding(idx).to(DTYPE))"
LOGITS = "logits = self.head(norm(x)).float()"
CAP = "return SOFTCAP * torch.tanh(logits / SOFTCAP)"
OUT = "return self.output(y.reshape(rows, length, width))"
HEAD = "self.head = Linear(WIDTH, vocabulary)\n"
TABLES = '"params": [model.embedding.weight, *model.value_embeddings.parameters()]'
HEADS = '{"params": [model.head.weight], "lr"'
LOSS = "return F.cross_entropy(model(x).flatten(0, 1), y.flatten())"
DOWN = "return left + (1 - left) * FINAL_LR_RATIO"
BOTH = "both = [adam, Muon(matrices, MATRIX_LR, MATRIX_WEIGHT_DECAY)]"
SHIFT = "F.pad({0}, (0, 0, 1, 0))[:, :-1]"


def _glu(function: str) -> tuple[tuple[str, str], ...]:
    wide = "MLP_RATIO * width * 2 // 3"
    layers = f"self.up, self.down = Linear(width, 2 * ({wide})), Linear({wide}, width)"
    return (LAYERS, layers), (
        MLP,
        f"x + self.down(torch.mul(*(lambda a, b: ({function}(a), b))(*self.up(norm(x)).chunk(2,"
        " -1))))",
    )


def _adam(rate: float) -> tuple[tuple[str, str], ...]:
    return ((BOTH, f'both = [torch.optim.AdamW([*groups, {{"params": matrices, "lr": {rate}}}], betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0)]'),)  # fmt: skip


def _mlp(inner: str) -> tuple[tuple[str, str], ...]:
    return ((MLP, f"x + self.down({inner})"),)


_STRUCTURE: Mapping[str, tuple[tuple[str, str], ...]] = {
    "GELU for relu²": _mlp("F.gelu(self.up(norm(x)))"),
    "SiLU for relu²": _mlp("F.silu(self.up(norm(x)))"),
    "relu, not squared": _mlp("F.relu(self.up(norm(x)))"),
    "leaky relu²": _mlp("F.leaky_relu(self.up(norm(x)), 0.2).square()"),
    "SwiGLU at equal size": _glu("F.silu"),
    "gated relu² at equal size": _glu("(lambda a: F.relu(a).square())"),
    "no QK norm": ((QK, "q, k = rotate(q, cos, sin), rotate(k, cos, sin)"),),
    "QK norm times 1.2": ((QK, "q, k = 1.2 * norm(rotate(q, cos, sin)), 1.2 * norm(rotate(k, cos, sin))"),),
    "sharper attention, QK norm times 1.5": ((QK, "q, k = 1.5 * norm(rotate(q, cos, sin)), 1.5 * norm(rotate(k, cos, sin))"),),
    "no RoPE": ((QK, "q, k = norm(q), norm(k)"),),
    "keys see the token before": ((QK, f"k = (k.flatten(2) + {SHIFT.format('k.flatten(2)')}).view_as(k)\n        {QK}"),),
    "values see the token before": ((QK, f"v = (v.flatten(2) + 0.5 * {SHIFT.format('v.flatten(2)')}).view_as(v)\n        {QK}"),),
    "post-norm": ((ATTEND, "x = norm(x + self.attention(x, extra, cos, sin, band))"), (MLP, "norm(x + self.down(F.relu(self.up(x)).square()))")),
    "norm after attention too": ((ATTEND, "x = x + norm(self.attention(norm(x), extra, cos, sin, band))"),),
    "attention and MLP in parallel": ((ATTEND, "h = norm(x)\n        x = x + self.attention(h, extra, cos, sin, band)"), (MLP, "x + self.down(F.relu(self.up(h)).square())")),
    "no softcap": ((CAP, "return logits"),),
    "softcap by a sigmoid": ((CAP, "return 30 * torch.sigmoid(logits / 7.5)"),),
    "tied head": ((LOGITS, "logits = F.linear(norm(x), self.embedding.weight.to(x.dtype)).float() * WIDTH**-0.5"),),
    "no x0 residual": ((X0, "x = self.residual_lambdas[i].to(DTYPE) * x"),),
    "no residual lambdas": ((X0, "x = x + self.x0_lambdas[i].to(DTYPE) * x0"),),
    "head reads the embedding too": ((LOGITS, "logits = self.head(norm(x + x0)).float()"),),
    "value embeddings on every layer": (("VALUE_EMBEDDINGS and (DEPTH - 1 - i) % 2 == 0", "VALUE_EMBEDDINGS"),),
    "value embeddings without a gate": (("length, length, has)", "length, length, False)"), ("if self.gate is not None and extra is not None:", "if extra is not None:"),
        ("gate = 2 * torch.sigmoid(self.gate(x[..., : self.gate.in_features]))", "pass"), ("gate.unsqueeze(-1) * extra", "extra")),
    "token shift after the embedding": ((EMBED, f"x = self.embedding(idx).to(DTYPE)\n        x = x0 = norm(x + 0.3 * {SHIFT.format('x')})"),),
    "token shift of half the channels before the MLP": ((MLP, f"x + self.down(F.relu(self.up(torch.cat([norm(x)[..., : x.size(-1) // 2], {SHIFT.format('norm(x)[..., x.size(-1) // 2 :]')}], -1))).square())"),),
    "bigram embedding": ((HEAD, HEAD + "        self.pairs = nn.Embedding(4096, WIDTH)\n"), (EMBED, "last = F.pad(idx, (1, 0))[:, :-1]\n        x = x0 = norm((self.embedding(idx) + self.pairs((idx * 31 + last * 1031) % 4096)).to(DTYPE))"),
        (TABLES, '"params": [model.embedding.weight, model.pairs.weight, *model.value_embeddings.parameters()]')),
    "layer norm for RMS norm": (("return F.rms_norm(x, (x.size(-1),))", "return F.layer_norm(x, (x.size(-1),))"),),
    "a learned gain before the head": ((HEAD, HEAD + "        self.gain = nn.Parameter(torch.ones(WIDTH))\n"), (LOGITS, "logits = self.head(norm(x) * self.gain.to(x.dtype)).float()"),
        (HEADS, '{"params": [model.gain], "lr": 0.01},\n        ' + HEADS)),
    "a bias on the logits": ((HEAD, HEAD + "        self.prior = nn.Parameter(torch.zeros(vocabulary))\n"), (LOGITS, "logits = self.head(norm(x)).float() + self.prior"),
        (HEADS, '{"params": [model.prior], "lr": 0.05},\n        ' + HEADS)),
    "gated attention output": ((OUT, "return self.output(y.reshape(rows, length, width) * 2 * torch.sigmoid(x))"),),
    "MLP before attention": ((ATTEND, "x = " + MLP), (MLP + "\n\n\nclass GPT", "x + self.attention(norm(x), extra, cos, sin, band)\n\n\nclass GPT")),
    "half the keys' width": (("self.query = Linear(width, width)", "self.query = Linear(width, width // 2)"), ("self.key, self.value = Linear(width, width), Linear(width, width)", "self.key, self.value = Linear(width, width // 2), Linear(width, width)"),
        ("norm(rotate(q, cos, sin)), norm(rotate(k, cos, sin))", "norm(rotate(q, cos[..., : q.size(-1) // 2], sin[..., : q.size(-1) // 2])), norm(rotate(k, cos[..., : q.size(-1) // 2], sin[..., : q.size(-1) // 2]))")),
    "values shared with keys": ((QK, f"v = v + 0.5 * k\n        {QK}"),),
    "twice through the last block": (("x = block(x, extra, cos, sin, self.band)", "x = block(x, extra, cos, sin, self.band)\n            x = block(x, extra, cos, sin, self.band) if i == DEPTH - 1 else x"),),
}  # fmt: skip
_INIT: Mapping[str, tuple[tuple[str, str], ...]] = {
    "projections start small, not at zero": (("weight.zero_()", "weight.uniform_(-0.2 * bound, 0.2 * bound, generator=generator)"),),
    "projections start as the other weights": (("weight.zero_()", "weight.uniform_(-bound, bound, generator=generator)"),),
    "weights start half as large": (("bound = (3 / WIDTH) ** 0.5", "bound = 0.5 * (3 / WIDTH) ** 0.5"),),
    "weights start twice as large": (("bound = (3 / WIDTH) ** 0.5", "bound = 2 * (3 / WIDTH) ** 0.5"),),
    "orthogonal start": (("weight.uniform_(-bound, bound, generator=generator)", "nn.init.orthogonal_(weight, generator=generator)"),),
    "normal start of 0.02": (("weight.uniform_(-bound, bound, generator=generator)", "weight.normal_(0, 0.02, generator=generator)"),),
    "embeddings start at 0.02": (("self.embedding.weight.normal_(0, 1", "self.embedding.weight.normal_(0, 0.02"),),
    "head starts at 0.02": (("self.head.weight.normal_(0, 0.001", "self.head.weight.normal_(0, 0.02"),),
    "residual lambdas start at 0.8": (("torch.ones(DEPTH)", "torch.full((DEPTH,), 0.8)"),),
}  # fmt: skip
_OPTIMISER: Mapping[str, tuple[tuple[str, str], ...]] = {
    "Adam for Muon, 0.003": _adam(0.003),
    "Adam for Muon, 0.01": _adam(0.01),
    "no NorMuon": (("    update = scaled * (", "    scaled = scaled * ("),),
    "no Nesterov": (("orthogonalised(g + momentum * (m - g))", "orthogonalised(m)"),),
    "weight decay on all, not cautious": (("agree = (update * p >= 0).to(p.dtype)", "agree = torch.ones_like(p)"),),
    "Muon's rate without regard to shape": (("lr = lr * max(1.0, p.size(-2) / p.size(-1)) ** 0.5", "lr = lr * 1.0"),),
    "constant momentum": (('group["momentum"] = 0.85 + (MOMENTUM - 0.85) * min(1.0, step / MOMENTUM_STEPS)', 'group["momentum"] = MOMENTUM'),),
    "constant weight decay": (('group["weight_decay"] = MATRIX_WEIGHT_DECAY * (1 - progress)', 'group["weight_decay"] = MATRIX_WEIGHT_DECAY'),),
    "weight decay of 0.01 in Adam": (("eps=1e-10, weight_decay=0.0, fused", "eps=1e-10, weight_decay=0.01, fused"),),
    "Adam's epsilon 1e-8": (("eps=1e-10, weight_decay=0.0, fused", "eps=1e-8, weight_decay=0.0, fused"),),
    "the head by its own betas": ((HEADS, '{"params": [model.head.weight], "betas": (0.9, 0.98), "lr"'),),
    "average of the weights at the end": (("    step, told, smooth, limit = 0,", "    average = [p.detach().clone() for p in model.parameters()]\n    step, told, smooth, limit = 0,"),
        ("        value = loss.item()\n", "        torch._foreach_lerp_(average, [p.detach() for p in model.parameters()], 0.05)\n        value = loss.item()\n"),
        ("    prepare.submit(model)", "    torch._foreach_copy_([p.detach() for p in model.parameters()], average)\n    prepare.submit(model)")),
}  # fmt: skip
_LOSS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "z-loss": (
        (
            LOSS,
            "z = model(x).flatten(0, 1)\n        return F.cross_entropy(z, y.flatten()) + 1e-4 *"
            " z.logsumexp(-1).square().mean()",
        ),
    ),
    "label smoothing": (
        (LOSS, LOSS.replace("y.flatten())", "y.flatten(), label_smoothing=0.05)")),
    ),
    "dropout of 0.1 in the MLP": _mlp(
        "F.dropout(F.relu(self.up(norm(x))).square(), 0.1, self.training)"
    ),
}
_SCHEDULE: Mapping[str, tuple[tuple[str, str], ...]] = {
    "cosine warm-down": ((DOWN, "return 0.5 - 0.5 * math.cos(math.pi * left)"),),
    "square-root warm-down": ((DOWN, "return 1 - (1 - left) ** 0.5"),),
}


def _swapped(
    kind: str, some: Mapping[str, tuple[tuple[str, str], ...]], comparable: bool = True
) -> list[Edit]:
    return [Edit(name, kind, swaps=swaps, comparable=comparable) for name, swaps in some.items()]


EDITS = [
    *_turned("rates", "MATRIX_LR *0.3", "MATRIX_LR *0.5", "MATRIX_LR *0.7", "MATRIX_LR *1.5", "MATRIX_LR *2", "MATRIX_LR *3",
             "EMBEDDING_LR *0.3", "EMBEDDING_LR *0.6", "EMBEDDING_LR *2", "UNEMBEDDING_LR *0.5", "UNEMBEDDING_LR *2", "UNEMBEDDING_LR *4",
             "SCALAR_LR *0.3", "SCALAR_LR *3", "MATRIX_LR *0.3, EMBEDDING_LR *0.3, UNEMBEDDING_LR *0.3, SCALAR_LR *0.3",
             "MATRIX_LR *0.6, EMBEDDING_LR *0.6, UNEMBEDDING_LR *0.6, SCALAR_LR *0.6",
             "MATRIX_LR *1.6, EMBEDDING_LR *1.6, UNEMBEDDING_LR *1.6, SCALAR_LR *1.6",
             "ADAM_BETA1 =0.9", "ADAM_BETA1 =0.65", "ADAM_BETA2 =0.9", "ADAM_BETA2 =0.99", "ADAM_BETA1 =0.9, ADAM_BETA2 =0.99",
             "MOMENTUM =0.9", "MOMENTUM =0.98", "MOMENTUM_STEPS =50", "MOMENTUM_STEPS =1000", "NORMUON_BETA2 =0.9", "NORMUON_BETA2 =0.99",
             "MATRIX_WEIGHT_DECAY *0", "MATRIX_WEIGHT_DECAY *0.3", "MATRIX_WEIGHT_DECAY *4", "GRADIENT_CLIP =1.0", "GRADIENT_CLIP =0.3",
             "POLAR_STEPS =3", "POLAR_STEPS =4"),
    *_turned("size", "DEPTH#2 =1", "DEPTH#2 =3", "DEPTH#2 =4", "WIDTH#2 =48", "WIDTH#2 =96", "WIDTH#2 =128", "MLP_RATIO =2", "MLP_RATIO =3",
             "MLP_RATIO =6", "MLP_RATIO =8", "HEAD_DIM#2 =32", "HEAD_DIM#2 =16", "TOKENS_PER_STEP#2 =9", "TOKENS_PER_STEP#2 =11",
             "TOKENS_PER_STEP#2 =12", "TOKENS_PER_STEP#2 =9, MATRIX_LR *0.7", "TOKENS_PER_STEP#2 =11, MATRIX_LR *1.4",
             "DEPTH#2 =3, WIDTH#2 =48", "DEPTH#2 =1, WIDTH#2 =96", "WIDTH#2 =96, MATRIX_LR *0.8"),
    *_turned("structure", "VALUE_EMBEDDINGS =False", "VALUE_GATE_WIDTH =8", "X0_LAMBDA =0.0", "X0_LAMBDA =0.3", "X0_LAMBDA =1.0", "ROPE_BASE =1000.0",
             "ROPE_BASE =100.0", "ROPE_BASE =500000.0", "SOFTCAP =30.0", "SOFTCAP =8.0", "SOFTCAP =20.0", "WINDOW_PATTERN =L", "SHORT_WINDOW =0.25"),
    *_turned("schedule", "WARMUP_RATIO =0.05", "WARMDOWN_RATIO =0.3", "WARMDOWN_RATIO =0.7", "WARMDOWN_RATIO =0.9", "FINAL_LR_RATIO =0.1",
             comparable=False),
    *_swapped("structure", _STRUCTURE),
    *_swapped("start", _INIT),
    *_swapped("optimiser", _OPTIMISER),
    *_swapped("loss", _LOSS, comparable=False),
    *_swapped("schedule", _SCHEDULE, comparable=False),
]  # fmt: skip


def swapped(source: str, edit: Edit) -> str:
    """`source` with the edit's texts replaced; each must occur once."""
    for old, new in edit.swaps:
        if source.count(old) != 1:
            raise ValueError(f"{edit.name}: {old!r} occurs {source.count(old)} times")
        source = source.replace(old, new)
    return source
