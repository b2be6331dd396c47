"""Rigid motions as 4x4 matrices, their tangent space, and the only place that knows a quaternion order.

A motion named `a_from_b` maps coordinates in frame b to coordinates in frame a: `x_a = a_from_b @ x_b`.
Tangent vectors are (rho, phi): translation first, then rotation (radians). Source: Sola et al.,
"A micro Lie theory for state estimation in robotics", 2018, appendix D (the exponential is eq. 172).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def hat(phi: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    """The skew matrix with `hat(a) @ b == cross(a, b)`."""
    x, y, z = phi.unbind(-1)
    o = torch.zeros_like(x)
    return torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).unflatten(-1, (3, 3))


def _sinc_coefficients(theta2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """sin(t)/t, (1-cos t)/t^2, (t-sin t)/t^3 as functions of t^2, exact to rounding at zero too."""
    small = theta2 < 1e-6
    t2 = torch.where(small, torch.ones_like(theta2), theta2)
    t = t2.sqrt()
    a = torch.where(small, 1 - theta2 / 6, t.sin() / t)
    b = torch.where(small, 0.5 - theta2 / 24, (1 - t.cos()) / t2)
    c = torch.where(small, 1 / 6 - theta2 / 120, (t - t.sin()) / (t2 * t))
    return a, b, c


def so3_exp(phi: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    """Rotation matrix of a rotation vector in radians (Rodrigues)."""
    a, b, _ = _sinc_coefficients((phi * phi).sum(-1)[..., None, None])
    k = hat(phi)
    return torch.eye(3, dtype=phi.dtype, device=phi.device) + a * k + b * (k @ k)


def so3_log(rotation: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3"]:
    """Rotation vector in radians, norm at most pi; stable near 0 and near pi (through the quaternion)."""
    q = quaternion_wxyz(rotation)
    q = torch.where(q[..., :1] < 0, -q, q)
    w, v = q[..., :1], q[..., 1:]
    n = v.norm(dim=-1, keepdim=True)
    small = n < 1e-7
    safe = torch.where(small, torch.ones_like(n), n)
    factor = torch.where(small, 2 / w.clamp_min(0.5), 2 * torch.atan2(safe, w) / safe)
    return factor * v


def exp(xi: Float[Tensor, "*b 6"]) -> Float[Tensor, "*b 4 4"]:
    """Motion of a tangent vector (rho in metres, phi in radians)."""
    rho, phi = xi[..., :3], xi[..., 3:]
    a, b, c = _sinc_coefficients((phi * phi).sum(-1)[..., None, None])
    k = hat(phi)
    kk = k @ k
    eye = torch.eye(3, dtype=xi.dtype, device=xi.device)
    v = eye + b * k + c * kk
    return from_rotation_translation(eye + a * k + b * kk, (v @ rho[..., None])[..., 0])


def log(motion: Float[Tensor, "*b 4 4"]) -> Float[Tensor, "*b 6"]:
    """Tangent vector (rho, phi) of a motion; the inverse of `exp` for rotations below pi."""
    phi = so3_log(motion[..., :3, :3])
    _, b, c = _sinc_coefficients((phi * phi).sum(-1)[..., None, None])
    k = hat(phi)
    v = torch.eye(3, dtype=motion.dtype, device=motion.device) + b * k + c * (k @ k)
    rho = torch.linalg.solve(v, motion[..., :3, 3:])[..., 0]
    return torch.cat([rho, phi], -1)


def from_rotation_translation(
    rotation: Float[Tensor, "*b 3 3"], translation: Float[Tensor, "*b 3"]
) -> Float[Tensor, "*b 4 4"]:
    """The 4x4 matrix of a rotation and a translation (metres)."""
    top = torch.cat([rotation, translation[..., None]], -1)
    bottom = torch.zeros_like(top[..., :1, :])
    bottom[..., 0, 3] = 1
    return torch.cat([top, bottom], -2)


def inverse(a_from_b: Float[Tensor, "*b 4 4"]) -> Float[Tensor, "*b 4 4"]:
    """b_from_a, without a general matrix inverse."""
    rt = a_from_b[..., :3, :3].transpose(-1, -2)
    return from_rotation_translation(rt, -(rt @ a_from_b[..., :3, 3:])[..., 0])


def apply(a_from_b: Float[Tensor, "*b 4 4"], points_b: Float[Tensor, "*b n 3"]) -> Float[Tensor, "*b n 3"]:
    """Points of frame b in frame a."""
    return points_b @ a_from_b[..., :3, :3].transpose(-1, -2) + a_from_b[..., None, :3, 3]


def angle_rad(rotation: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b"]:
    """Angle of a rotation in [0, pi], accurate also for tiny ones (no arccos near 1)."""
    return so3_log(rotation).norm(dim=-1)


def quaternion_wxyz(rotation: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 4"]:
    """Unit quaternion, scalar first, w >= 0 is not enforced. Largest-component method, no division by ~0."""
    m = rotation
    d = torch.diagonal(m, dim1=-2, dim2=-1)
    trace = d.sum(-1)
    squares = torch.stack([1 + trace, *(1 + 2 * d[..., i] - trace for i in range(3))], -1)
    r21, r02, r10 = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    s10, s20, s21 = m[..., 1, 0] + m[..., 0, 1], m[..., 2, 0] + m[..., 0, 2], m[..., 2, 1] + m[..., 1, 2]
    rows = torch.stack(
        [
            torch.stack([squares[..., 0], r21, r02, r10], -1),
            torch.stack([r21, squares[..., 1], s10, s20], -1),
            torch.stack([r02, s10, squares[..., 2], s21], -1),
            torch.stack([r10, s20, s21, squares[..., 3]], -1),
        ],
        -2,
    )
    best = squares.argmax(-1)
    row = torch.gather(rows, -2, best[..., None, None].expand(*best.shape, 1, 4))[..., 0, :]
    return row / row.norm(dim=-1, keepdim=True)


def rotation_from_wxyz(quaternion: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 3 3"]:
    """Rotation matrix of a quaternion (scalar first), normalised here."""
    w, x, y, z = (quaternion / quaternion.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def wxyz_from_xyzw(quaternion: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 4"]:
    """Scalar-last (TUM) to scalar-first."""
    return quaternion.roll(1, -1)


def xyzw_from_wxyz(quaternion: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 4"]:
    """Scalar-first to scalar-last (TUM)."""
    return quaternion.roll(-1, -1)


def product_xyzw(a: Float[Tensor, "*n 4"], b: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """Quaternions (x y z w) one after the other: first b, then a."""
    (u, s), (v, t) = (a[..., :3], a[..., 3:]), (b[..., :3], b[..., 3:])
    vector = s * v + t * u + torch.linalg.cross(u, v)
    return torch.cat([vector, s * t - (u * v).sum(-1, keepdim=True)], -1)


def turned_xyzw(q: Float[Tensor, "*n 4"], x: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
    """Vectors turned by unit quaternions (x y z w)."""
    u = q[..., :3]
    twice = 2 * torch.linalg.cross(u, x)
    return x + q[..., 3:] * twice + torch.linalg.cross(u, twice)


def nearest_rotation(matrix: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3 3"]:
    """The rotation closest in Frobenius norm (SVD, determinant fixed to +1)."""
    u, _, vt = torch.linalg.svd(matrix)
    sign = torch.ones_like(u[..., 0])
    sign[..., 2] = torch.det(u @ vt)
    return (u * sign[..., None, :]) @ vt


def interpolate(a: Float[Tensor, "*b 4 4"], b: Float[Tensor, "*b 4 4"], share: Float[Tensor, "*b"]) -> Tensor:
    """The motion `share` of the way from a (0) to b (1): straight-line translation, geodesic rotation."""
    ra, rb = a[..., :3, :3], b[..., :3, :3]
    step = so3_exp(share[..., None] * so3_log(ra.transpose(-1, -2) @ rb))
    t = a[..., :3, 3] + share[..., None] * (b[..., :3, 3] - a[..., :3, 3])
    return from_rotation_translation(ra @ step, t)
