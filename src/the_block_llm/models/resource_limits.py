"""Resource limits of a training run. Does not import torch."""

from typing import Literal

from pydantic import BaseModel

EngineChoice = Literal["auto", "layerwise", "plain"]
LayerChoice = Literal["auto", "resident", "streamed", "sharded"]


class MemoryLimits(BaseModel, frozen=True, extra="forbid"):
    """Limits of a run; a limit that is None defaults to the free memory."""

    engine: EngineChoice = "auto"
    layers: LayerChoice = "auto"
    device_gib: float | None = None
    host_gib: float | None = None
    micro_batch_rows: int | None = None
    """Rows per forward pass; None: the memory plan chooses."""
