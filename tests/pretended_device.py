"""A pretended GPU, which finds what only a GPU would show: tensors that say ``cuda``, compute on
the CPU, refuse what CUDA refuses, and note each place where the host would wait for the device.

A tensor on it is a wrapper without memory around a tensor on the CPU. Refused are operations on
tensors of two devices, numpy's view of a tensor on the GPU, and a generator of the other device.
Pixels (four axes) that are divided by a number are multiplied by its reciprocal, as CUDA does.
Waits are noted, with the line of ``ltcache/`` that asked: reading a value or a size (``item``,
``nonzero``, ``unique``, a mask as index), and copies between memory of the device and memory that
is not pinned, or that are not told to return at once. What a GPU computes, and how fast, it cannot
tell.
"""

from __future__ import annotations

import linecache
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

import ltcache

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
aten = torch.ops.aten
_PACKAGE = str(Path(ltcache.__file__).parent)
_HostGenerator = torch.Generator
OUTSIDE = "outside of the package"
"""In place of a line of the package, where a test itself waits."""

READS = {
    aten._local_scalar_dense.default: "item",
    aten.equal.default: "equal",
    aten.nonzero.default: "nonzero",
    aten._unique2.default: "unique",
    aten.unique_dim.default: "unique",
    aten.unique_consecutive.default: "unique",
    aten.masked_select.default: "masked_select",
    aten.repeat_interleave.Tensor: "repeat_interleave",
    aten.bincount.default: "bincount",
    aten._linalg_eigh.default: "eigh",
}
"""Operations after which the host knows a value or a size that the device has found."""

_INDEXING = {
    aten.index.Tensor,
    aten._unsafe_index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}
_COPIES = {aten.copy_.default, aten._to_copy.default}


class DeviceMixError(AssertionError):
    """What CUDA would have refused."""


class WaitLog(Counter[tuple[str, str]]):
    """(kind, line of ``ltcache/``) -> how often the host waited there."""

    def note(self, kind: str) -> None:
        """Count a wait where it is asked for."""
        self[kind, _line()] += 1

    def __sub__(self, other: Mapping[tuple[str, str], int]) -> WaitLog:  # type: ignore[override]
        return WaitLog({k: n - other.get(k, 0) for k, n in self.items() if n > other.get(k, 0)})


_log = WaitLog()
_pinned: dict[int, Tensor] = {}  # by the address of their memory, kept so that none is used again
_registered: dict[int, int] = {}  # address -> bytes of memory that was there and was pinned


def _line() -> str:
    """Return the innermost line of the package on the stack."""
    frame = sys._getframe()
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_PACKAGE):
            line = linecache.getline(name, frame.f_lineno).strip()
            return f"{Path(name).relative_to(_PACKAGE)}: {line}"
        frame = frame.f_back  # type: ignore[assignment]
    return OUTSIDE


def is_on_device(value: Any) -> bool:
    """Whether a value is a tensor on the pretended device."""
    return isinstance(value, PretendedTensor)


class PretendedGenerator(torch.Generator):
    """A generator that knows which device it was made for."""

    def __new__(cls, device: Any = CPU) -> PretendedGenerator:
        return super().__new__(cls, CPU)

    def __init__(self, device: Any = CPU) -> None:
        self.kind = torch.device(device).type

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """The device that it was made for."""
        return CUDA if self.kind == "cuda" else CPU


class PretendedTensor(torch.Tensor):
    """A tensor on the pretended device; ``inner`` has its values, on the CPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor, requires_grad: bool = False) -> PretendedTensor:
        made: Any = torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, device=torch.device("meta"), requires_grad=requires_grad,
        )  # fmt: skip
        made.inner = inner.detach()
        return made  # type: ignore[no-any-return]

    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    def get_device(self) -> int:
        """Return the number of the device."""
        return 0

    def record_stream(self, stream: Any) -> None:
        """Do nothing: memory is not taken back while it is used."""

    def __repr__(self) -> str:  # type: ignore[override]
        return f"pretended({self.inner})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) in memo:
            return memo[id(self)]
        made: Tensor = PretendedTensor(self.inner.clone(), self.requires_grad)
        if getattr(self, "_is_param", False):
            made = torch.nn.Parameter(made, self.requires_grad)
        memo[id(self)] = made
        return made

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        return _dispatch(func, args, kwargs or {})


class _Dispatch(TorchDispatchMode):
    """Also catches operations that name the device and have no tensor on it."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, which takes seconds

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        return _dispatch(func, args, kwargs or {})


def _names_device(device: Any) -> bool:
    return torch.device(device).type in ("cuda", "meta")  # tensors' own options say meta


def _inner(value: Any) -> Any:
    return value.inner if is_on_device(value) else value


def _wrapped(value: Any) -> Any:
    return (
        PretendedTensor(value) if isinstance(value, Tensor) and not is_on_device(value) else value
    )


def _changed(change: Callable[[Any], Any], value: Any) -> Any:
    """Return a value with every leaf of its lists and tuples changed."""
    if isinstance(value, list | tuple):
        return type(value)([_changed(change, part) for part in value])
    return change(value)


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tensors among values and in their lists and tuples."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _dispatch(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Compute an operation on the CPU, once it was found to be one that CUDA allows."""
    tensors = [*_tensors(args), *_tensors(kwargs.values())]
    there = [tensor for tensor in tensors if is_on_device(tensor)]
    if len(there) < len(tensors):
        past = [t for t in tensors if not is_on_device(t) and t.is_meta]
        assert not past, f"a tensor was made past the pretence at {_line()}"
    named = kwargs.get("device")
    on_device = _names_device(named) if named is not None else bool(there)
    if func in _COPIES:
        _note_copy(func, args, kwargs, on_device)
    elif there:
        _require_one_device(func, args, tensors)
        if func in READS:
            _log.note(READS[func])
        func, args = _as_factor(func, args)
    plain = {k: v for k, v in kwargs.items() if k not in ("device", "pin_memory")}
    if named is not None:
        plain["device"] = CPU
    found = func(
        *_changed(_inner, tuple(args)), **{k: _changed(_inner, v) for k, v in plain.items()}
    )
    if func is aten.copy_.default:
        return args[0]
    if not on_device or next(_tensors([found]), None) is None:
        return found
    return return_and_correct_aliasing(func, args, kwargs, _changed(_wrapped, found))


def _as_factor(func: Any, args: Sequence[Any]) -> tuple[Any, Sequence[Any]]:
    """Return a division of pixels by a number as the product that CUDA makes of it, which may be
    one bit off; other divisions stay, so that a fit has the CPU's bits."""
    if func is not aten.div_.Tensor or args[0].dim() != 4:
        return func, args
    if isinstance(args[1], Tensor) and (is_on_device(args[1]) or args[1].dim()):
        return func, args
    return aten.mul_.Tensor, (args[0], 1 / float(args[1]))


def _require_one_device(func: Any, args: Sequence[Any], tensors: Sequence[Tensor]) -> None:
    """Refuse tensors of two devices, but for scalars and for indices, which are copied."""
    if func in _INDEXING:
        if not is_on_device(args[0]):
            raise DeviceMixError(f"a tensor on the CPU has indices on the GPU at {_line()}")
        indices = [index for index in args[1] if index is not None]
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            _log.note("mask as index")
        if any(not is_on_device(index) for index in indices):
            _log.note("copy to the device")
        tensors = [tensor for tensor in tensors if all(tensor is not index for index in indices)]
    left = [tuple(t.shape) for t in tensors if not is_on_device(t) and t.dim()]
    if left:
        raise DeviceMixError(f"{func} gets tensors {left} on the CPU beside the GPU's at {_line()}")


def _note_copy(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], there: bool) -> None:
    if func is aten.copy_.default:
        target, source = args[:2]
        at_once = kwargs.get("non_blocking") or (len(args) > 2 and args[2])
        to_device, host = is_on_device(target), source if is_on_device(target) else target
    else:
        source, at_once, to_device = args[0], kwargs.get("non_blocking"), there
        host = source if to_device else None
    if to_device == is_on_device(source):
        return
    if not at_once or host is None or not _is_pinned(host):
        _log.note("copy to the device" if to_device else "copy to the CPU")


def _is_pinned(tensor: Tensor) -> bool:
    place = tensor.untyped_storage().data_ptr()
    there = (start <= place < start + size for start, size in _registered.items())
    return place in _pinned or any(there)


def _pin(tensor: Tensor) -> Tensor:
    _pinned[tensor.untyped_storage().data_ptr()] = tensor
    return tensor


class _Functions(TorchFunctionMode):
    """What is decided before an operation is dispatched: by names of devices, and in C++."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        args = tuple(map(_numbered, args))
        kwargs = {key: _numbered(value) for key, value in (kwargs or {}).items()}
        _require_own_generator(name, args, kwargs)
        if name in _SPECIAL:
            return _SPECIAL[name](func, args, kwargs)
        if kwargs.pop("pin_memory", False):
            return _pin(func(*args, **kwargs))
        return func(*args, **kwargs)


def _numbered(value: Any) -> Any:
    """Return ``cuda`` as the device with its number: it is asked for as often without."""
    if value == "cuda" if isinstance(value, str) else isinstance(value, torch.device):
        return CUDA if torch.device(value).type == "cuda" else value
    return value


def _require_own_generator(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    generator = kwargs.get("generator")
    if generator is None:
        return
    named = kwargs.get("device")
    first = bool(args) and is_on_device(args[0])
    wanted = "cuda" if (_names_device(named) if named is not None else first) else "cpu"
    if getattr(generator, "kind", "cpu") != wanted:
        raise DeviceMixError(f"{name} on {wanted} gets the other device's generator at {_line()}")


def _to(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Do as ``Tensor.to``, which asks in C++ where a tensor is."""
    tensor, rest = args[0], [*args[1:], *kwargs.values()]
    like = next((value for value in rest if isinstance(value, Tensor)), None)
    if like is not None:
        return tensor.to(like.device, like.dtype)
    where = [value for value in rest if isinstance(value, torch.device | str)]
    kind = next((value for value in rest if isinstance(value, torch.dtype)), tensor.dtype)
    stays = is_on_device(tensor) and (not where or torch.device(where[0]).type == "cuda")
    if not stays or kwargs.get("copy") or kwargs.get("memory_format"):
        return func(*args, **kwargs)
    return tensor if kind == tensor.dtype else func(tensor, kind)


def _made_on_device(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Do as ``torch.tensor`` and ``torch.as_tensor``, which copy values from the host."""
    named = kwargs.pop("device", None)
    if named is None or not _names_device(named):
        return func(*args, **kwargs, **({} if named is None else {"device": named}))
    if is_on_device(args[0]):
        return args[0].to(**kwargs)
    _log.note("copy to the device")
    return PretendedTensor(func(*args, **kwargs))


def _new_tensor(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    tensor, value = args
    if not is_on_device(tensor):
        return func(*args, **kwargs)
    return _made_on_device(
        torch.tensor, (value,), {"dtype": tensor.dtype, "device": CUDA, **kwargs}
    )


def _read(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    if not is_on_device(args[0]):
        return func(*args, **kwargs)
    _log.note("item")
    return func(args[0].inner, *args[1:], **kwargs)


def _no_numpy(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    if is_on_device(args[0]):
        raise DeviceMixError(f"numpy is given a tensor on the GPU at {_line()}")
    return func(*args, **kwargs)


def _pinned_copy(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    if is_on_device(args[0]):
        raise DeviceMixError(f"a tensor on the GPU is to be pinned at {_line()}")
    return _pin(args[0].clone())


def _get(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    tensor, index = args
    if is_on_device(tensor):
        index = _index_on_device(index)
    return func(tensor, index)


def _index_on_device(index: Any) -> Any:
    """Return an index whose lists were copied to the device."""
    if isinstance(index, tuple):
        return tuple(map(_index_on_device, index))
    if not isinstance(index, list):
        return index
    return _made_on_device(torch.tensor, (index,), {"device": CUDA})


def _set(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    tensor, index, value = args
    tracked = torch.is_grad_enabled() and any(
        isinstance(t, Tensor) and t.requires_grad for t in (tensor, value)
    )
    if tracked or not any(map(is_on_device, _tensors(args))):
        return func(*args)
    if not is_on_device(tensor):
        if is_on_device(value):
            _log.note("copy to the CPU")
        return func(tensor, _changed(_inner, index), _inner(value))
    if isinstance(value, Tensor) and not is_on_device(value) and value.dim():
        _log.note("copy to the device")
    for part in index if isinstance(index, tuple) else (index,):
        if isinstance(part, list) or (isinstance(part, Tensor) and not is_on_device(part)):
            _log.note("copy to the device")
        if isinstance(part, Tensor) and part.dtype == torch.bool and isinstance(value, Tensor):
            _log.note("mask as index")
    return func(tensor.inner, _changed(_inner, index), _inner(value))


_SPECIAL: dict[str, Callable[[Any, Sequence[Any], dict[str, Any]], Any]] = {
    "to": _to,
    "cuda": lambda func, args, kwargs: args[0].to(CUDA),
    "tensor": _made_on_device,
    "as_tensor": _made_on_device,
    "asarray": _made_on_device,
    "new_tensor": _new_tensor,
    "numpy": _no_numpy,
    "__array__": _no_numpy,
    "pin_memory": _pinned_copy,
    "is_pinned": lambda func, args, kwargs: _is_pinned(args[0]),
    "__getitem__": _get,
    "__setitem__": _set,
    **dict.fromkeys(("item", "tolist", "__float__", "__int__", "__bool__", "__index__"), _read),
}


class _Event:
    """An event: to wait for one is meant."""

    def __init__(self, *args: Any, **options: Any) -> None: ...

    def record(self, *args: Any) -> None: ...

    def synchronize(self) -> None: ...


class _Stream(_Event):
    def wait_stream(self, other: Any) -> None: ...


class _Runtime:
    """What CUDA's own library is asked for."""

    @staticmethod
    def cudaHostRegister(place: int, size: int, flags: int) -> int:
        _registered[place] = size
        return 0

    @staticmethod
    def cudaHostUnregister(place: int) -> int:
        del _registered[place]
        return 0


_PATCHES: dict[str, Any] = {
    # views of wrappers cannot be made in inference mode
    "torch._C._InferenceMode": lambda mode: torch.no_grad() if mode else nullcontext(),
    "torch.cuda._lazy_init": lambda: None,
    "torch.cuda.is_available": lambda: True,
    "torch.cuda.device_count": lambda: 1,
    "torch.cuda.current_device": lambda: 0,
    "torch.cuda.set_device": lambda device: None,
    "torch.cuda.get_device_name": lambda *args: "a pretended GPU",
    "torch.cuda.get_device_capability": lambda *args: (9, 0),
    "torch.cuda.manual_seed_all": lambda seed: None,
    "torch.cuda.get_rng_state": lambda *args: torch.empty(0),
    "torch.cuda.set_rng_state": lambda *args: None,
    "torch.cuda._is_in_bad_fork": lambda: False,
    "torch.cuda.cudart": _Runtime,
    "torch.cuda.Event": _Event,
    "torch.cuda.Stream": _Stream,
    "torch.cuda.current_stream": lambda *args: _Stream(),
    "torch.cuda.stream": lambda stream: nullcontext(),
    "torch.cuda.device": lambda device: nullcontext(),
    "torch.cuda.mem_get_info": lambda *args: (8 << 30, 8 << 30),
    "torch.optim.Optimizer._accelerator_graph_capture_health_check": lambda self: None,
}


@contextmanager
def pretended_device() -> Iterator[WaitLog]:
    """Let this process have one GPU, ``cuda:0``; what the host waits for is noted in the log."""
    _log.clear()
    with ExitStack() as stack:
        for name, value in _PATCHES.items():
            stack.enter_context(mock.patch(name, value))
        for module in list(sys.modules.values()):
            if getattr(module, "Generator", None) is _HostGenerator:
                stack.enter_context(mock.patch.object(module, "Generator", PretendedGenerator))
        stack.enter_context(_Dispatch())
        stack.enter_context(_Functions())
        yield _log
    _pinned.clear()
    assert not _registered, "memory is still pinned"
