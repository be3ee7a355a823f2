"""Models: profiles, NF4 loading, LoRA adapters, inference, and the two training engines."""
