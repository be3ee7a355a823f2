"""Frozen 4-bit layers of which each process keeps one share (PyTorch's FSDP2).

Only what is frozen is shared out, and that is nearly all of a model: a layer is put together
where it is needed and falls apart again. The adapter stays whole in every process, so it is
averaged, saved and resumed as in a run whose processes hold everything, by any number of them.
Embedding and head stay whole as well: the loss reads the head directly.
"""

import torch
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor


def shard_frozen_layers(model: PeftModel, device: torch.device) -> None:
    """Share the frozen weights of every decoder layer out over the processes of the run.

    Args:
        model: With its adapter; its 4-bit weights must be stored as floating-point numbers, of
            the type of the other weights (``load_base_model(…, quant_storage=…)``).
        device: Of this process.
    """
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    base = model.get_base_model()
    decoder = base.get_decoder()
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    for layer in decoder.layers:
        fully_shard(layer, mesh=mesh, ignored_params=trained, reshard_after_forward=True)
    # Nothing of the decoder's own is shared out, but with it the layers know of each other: one
    # is fetched while another computes.
    fully_shard(decoder, mesh=mesh, ignored_params=set(decoder.parameters()))
    for module in model.modules():
        if isinstance(module, Linear4bit):
            # Scales of the blocks: a thirtieth of the weights, and not a parameter.
            module.quant_state.to(device)
    for parameter in model.parameters():
        if not isinstance(parameter, DTensor):
            parameter.data = parameter.data.to(device)
    for buffer in model.buffers():
        buffer.data = buffer.data.to(device)
    # Where it was loaded is not where it is, and accelerate would go by it.
    if hasattr(base, "hf_device_map"):
        del base.hf_device_map
    # DDP, which averages the adapter's gradients, compares and sends round all other weights.
    model._ddp_params_and_buffers_to_ignore = [
        name for name, parameter in model.named_parameters() if not parameter.requires_grad
    ]


def shard_bytes(model: PeftModel) -> tuple[int, int]:
    """Bytes of the layers' frozen weights that this process keeps, and that all keep together."""
    kept = whole = 0
    for parameter in model.get_base_model().get_decoder().layers.parameters():
        if isinstance(parameter, DTensor):
            kept += parameter.to_local().numel() * parameter.element_size()
            whole += parameter.numel() * parameter.element_size()
    return kept, whole
