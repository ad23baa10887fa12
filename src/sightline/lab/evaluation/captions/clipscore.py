"""CLIPScore and RefCLIPScore (Hessel et al. 2021, arXiv:2104.08718): how near a caption is to its image.

Shape suffixes: N images, T reference captions, D dimension of the joint space.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sightline.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROMPT = "A photo depicts "
"""Stands before every caption and reference, as in the paper."""
_SCALE = 2.5
"""The paper's w: ViT-B/32's cosines are rarely above 0.4, so this spreads them over [0, 1]."""


def clip_score(image_ND: NDArray[np.float32], caption_ND: NDArray[np.float32]) -> NDArray[np.float64]:
    """2.5 times the cosine of each image and its caption (N,), at least 0. Rows must be L2-normalised.

    Raises InputError for arrays that don't fit, and for values that aren't finite.
    """
    if image_ND.ndim != 2 or image_ND.shape != caption_ND.shape:
        raise InputError(f"Images and captions must be vectors of one space: {image_ND.shape}, {caption_ND.shape}.")
    if not len(image_ND):
        raise InputError("There are no images to measure.")
    cosine_N = np.einsum("nd,nd->n", image_ND.astype(np.float64), caption_ND.astype(np.float64))
    _require_finite(cosine_N)
    score_N: NDArray[np.float64] = _SCALE * np.maximum(cosine_N, 0)
    return score_N


def ref_clip_score(
    clip_score_N: NDArray[np.float64],
    caption_ND: NDArray[np.float32],
    reference_TD: NDArray[np.float32],
    owner_T: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Harmonic mean of CLIPScore and the caption's cosine to its nearest reference (N,), at least 0.

    `owner_T` is the image of each reference. Raises InputError where an image has no reference, for arrays that don't
    fit, and for values that aren't finite.
    """
    if owner_T.shape != (len(reference_TD),) or clip_score_N.shape != (len(caption_ND),):
        raise InputError("Each reference needs its image, and each caption its CLIPScore.")
    if len(np.unique(owner_T)) != len(caption_ND):
        raise InputError("Every image needs a reference caption, or RefCLIPScore is not defined.")
    cosine_T = np.einsum("td,td->t", reference_TD.astype(np.float64), caption_ND[owner_T].astype(np.float64))
    _require_finite(cosine_T)
    nearest_N = np.zeros(len(caption_ND))  # below 0 is 0
    np.maximum.at(nearest_N, owner_T, cosine_T)
    sum_N = clip_score_N + nearest_N
    harmonic_N: NDArray[np.float64] = np.divide(
        2 * clip_score_N * nearest_N, sum_N, out=np.zeros_like(sum_N), where=sum_N > 0
    )
    return harmonic_N


def _require_finite(cosines: NDArray[np.float64]) -> None:
    if not np.isfinite(cosines).all():
        raise InputError(f"{int((~np.isfinite(cosines)).sum())} of {len(cosines)} cosines are not finite.")
