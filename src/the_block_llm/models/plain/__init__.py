"""The plain engine: transformers and PEFT, its memory plan, chunked loss, FSDP."""
