"""What is known of a clip, as the network takes it: rays, depth along them, poses, radial motion, of the views of a window."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.geometry import pixels, se3
from worldline.geometry.camera import rays_z1


def unit_rays(
    fx_fy_cx_cy: Float[Tensor, "*b 4"], height: int, width: int, distortion: tuple[float, ...] = ()
) -> Float[Tensor, "*b h w 3"]:
    """Directions of the pixels of a camera, of length one."""
    uv = pixels.centres(height, width, dtype=fx_fy_cx_cy.dtype, device=fx_fy_cx_cy.device)
    rays = rays_z1(uv.expand(*fx_fy_cx_cy.shape[:-1], -1, -1, -1), fx_fy_cx_cy[..., None, None, :], distortion)
    return rays / rays.norm(dim=-1, keepdim=True)


def normalised_quaternions(rotation: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 4"]:
    """x y z w with w >= 0."""
    quaternion = se3.xyzw_from_wxyz(se3.quaternion_wxyz(rotation))
    return torch.where(quaternion[..., 3:] < 0, -quaternion, quaternion)
