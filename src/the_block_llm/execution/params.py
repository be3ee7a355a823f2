"""What a user may choose about where the data pipelines run."""

from typing import Literal

from pydantic import BaseModel, Field

Engine = Literal["local", "ray"]


class ExecutionParams(BaseModel, frozen=True, extra="forbid"):
    """Parameters ``execution``: the engine below, never what comes out."""

    engine: Engine = "local"
    """Worker processes of this machine, or tasks of a Ray cluster (extra ``ray``)."""
    address: str | None = None
    """Of the cluster: ``auto``, ``host:port`` or ``ray://host:port``; none starts Ray here for
    the time of the run."""
    cpus: int = Field(default=0, ge=0)
    """Cores for a Ray that is started here; 0 takes all. A cluster knows its own. For the local
    engine the processes of sequence_build, some 300 MB each; 0: two at most."""
    object_store_mb: int = Field(default=200, ge=80)
    """Shared memory of a Ray that is started here. Only paths and counts pass through it."""
    prefetch_tasks: int = Field(default=1, ge=0)
    """Tasks that wait beside each that runs. More keep fast nodes busy; none of them is lost
    with a node, but all are in the driver's memory."""
    retries: int = Field(default=5, ge=0)
    """How often a task is begun again after its worker or its node died."""
