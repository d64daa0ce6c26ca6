"""Transforms on images and label maps alike: torchvision v2 with tv_tensors that know what a flip does to them.

Geometry of a zoom by the factor s (crop, then enlarge). A camera with an s times longer lens takes the same picture,
and no depth and no normal changes: right where the lens varies from image to image anyway (generated scenes). Where all
images come from one camera, the network may rely on its lens; with that lens the same picture shows a scene whose
points (X, Y, Z) lie at (X, Y, Z / s): depth is divided by s (Eigen et al. 2014), inverse depth multiplied, and a normal
(x, y, z) becomes (x, y, s z), renormalised. ``fixed_lens`` chooses. A resize of the whole image changes neither.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as nn_functional
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from slimtask.errors import Unsupported


class LabelMap(tv_tensors.Mask):  # type: ignore[misc]
    """A map [..., H, W] of values that must not be mixed: it is resized to the nearest pixel centre."""


class Depth(LabelMap):
    """Metric depth [1, H, W]; 0 where unknown."""


class InverseDepth(LabelMap):
    """Inverse depth or disparity [1, H, W]; 0 where unknown."""


class Normals(LabelMap):
    """Unit normals [3, H, W], x right, y up, z towards the camera; zero where unknown. Mirroring negates x."""


_Map = TypeVar("_Map", bound=LabelMap)


@F.register_kernel(functional="resize", tv_tensor_cls=LabelMap)  # type: ignore[untyped-decorator]
def _resize(inpt: LabelMap, size: list[int], *_: Any, **__: Any) -> LabelMap:
    return _wrap(_nearest(inpt.as_subclass(Tensor), size), inpt)


@F.register_kernel(functional="resized_crop", tv_tensor_cls=LabelMap)  # type: ignore[untyped-decorator]
def _resized_crop(
    inpt: LabelMap, *, top: int, left: int, height: int, width: int, size: list[int], **_: Any
) -> LabelMap:
    part = inpt.as_subclass(Tensor)[..., top : top + height, left : left + width]
    return _wrap(_nearest(part, size), inpt)


@F.register_kernel(functional="horizontal_flip", tv_tensor_cls=Normals)  # type: ignore[untyped-decorator]
def _mirror(inpt: Normals, *_: Any, **__: Any) -> Normals:
    values = inpt.as_subclass(Tensor)
    return _wrap(values.flip(-1) * values.new_tensor([-1.0, 1.0, 1.0])[:, None, None], inpt)


@F.register_kernel(functional="vertical_flip", tv_tensor_cls=Normals)  # type: ignore[untyped-decorator]
def _turn_over(inpt: Normals, *_: Any, **__: Any) -> Normals:
    values = inpt.as_subclass(Tensor)
    return _wrap(values.flip(-2) * values.new_tensor([1.0, -1.0, 1.0])[:, None, None], inpt)


def _nearest(maps: Tensor, size: list[int]) -> Tensor:
    """Resize [..., H, W] to the pixel whose centre is nearest; torch's plain "nearest" would shift by half a pixel."""
    flat = maps.reshape(1, -1, *maps.shape[-2:])
    return nn_functional.interpolate(flat, size=list(size), mode="nearest-exact").reshape(*maps.shape[:-2], *size)


def resize_map(inpt: Tensor, size: list[int]) -> Tensor:
    """Return a map at ``size`` (height, width), every pixel the one whose centre is nearest."""
    return inpt if list(inpt.shape[-2:]) == size else F.resize(inpt, size)


def _wrap(values: Tensor, like: _Map) -> _Map:
    # A kernel that is registered for an own class has to restore that class itself.
    wrapped: _Map = tv_tensors.wrap(values, like=like)
    return wrapped


def _refuse(*_: Any, **__: Any) -> Tensor:
    raise Unsupported(
        "this transform", "surface normals", "it would move the normals without turning them", "flip, crop or resize"
    )


for _name in ("rotate", "affine", "perspective", "elastic"):
    F.register_kernel(functional=_name, tv_tensor_cls=Normals)(_refuse)


class ZoomTo(v2.Transform):  # type: ignore[misc]
    """A random crop by a factor drawn from ``scale`` (>= 1), resized to ``size`` (height, width); see the module."""

    def __init__(
        self, size: tuple[int, int], scale: tuple[float, float] = (1.0, 1.0), fixed_lens: bool = False
    ) -> None:
        super().__init__()
        self.size, self.scale, self.fixed_lens = list(size), scale, fixed_lens

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Return the crop (top, left, height, width in pixels) and the zoom factors (vertical, horizontal)."""
        image_height, image_width = v2.query_size(flat_inputs)
        low, high = self.scale
        factor = low + (high - low) * torch.rand(()).item()
        height, width = round(image_height / factor), round(image_width / factor)
        top = int(torch.randint(image_height - height + 1, ()))
        left = int(torch.randint(image_width - width + 1, ()))
        return {"top": top, "left": left, "height": height, "width": width, "zoom": image_height / height}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Return one image or map, cropped and resized; depth and normals follow a fixed lens if asked to."""
        zoom = params["zoom"]
        if list(inpt.shape[-2:]) == self.size == [params["height"], params["width"]]:
            return inpt
        box = {key: params[key] for key in ("top", "left", "height", "width")}
        output = F.resized_crop(
            inpt, **box, size=self.size, interpolation=v2.InterpolationMode.BILINEAR, antialias=True
        )
        if self.fixed_lens and zoom != 1.0 and isinstance(inpt, Depth):
            return _wrap(output.as_subclass(Tensor) / zoom, inpt)
        if self.fixed_lens and zoom != 1.0 and isinstance(inpt, InverseDepth):
            return _wrap(output.as_subclass(Tensor) * zoom, inpt)
        if self.fixed_lens and zoom != 1.0 and isinstance(inpt, Normals):
            return _wrap(_squash(output.as_subclass(Tensor), zoom), inpt)
        return output


def _squash(normals: Tensor, zoom: float) -> Tensor:
    stretched = normals * normals.new_tensor([1.0, 1.0, zoom])[:, None, None]
    return nn_functional.normalize(stretched, dim=0)  # zero vectors (unknown) stay zero


def training_transform(
    size: tuple[int, int], *, flip: float, scale: tuple[float, float], colour: float, fixed_lens: bool
) -> v2.Compose:
    """Return the augmentation: mirror, zoom, float image in 0 .. 1, brightness, contrast and saturation jitter."""
    steps: list[v2.Transform] = [v2.RandomHorizontalFlip(flip), ZoomTo(size, scale, fixed_lens), _to_float()]
    if colour > 0.0:
        steps.append(v2.ColorJitter(brightness=colour, contrast=colour, saturation=colour))
    return v2.Compose(steps)


def validation_transform(size: tuple[int, int]) -> v2.Compose:
    """Return the transform of validation and test: a resize (labels to the nearest pixel), image to 0 .. 1."""
    return v2.Compose([ZoomTo(size), _to_float()])


def _to_float() -> v2.Transform:
    return v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True)
