"""Manifold-constrained hyper-connections: HC residual streams in place of one.

Xie et al., "mHC: Manifold-Constrained Hyper-Connections", arXiv:2512.24880. A layer F reads a
mixture of the streams of a token, x[0..HC), and its output goes into all of them:

    x_in     = sum over i of h_pre[i] * x[i]
    x_out[o] = sum over i of h_res[o, i] * x[i] + h_post[o] * F(x_in)
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .. import ops


def _by_token(op: str, x: Tensor) -> Tensor:
    """[..., HC, C] as [tokens, HC, C]."""
    if x.dim() < 3:
        raise ops.refuse(op, "x", tuple(x.shape), ["[..., HC, C]"])
    return x if x.dim() == 3 else x.flatten(0, -3)


def _factors(x: Tensor, h: Tensor, dims: int) -> Tensor:
    """Factors of streams, of [tokens, ...] in the dtype that x is computed in."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    h = h if h.dtype == wide else h.to(wide)
    return h if h.dim() == dims else h.flatten(0, -dims)


def _as_in(x: Tensor, made: Tensor) -> Tensor:
    """[tokens, ...] with the leading dimensions of x."""
    return made if x.dim() == 3 else made.unflatten(0, x.shape[:-2])


def mhc_coeffs(
    x: Tensor,
    phi: Tensor,
    b: Tensor,
    alpha_pre: Tensor,
    alpha_post: Tensor,
    alpha_res: Tensor,
    *,
    tmax: int = 20,
    rms_eps: float = 1e-6,
    pre_eps: float = 0.0,
    sinkhorn_eps: float = 1e-6,
    post_mult: float = 2.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """The factors of each token's streams.

        mix    = flat(x) @ phi / sqrt(mean(flat(x)^2) + rms_eps)
        h_pre  = sigmoid(alpha_pre * mix[:HC] + b[:HC]) + pre_eps
        h_post = sigmoid(alpha_post * mix[HC:2HC] + b[HC:2HC]) * post_mult
        h_res  = sinkhorn(alpha_res * mix[2HC:] + b[2HC:])

    where sinkhorn takes the softmax of each row of the HC x HC matrix plus sinkhorn_eps, and then
    divides columns and rows in turn by their sums plus sinkhorn_eps: columns tmax times, rows
    between.

    Args:
        x: [..., HC, C], HC of 1 to 16; float32, bfloat16, float16, or float64 on the CPU.
        phi: [HC * C, HC * HC + 2 * HC], of any of these dtypes.
        b: [HC * HC + 2 * HC]. alpha_pre, alpha_post, alpha_res: one element each, of one dtype.
        tmax: 1 or more.

    Returns (h_pre [..., HC], h_post [..., HC], h_res [..., HC, HC]) in float32, float64 of float64.

    Raises:
        ValueError: a shape, tmax or an eps is none of these, dtype not supported, or tensors on
            different devices.
    """
    options = (tmax, rms_eps, pre_eps, sinkhorn_eps, post_mult)
    return _coeffs(x, (phi, b, alpha_pre, alpha_post, alpha_res), options)


def _coeffs(x: Tensor, weights: tuple[Tensor, ...], options: tuple) -> tuple[Tensor, ...]:
    made = ops.mhc_coeffs(_by_token("mhc_coeffs", x), *weights, *options)
    return tuple(_as_in(x, h) for h in made[:3])


def mhc_pre(x: Tensor, h_pre: Tensor) -> Tensor:
    """x_in = sum over i of h_pre[i] * x[i], rounded once.

    Args:
        x: [..., HC, C].
        h_pre: [..., HC].

    Returns x_in, [..., C] of x's dtype. Raises ValueError as `mhc_coeffs`.
    """
    return _as_in(x, ops.mhc_pre(_by_token("mhc_pre", x), _factors(x, h_pre, 2)))


def _post_res(flat: Tensor, f_out: Tensor, h_post: Tensor, h_res: Tensor, streams=None) -> Tensor:
    layer = f_out if f_out.dim() == 2 else f_out.flatten(0, -2)
    return ops.mhc_post_res(flat, layer, h_post, h_res, streams)


def mhc_post_res(x: Tensor, f_out: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
    """x_out[o] = sum over i of h_res[o, i] * x[i] + h_post[o] * f_out, rounded once.

    Args:
        x: [..., HC, C].
        f_out: [..., C], a layer's output, of any dtype.
        h_post: [..., HC].
        h_res: [..., HC, HC].

    Returns x_out, of x's shape and dtype. Raises ValueError as `mhc_coeffs`.
    """
    factors = (_factors(x, h_post, 2), _factors(x, h_res, 3))
    return _as_in(x, _post_res(_by_token("mhc_post_res", x), f_out, *factors))


def mhc_forward(
    x: Tensor,
    phi: Tensor,
    b: Tensor,
    alpha_pre: Tensor,
    alpha_post: Tensor,
    alpha_res: Tensor,
    layer: Callable[[Tensor], Tensor] | None = None,
    *,
    tmax: int = 20,
    rms_eps: float = 1e-6,
    pre_eps: float = 0.0,
    sinkhorn_eps: float = 1e-6,
    post_mult: float = 2.0,
    return_coeffs: bool = False,
):
    """The streams after a layer: one node of the graph before it and one after it.

    Args:
        layer: from [..., C] to [..., C]; None for a layer that does nothing. What it gets has the
            dtype of its first parameter, if it has any.
        return_coeffs: the factors are made by `mhc_coeffs` then, and the mixture of them, so that
            each has all of its gradient.
        Others as in `mhc_coeffs`.

    Returns x_out, of x's shape and dtype; with return_coeffs (x_out, (h_pre, h_post, h_res)).
    Raises as `mhc_coeffs`.
    """
    options = (tmax, rms_eps, pre_eps, sinkhorn_eps, post_mult)
    weights = (phi, b, alpha_pre, alpha_post, alpha_res)
    if return_coeffs:
        coeffs = h_pre, h_post, h_res = _coeffs(x, weights, options)
        f_out = _through(layer, mhc_pre(x, h_pre))
        return mhc_post_res(x, f_out, h_post, h_res), coeffs
    flat = _by_token("mhc_forward", x)
    x_in, _, h_post, h_res, streams = ops.mhc_forward(flat, *weights, *options)[:5]
    f_out = _through(layer, _as_in(x, x_in))
    # The gradient of the streams around the layer comes back to the node before it, which adds it
    # to its own.
    return _as_in(x, _post_res(flat.detach(), f_out, h_post, h_res, streams))


def _through(layer: Callable[[Tensor], Tensor] | None, x_in: Tensor) -> Tensor:
    if layer is None:
        return x_in
    first = next(layer.parameters(), None) if isinstance(layer, torch.nn.Module) else None
    return layer(x_in if first is None else x_in.to(first.dtype))
