"""Parameters of the engine that runs the data pipelines."""

from typing import Literal

from pydantic import BaseModel, Field

Engine = Literal["local", "ray"]


class ExecutionParams(BaseModel, frozen=True, extra="forbid"):
    """Parameters ``execution``: the engine, which does not affect the output."""

    engine: Engine = "local"
    """Worker processes of this machine, or tasks of a Ray cluster (extra ``ray``)."""
    address: str | None = None
    """Of the cluster: ``auto``, ``host:port`` or ``ray://host:port``; None starts Ray on this
    machine for the duration of the run."""
    cpus: int = Field(default=0, ge=0)
    """Cores of a Ray that is started here, 0 for all; ignored for a cluster. For the local engine
    the processes of sequence_build, some 300 MB each; 0: at most two."""
    object_store_mb: int = Field(default=200, ge=80)
    """Shared memory of a Ray that is started here. Only paths and counts pass through it."""
    prefetch_tasks: int = Field(default=1, ge=0)
    """Tasks queued for each running one. More keep fast nodes busy; none of them is lost with a
    node, but all are in the driver's memory."""
    retries: int = Field(default=5, ge=0)
    """How often a task is retried after its worker or its node died."""
    lock_timeout_s: float = Field(default=600, ge=0)
    """How long a run waits for another one that changes the same files; 0 refuses at once."""
