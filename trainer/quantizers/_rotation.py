"""The rotation trick: pass gradients through a quantizer by rotating and rescaling them.

Shapes: B images, N tokens, D width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def rotate(z_BND: Tensor, z_q_BND: Tensor) -> Tensor:
    """Return the values of z_q as a linear map of z that the backward pass holds constant.

    With u = z/|z|, q = z_q/|z_q| and w = (u+q)/|u+q|, all detached:
    |z_q|/|z| * (z - 2 (z.w) w + 2 (z.u) q), a rotation of z onto the code and a rescaling.
    """
    z_constant, z_q_constant = z_BND.detach(), z_q_BND.detach()
    u_BND = F.normalize(z_constant, dim=-1)
    q_BND = F.normalize(z_q_constant, dim=-1)
    w_BND = F.normalize(u_BND + q_BND, dim=-1)
    scale_BN1 = z_q_constant.norm(dim=-1, keepdim=True) / z_constant.norm(
        dim=-1, keepdim=True
    ).clamp(min=1e-12)
    reflected = 2 * (z_BND * w_BND).sum(-1, keepdim=True) * w_BND
    turned: Tensor = 2 * (z_BND * u_BND).sum(-1, keepdim=True) * q_BND
    rotated_BND: Tensor = scale_BN1 * (z_BND - reflected + turned)
    return rotated_BND
