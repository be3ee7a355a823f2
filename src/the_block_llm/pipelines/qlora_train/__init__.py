"""Pipeline that trains a LoRA adapter on the 4-bit base model."""
