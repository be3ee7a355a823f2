"""Process-level runtime: signals, out-of-memory recovery, memory statistics, process group."""
