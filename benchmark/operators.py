"""The operators that a submitted graph may call, made from PyTorch's own schemas by rules.

    python benchmark/operators.py [--write]     print the table of prepare.py, or put it there

A name is on the list because language models need it and its CPU and CUDA kernels check every
index they follow; an overload of it is taken when its schema says that it makes tensors of tensors
and plain numbers, changes nothing, draws nothing and has a shape that no value decides. The table
holds the first 16 bits of a hash of each schema: prepare.py refuses an overload whose schema is
another one in the PyTorch at hand. Not covered: how prepare.py reads the graph.
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import prepare

POINTWISE = """
abs acos acosh add addcdiv addcmul asin asinh atan atan2 atanh bitwise_and bitwise_left_shift
bitwise_not bitwise_or bitwise_right_shift bitwise_xor ceil celu clamp clamp_max clamp_min clip
copysign cos cosh deg2rad digamma div divide elu eq erf erfc erfinv exp exp2 expm1 fix float_power
floor floor_divide fmax fmin fmod frac ge gelu glu greater greater_equal gt hardshrink hardsigmoid
hardswish hardtanh heaviside hypot isclose isfinite isinf isnan isneginf isposinf ldexp le
leaky_relu lerp less less_equal lgamma log log10 log1p log2 log_sigmoid logaddexp logaddexp2
logical_and logical_not logical_or logical_xor logit lt masked_fill maximum minimum mish mul
multiply mvlgamma nan_to_num ne neg negative not_equal polygamma positive pow prelu reciprocal relu
relu6 remainder round rsqrt rsub selu sgn sigmoid sign signbit silu sin sinc sinh softplus
softshrink special_erf special_erfcx special_expit special_exp2 special_log1p special_ndtr
special_xlogy sqrt square sub subtract tan tanh threshold true_divide trunc where xlogy
__and__ __or__ __xor__ __lshift__ __rshift__
"""
PRODUCTS = """
addbmm addmm addmv addr baddbmm bilinear bmm chain_matmul cosine_similarity cross dot einsum inner
kron linear linalg_multi_dot linalg_vecdot linalg_vector_norm matmul mm mv outer tensordot vdot
"""
REDUCTIONS = """
all amax amin aminmax any argmax argmin argsort count_nonzero cummax cummin cumprod cumsum diff
kthvalue logcumsumexp logsumexp max mean min nanmean nansum norm prod sort std std_mean sum
topk trapezoid var var_mean
"""
VIEWS = """
adjoint alias atleast_1d atleast_2d atleast_3d block_diag broadcast_tensors broadcast_to cat
channel_shuffle chunk clone column_stack concat concatenate contiguous detach detach_copy diag
diag_embed diagonal diagonal_copy dropout dsplit dstack expand expand_as expand_copy flatten flip
fliplr flipud hsplit hstack lift_fresh lift_fresh_copy meshgrid moveaxis movedim narrow
narrow_copy pad constant_pad_nd permute permute_copy pixel_shuffle pixel_unshuffle ravel repeat
reshape reshape_as roll rot90 row_stack select select_copy slice slice_copy split split_copy
split_with_sizes split_with_sizes_copy squeeze squeeze_copy stack swapaxes swapdims t t_copy
tensor_split tile to transpose transpose_copy tril triu type_as unbind unbind_copy unflatten unfold
unfold_copy unsqueeze unsqueeze_copy view view_as view_copy vsplit vstack _to_copy mT mH
"""
INDEXING = """
bucketize diagonal_scatter embedding gather index index_add index_copy index_fill index_put
index_select one_hot repeat_interleave scatter scatter_add scatter_reduce
select_scatter slice_scatter take take_along_dim isin
"""
NORMS = """
batch_norm group_norm instance_norm layer_norm native_group_norm native_layer_norm
renorm rms_norm _softmax _log_softmax log_softmax softmax special_softmax special_log_softmax
cross_entropy_loss binary_cross_entropy_with_logits huber_loss mse_loss l1_loss kl_div
smooth_l1_loss
"""
LAYERS = """
avg_pool1d conv1d conv2d convolution gru gru_cell lstm_cell rnn_relu
rnn_relu_cell rnn_tanh rnn_tanh_cell scaled_dot_product_attention
"""
CREATION = """
arange eye full full_like linspace logspace new_full new_ones new_zeros ones ones_like scalar_tensor
tril_indices triu_indices zeros zeros_like
"""
CHECKS = """
_assert_async _assert_scalar _assert_tensor_metadata sym_constrain_range
sym_constrain_range_for_size sym_numel sym_size sym_storage_offset sym_stride
"""
FAMILIES = (POINTWISE, PRODUCTS, REDUCTIONS, VIEWS, INDEXING, NORMS, LAYERS, CREATION, CHECKS)

# Of the arguments; a string is a mode that the kernel reads by name.
TAKEN = re.compile(r"(?:Optional\[|List\[)*(?:Tensor|int|float|bool|number|str|Device|SymInt)\]*")
GIVEN = re.compile(r"(?:List\[)?Tensor\]?")
# Kernels follow a permutation of the caller's, and whatever `unsafe` stands for, unchecked; the
# rest names memory or dice of the caller's.
REFUSED_ARGUMENTS = {"unsafe", "sorter", "generator", "storage_offset", "out", "batch_sizes"}
# Named dimensions, and what only TorchScript writes.
REFUSED_OVERLOADS = re.compile(r"out|.*_out|.*[Dd]imname.*|names.*|prim_.*|.*hacked_twin|a")
# Numbers read as other numbers, and shapes that a value decides though no tag says so.
REFUSED = {
    "view.dtype",
    "view_copy.dtype",
    "where.default",
    "narrow.Tensor",
    "repeat_interleave.Tensor",
    "repeat_interleave.self_Tensor",
    "tensor_split.tensor_indices_or_sections",
}
# Tagged for a boolean index and for classes that are counted; their kernels check all the same.
CHECKED = {"index.Tensor", "one_hot.default"}


def taken(name: str, overload: str) -> bool:
    """Whether the rules take this overload of a listed name; those that only check are taken."""
    if name in CHECKS.split():
        return overload in ("default", "msg", "int")
    found = getattr(getattr(torch.ops.aten, name), overload)
    schema = found._schema
    types = [str(item.type) for item in schema.arguments]
    results = [str(item.type) for item in schema.returns]
    tags = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
    random = torch.Tag.nondeterministic_seeded in found.tags
    return not (
        REFUSED_OVERLOADS.fullmatch(overload)
        or f"{name}.{overload}" in REFUSED
        or schema.is_mutable
        or {item.name for item in schema.arguments} & REFUSED_ARGUMENTS
        or not all(map(TAKEN.fullmatch, types))
        or not all(map(GIVEN.fullmatch, results))
        or not (results and any("Tensor" in kind for kind in types + results))
        or (tags & set(found.tags) and f"{name}.{overload}" not in CHECKED)
        or (random and name not in prepare.DROPPING)
    )


def table() -> list[str]:
    """`name.overload:digest` of every overload that is taken, in alphabetical order."""
    names = sorted({name for family in FAMILIES for name in family.split()})
    found = []
    for name in names:
        packet = getattr(torch.ops.aten, name, None)
        for overload in packet.overloads() if packet else ():
            if taken(name, overload):
                found.append(f"{name}.{overload}:{prepare.digest(getattr(packet, overload))}")
    return sorted(found)


def main() -> None:
    lines = textwrap.wrap(" ".join(table()), 99, break_on_hyphens=False, break_long_words=False)
    body = f'OPERATORS_OF = "{torch.__version__.partition("+")[0]}"\nOPERATORS = """\n'
    body += "\n".join(lines) + '\n"""\n'
    if "--write" not in sys.argv:
        print(body)
        return
    path = Path(prepare.__file__)
    text = re.sub(
        r'OPERATORS_OF = ".*?"\nOPERATORS = """\n.*?"""\n', body, path.read_text(), flags=re.DOTALL
    )
    path.write_text(text)


if __name__ == "__main__":
    main()
