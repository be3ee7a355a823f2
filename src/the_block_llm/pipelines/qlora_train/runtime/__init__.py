"""The process: signals, out-of-memory errors, memory statistics, distributed ranks."""
