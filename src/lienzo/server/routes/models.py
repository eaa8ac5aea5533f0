"""/v1/models: what may be asked for."""

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from lienzo.diffusion.grids import GRIDS
from lienzo.diffusion.samplers import SAMPLERS
from lienzo.server.access import Caller
from lienzo.server.desk import Allowed, At, Route

router = APIRouter(prefix="/v1", tags=["pictures"], route_class=Route)


class Model(BaseModel):
    id: str
    object: str = "model"
    owned_by: str = "lienzo"
    is_default: bool


class Offer(BaseModel):
    """What may be asked for here."""

    object: str = "list"
    data: list[Model]
    loras: list[str]
    samplers: list[str]
    grids: list[str]
    max_pixels: int
    max_steps: int


@router.get("/models")
def models(at: At, caller: Annotated[Caller, Depends(Allowed("models:read"))]) -> Offer:
    """Models, adapters, samplers and limits."""
    names = list(at.service.sources)
    return Offer(
        data=[Model(id=name, is_default=name == names[0]) for name in names],
        loras=list(at.service.lora_sources),
        samplers=list(SAMPLERS),
        grids=list(GRIDS),
        max_pixels=at.service.max_pixels,
        max_steps=at.service.max_steps,
    )
