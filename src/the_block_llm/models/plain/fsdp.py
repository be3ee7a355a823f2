"""Sharding of the frozen 4-bit layers over processes (PyTorch's FSDP2).

Only frozen weights are sharded, which are nearly all of a model: the weights of a layer are
all-gathered before it runs and resharded afterwards. Every process holds the complete adapter, so
that it is averaged, saved and resumed as in unsharded training, with any number of processes.
Embedding and head are replicated as well, because the loss reads the head's weight directly.
"""

import torch
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor


def shard_frozen_layers(model: PeftModel, device: torch.device) -> None:
    """Shard the frozen weights of every decoder layer over the processes of the run.

    Args:
        model: Model with an adapter; its 4-bit weights must be stored in the floating-point
            dtype of the other weights (``load_base_model(…, quant_storage=…)``).
        device: Device of this process.
    """
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    base = model.get_base_model()
    decoder = base.get_decoder()
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    for layer in decoder.layers:
        fully_shard(layer, mesh=mesh, ignored_params=trained, reshard_after_forward=True)
    # Shards none of the decoder's own parameters, but makes it the root module of its layers, so
    # that the next layer is prefetched while one computes.
    fully_shard(decoder, mesh=mesh, ignored_params=set(decoder.parameters()))
    for module in model.modules():
        if isinstance(module, Linear4bit):
            # Block scales: a thirtieth of the weights, and not a parameter.
            module.quant_state.to(device)
    for parameter in model.parameters():
        if not isinstance(parameter, DTensor):
            parameter.data = parameter.data.to(device)
    for buffer in model.buffers():
        buffer.data = buffer.data.to(device)
    # accelerate would place the model by this map, which still names the loading device.
    if hasattr(base, "hf_device_map"):
        del base.hf_device_map
    # DDP averages the adapter's gradients; by default it also verifies and broadcasts all other
    # weights.
    model._ddp_params_and_buffers_to_ignore = [
        name for name, parameter in model.named_parameters() if not parameter.requires_grad
    ]


def shard_bytes(model: PeftModel) -> tuple[int, int]:
    """Return the bytes of the sharded weights, in this process and over all processes."""
    local = total = 0
    for parameter in model.get_base_model().get_decoder().layers.parameters():
        if isinstance(parameter, DTensor):
            local += parameter.to_local().numel() * parameter.element_size()
            total += parameter.numel() * parameter.element_size()
    return local, total
