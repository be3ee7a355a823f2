"""What a training run may use of a machine. Nothing here imports torch."""

from typing import Literal

from pydantic import BaseModel

EngineChoice = Literal["auto", "layerwise", "plain"]
LayerChoice = Literal["auto", "resident", "streamed", "sharded"]


class MemoryLimits(BaseModel, frozen=True, extra="forbid"):
    """Limits of a run; none: what is free."""

    engine: EngineChoice = "auto"
    layers: LayerChoice = "auto"
    device_gib: float | None = None
    host_gib: float | None = None
    micro_batch_rows: int | None = None
    """Rows at a time; none: the memory plan chooses."""
