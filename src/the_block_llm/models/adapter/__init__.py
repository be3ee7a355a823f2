"""LoRA adapters: folder and manifest, loading, trained rows of added tokens."""
