"""Multi-process training: starts and supervises the processes, locally or by a batch job."""
