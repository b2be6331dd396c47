"""Scaled dot-product attention, as fast as the processor allows."""

from __future__ import annotations

from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from worldline.nets import linear

QUERIES = 256
"""At once: their scores against all keys should stay in the cache."""


def attend(
    q: Float[Tensor, "b h n c"], k: Float[Tensor, "b h m c"], v: Float[Tensor, "b h m c"]
) -> Float[Tensor, "b h n c"]:
    """softmax(q k^T / sqrt(c)) v, in the precision of q.

    On a CPU without gradients the two products go through oneDNN in float32, as linear layers do (`linear.py`): torch's
    own kernel asks MKL for them, and takes half as long again, also in bfloat16.
    """
    if not linear.may_use_onednn(q):
        return functional.scaled_dot_product_attention(q, k, v)
    out = torch.empty_like(q)
    # oneDNN falls back to a kernel that is a hundred times slower where rows do not follow each other in memory.
    queries, keys = (x.contiguous() for x in (q.float() * q.shape[-1] ** -0.5, k.float()))
    values = v.float().transpose(-1, -2).contiguous()
    for b, h in product(range(q.shape[0]), range(q.shape[1])):
        for start in range(0, q.shape[2], QUERIES):
            part = slice(start, start + QUERIES)
            weights = linear.product(queries[b, h, part], keys[b, h]).softmax(-1)
            out[b, h, part] = linear.product(weights, values[b, h])
    return out
