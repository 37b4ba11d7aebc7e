"""Manifold-constrained hyper-connections around a layer, as a module."""

import torch
from torch import nn

from .functional import liger_mhc_forward


class LigerMHC(nn.Module):
    """HC residual streams, [..., HC, C], around a layer from [..., C] to [..., C].

    See `liger_jit.functional.mhc_forward`. float32 streams are taken with `allow_fp32`.
    """

    def __init__(
        self,
        layer,
        *,
        hc,
        c,
        tmax=20,
        rms_eps=1e-6,
        pre_eps=0.0,
        sinkhorn_eps=1e-6,
        post_mult=2.0,
        phi_dtype=torch.float16,
        allow_fp32=False,
    ):
        super().__init__()
        self.layer = layer
        self.hc = hc
        self.c = c
        self.tmax = tmax
        self.rms_eps = rms_eps
        self.pre_eps = pre_eps
        self.sinkhorn_eps = sinkhorn_eps
        self.post_mult = post_mult
        self.allow_fp32 = allow_fp32
        held = next(iter([*layer.parameters(), *layer.buffers()]), None)
        device = torch.device("cpu") if held is None else held.device
        outputs = hc * hc + 2 * hc
        self.phi = nn.Parameter(torch.randn(hc * c, outputs, dtype=phi_dtype, device=device) * 0.02)
        self.b = nn.Parameter(torch.zeros(outputs, device=device))
        self.alpha_pre = nn.Parameter(torch.ones((), device=device))
        self.alpha_post = nn.Parameter(torch.ones((), device=device))
        self.alpha_res = nn.Parameter(torch.ones((), device=device))

    def forward(self, x):
        if x.shape[-2:] != (self.hc, self.c):
            raise ValueError(
                f"LigerMHC: x has shape {tuple(x.shape)}; allowed: [..., {self.hc}, {self.c}]"
            )
        return liger_mhc_forward(
            x,
            self.layer,
            self.phi,
            self.b,
            self.alpha_pre,
            self.alpha_post,
            self.alpha_res,
            allow_fp32=self.allow_fp32,
            tmax=self.tmax,
            rms_eps=self.rms_eps,
            pre_eps=self.pre_eps,
            sinkhorn_eps=self.sinkhorn_eps,
            post_mult=self.post_mult,
        )

    def extra_repr(self):
        return f"hc={self.hc}, c={self.c}, tmax={self.tmax}"
