"""A virtual CUDA device: its tensors say ``cuda:0``, are computed on the CPU, and refuse operands of the CPU.

On a machine without a GPU a tensor left on the wrong device goes unseen, for there is only one. Here it is an error, as
it would be on the device, and what makes the host wait for the device is counted.

It shows: operands on two devices (but for a single number of the CPU, and for CPU indices within brackets, as torch
allows), a random generator of the other device, ``numpy`` on a tensor of the device, code that runs where ``is_cuda``
holds, and every read of the host. It cannot show: CUDA kernels' own rounding, order of summation and lack of
deterministic forms; dtypes that a kernel does not take; the kernels of fused attention (the tests use eager);
gradients; pinned memory; streams, so that a read too early after ``non_blocking`` is none here. Like torch's own fake
tensors it relies on private parts of torch: the wrapper subclass and the guard without a device.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

CUDA = torch.device("cuda:0")
READS = {
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "equal",
    "linalg_eigh",
    "_linalg_eigh",
    "_linalg_svd",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
}
"""Operations whose CUDA kernels give the host a number, be it the size of their result or an error code."""
COPIES = {"_to_copy", "copy_"}
BRACKETS = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}


class OnDevice(Tensor):
    """A tensor of the device. ``held``: its values, on the CPU."""

    held: Tensor

    __torch_function__ = torch._C._disabled_torch_function_impl  # its operations are seen below Python

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        made = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=CUDA,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{function}: a tensor of the virtual device is computed with only within VirtualCuda()")

    def tolist(self) -> Any:
        return self.cpu().tolist()  # as torch does, but for subclasses

    def __format__(self, form: str) -> str:
        return format(self.item(), form) if not self.ndim else repr(self)  # likewise

    def __repr__(self) -> str:
        return f"OnDevice({self.held!r})"


class VirtualCuda(TorchDispatchMode):
    """While it is on, ``cuda`` is a device.

    Attributes:
        reads: operations since the start that made the host wait for a value of the device, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []

    def __enter__(self) -> VirtualCuda:
        torch._C._ensureCUDADeviceGuardSet()  # without a driver: switching to the device does nothing
        self._before = torch.cuda._lazy_init, torch.tensor, torch._C._only_lift_cpu_tensors()
        torch.cuda._lazy_init = lambda: None
        torch.tensor = _reading(torch.tensor)
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(list, device) makes it on the CPU, then moves it
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        torch.cuda._lazy_init, torch.tensor, lifted = self._before
        torch._C._set_only_lift_cpu_tensors(lifted)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = function.overloadpacket.__name__
        tensors = list(_tensors((args, *kwargs.values())))
        ours = {id(tensor.held): tensor for tensor in tensors if isinstance(tensor, OnDevice)}
        target = _target(kwargs, bool(ours))
        if ours and name not in COPIES:
            _refuse_mixed(name, _tensors((args[:1], args[2:])) if name in BRACKETS else tensors)
        _refuse_generator(name, kwargs, target)
        if ours and _waits(name, args, kwargs, target):
            self.reads.append(name)
        if target == CUDA.type and "device" in kwargs:
            kwargs["device"] = torch.device("cpu")
        result = function(*_mapped(_held, args), **{key: _mapped(_held, value) for key, value in kwargs.items()})
        if function._schema.is_mutable and any(tensor.held.shape != tensor.shape for tensor in ours.values()):
            raise NotImplementedError(f"{name} changes the shape of a tensor of the virtual device in place")
        if name == "copy_":
            return args[0]
        if target != CUDA.type:
            return result
        return _mapped(lambda tensor: ours[id(tensor)] if id(tensor) in ours else OnDevice(tensor), result)


def _tensors(value: Any) -> Iterator[Tensor]:
    """Those within nested lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _mapped(change: Callable[[Tensor], Any], value: Any) -> Any:
    """The value with each tensor within nested lists and tuples changed."""
    if isinstance(value, Tensor):
        return change(value)
    return type(value)(_mapped(change, item) for item in value) if type(value) in (list, tuple) else value


def _reading(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``torch.tensor`` reads the tensors of a list one by one, below where a mode would see it."""

    def made(data: Any, **options: Any) -> Tensor:
        return make(data if isinstance(data, Tensor) else _mapped(_read, data), **options)

    return made


def _read(value: Tensor) -> Any:
    return value.tolist() if isinstance(value, OnDevice) else value


def _target(kwargs: Mapping[str, Any], ours: bool) -> str:
    """Kind of device on which the result lies: the one that is named, else the operands'."""
    named = kwargs.get("device")
    return torch.device(named).type if named is not None else CUDA.type if ours else "cpu"


def _refuse_mixed(name: str, operands: Iterable[Tensor]) -> None:
    foreign = [tuple(tensor.shape) for tensor in operands if not isinstance(tensor, OnDevice) and tensor.ndim]
    if foreign:
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, but those of {foreign} are on cpu")


def _refuse_generator(name: str, kwargs: Mapping[str, Any], target: str) -> None:
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type != target:
        raise RuntimeError(f"{name}: a generator of {generator.device.type} cannot draw on {target}")


def _waits(name: str, args: Any, kwargs: Mapping[str, Any], target: str) -> bool:
    """Whether the host has to wait: for a number, for the size of a mask, or for a copy."""
    if name == "_to_copy":
        return target != CUDA.type
    if name == "copy_":
        return not isinstance(args[0], OnDevice)
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None
    masked = name in BRACKETS and any(tensor.dtype == torch.bool for tensor in _tensors(args[1:2]))
    return masked or name in READS


def _held(value: Tensor) -> Tensor:
    return value.held if isinstance(value, OnDevice) else value


def on_device(values: Mapping[str, Any]) -> dict[str, Any]:
    """A processor's inputs, moved to the device."""
    return {name: OnDevice(value.clone()) if isinstance(value, Tensor) else value for name, value in values.items()}


def model_on_device(model: nn.Module) -> Any:
    """A copy of the model whose parameters and buffers lie on the device."""
    moved = copy.deepcopy(model)
    with VirtualCuda():
        for module in moved.modules():
            for name, parameter in _present(module._parameters):
                module._parameters[name] = nn.Parameter(OnDevice(parameter.detach()), requires_grad=False)
            for name, buffer in _present(module._buffers):
                module._buffers[name] = OnDevice(buffer)
    return moved


def _present(values: Mapping[str, Tensor | None]) -> Iterable[tuple[str, Tensor]]:
    return [(name, value) for name, value in values.items() if value is not None]
