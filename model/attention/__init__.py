"""Attention over jagged sequences behind one function; the device chooses the backend."""

from jaxtyping import Float
from torch import Tensor

from model.attention.bucketed import bucketed_attention
from model.attention.flex import flex_window_attention
from model.attention.windows import Windows


def attend(
    query: Float[Tensor, "Q H d"],
    key: Float[Tensor, "E H d"],
    value: Float[Tensor, "E H d"],
    windows: Windows,
) -> Float[Tensor, "Q H d"]:
    """Softmax attention of each query over its own window of keys.

    out_q = softmax(q K_qᵀ / √d) V_q,  K_q and V_q the keys and values [start_q, end_q)

    A query that reads nothing gets zeros. Keys outside a query's window take no part in its output
    and get no gradient from it, as long as they are finite: on every device a masked weight is an
    exact zero that multiplies them. Keys that no query reads may even be NaN.

    Paper: scaled dot-product attention (arXiv 1706.03762), section 3.2.1.
    Differs: none.
    """
    backend = flex_window_attention if query.is_cuda else bucketed_attention
    return backend(query, key, value, windows)
