"""An interpreter of pickles that has no way to call anything.

A pickle is a program for a stack machine; Python's own machine imports and calls what the program names. This one knows
numbers, texts, containers and the few names in `GLOBALS`, for which it makes *descriptions* (`TensorRef`); every other
name raises `UnsafePickleError`. Decoding is `pickletools.genops`, which reads and never runs.
"""

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from reprlib import repr as short  # values come from the file: a few nested tuples could spell out gigabytes
from typing import IO, Any, TypeVar

import torch

from lienzo.errors import FormatError, UnsafePickleError

T = TypeVar("T")
STORAGES: Mapping[str, torch.dtype] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
INERT = ("pytorch_lightning.", "lightning.", "lightning_fabric.", "omegaconf.", "numpy.", "_codecs.", "collections.")
"""Names that training programs leave in checkpoints beside the weights. They become `Inert`; nothing is imported."""
MAX_NAME = 200
"""Characters of such a name."""


@dataclass(frozen=True)
class Global:
    """A name that the pickle asks for."""

    name: str


@dataclass(frozen=True)
class Inert:
    """Stands for an object that is neither tensor nor container and that nobody needs."""

    name: str


@dataclass(frozen=True)
class Storage:
    """Raw numbers somewhere in the file."""

    key: str
    dtype: torch.dtype


@dataclass(frozen=True)
class TensorRef:
    """Where a tensor lies; all counts in numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Mark:
    pass


MARK = _Mark()
CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
    "MARK": lambda: MARK,
}
LITERALS = frozenset(
    [
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BYTEARRAY8",
    ]
)
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def unpickle(file: IO[bytes] | Any, where: str, storages: dict[str, Storage] | None = None) -> Any:
    """Read one pickle from the file's position on.

    Args:
        file: anything with `read`, `readline` and `tell`.
        where: the file's name, for messages.
        storages: filled with the storages met, by key.

    Returns:
        dicts, lists, tuples, numbers, texts, `TensorRef` and `Inert`.

    Raises:
        UnsafePickleError: a name that is not known to be harmless, or an instruction that no checkpoint needs.
        FormatError: a damaged pickle.
    """
    machine = _Machine(where, storages if storages is not None else {})
    try:
        for opcode, argument, _ in pickletools.genops(file):
            machine.step(opcode.name, argument)
    except (UnsafePickleError, FormatError):
        raise
    except (
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        AttributeError,
        EOFError,
        OverflowError,
        MemoryError,
        RecursionError,
    ) as e:
        raise FormatError(
            f"{where}: the pickle is damaged ({type(e).__name__}: {str(e)[:100]}). Fetch the file again."
        ) from None
    return machine.result()


class _Machine:
    def __init__(self, where: str, storages: dict[str, Storage]) -> None:
        self.where, self.storages = where, storages
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def result(self) -> Any:
        if len(self.stack) != 1:
            raise FormatError(f"{self.where}: the pickle ends with {len(self.stack)} values instead of one.")
        return self.stack[0]

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in LITERALS:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name]())
        elif name in TUPLES:
            items = tuple(stack[-TUPLES[name] :])
            if len(items) != TUPLES[name]:
                raise FormatError(f"{self.where}: the pickle is damaged: {name} on {len(items)} values.")
            del stack[-TUPLES[name] :]
            stack.append(items)
        elif name == "TUPLE":
            stack.append(tuple(self._to_mark()))
        elif name == "LIST":
            stack.append(self._to_mark())
        elif name == "DICT":
            stack.append(_pairs(self._to_mark()))
        elif name == "FROZENSET":
            stack.append(frozenset(map(_key, self._to_mark())))
        elif name == "APPEND":
            value = stack.pop()
            _as(stack[-1], list).append(value)
        elif name == "APPENDS":
            items_ = self._to_mark()
            _as(stack[-1], list).extend(items_)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _as(stack[-1], dict)[_key(key)] = value
        elif name == "SETITEMS":
            pairs = _pairs(self._to_mark())
            _as(stack[-1], dict).update(pairs)
        elif name == "ADDITEMS":
            items_ = self._to_mark()
            _as(stack[-1], set).update(map(_key, items_))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[int(argument)])
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            self._to_mark()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "GLOBAL":
            stack.append(self._global(argument.replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            attribute, module = _as(stack.pop(), str), _as(stack.pop(), str)
            stack.append(self._global(f"{module}.{attribute}"))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, function = stack.pop(), stack.pop()
            stack.append(self._described(function, arguments))
        elif name == "NEWOBJ_EX":
            _, arguments, function = stack.pop(), stack.pop(), stack.pop()
            stack.append(self._described(function, arguments))
        elif name == "BUILD":
            stack.pop()  # the state of an OrderedDict or of an inert object; weights have none
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise UnsafePickleError(
                f"{self.where}: the pickle holds the instruction {name}, which no file of weights needs. "
                "Nothing of it was run."
            )

    def _to_mark(self) -> list[Any]:
        items: list[Any] = []
        while (item := self.stack.pop()) is not MARK:
            items.append(item)
        return items[::-1]

    def _global(self, name: str) -> Global:
        if name in KNOWN or (len(name) <= MAX_NAME and name.startswith(INERT)):
            return Global(name)
        raise UnsafePickleError(
            f"{self.where}: the pickle asks for {name[:MAX_NAME]!r}, which is no tensor. Nothing of it was run. If you trust where "
            "the file comes from, convert it to safetensors on a machine that you can spare."
        )

    def _described(self, function: Any, arguments: Any) -> Any:
        name = _as(function, Global).name
        arguments = _as(arguments, tuple)
        if name in ("collections.OrderedDict", "collections.defaultdict"):
            return {}
        if name == "torch.Size":
            return tuple(arguments[0])
        if name in ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"):
            storage, offset, shape, stride = arguments[:4]
            return _tensor_ref(self.where, storage, offset, shape, stride)
        if name in ("torch._utils._rebuild_parameter", "torch.nn.parameter.Parameter"):
            return _as(arguments[0], TensorRef)
        return Inert(name)

    def _storage(self, identity: Any) -> Storage:
        tag, kind, key = _as(identity, tuple)[:3]
        dtype = STORAGES.get(_as(kind, Global).name.rpartition(".")[2])
        if tag != "storage" or dtype is None or not isinstance(key, str):
            raise FormatError(f"{self.where}: the pickle names a storage of unknown kind.")
        return self.storages.setdefault(key, Storage(key, dtype))


DTYPES = frozenset(
    f"torch.{n}"
    for n in ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
)
KNOWN = frozenset(
    {
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        "torch.nn.parameter.Parameter",
        "torch.Size",
        "torch.device",
        *(f"torch.{name}" for name in STORAGES),
        *DTYPES,
    }
)
"""Names that describe tensors."""


def _tensor_ref(where: str, storage: Any, offset: Any, shape: Any, stride: Any) -> TensorRef:
    shape, stride = tuple(shape), tuple(stride)
    numbers = (offset, *shape, *stride)
    if (
        not isinstance(storage, Storage)
        or len(shape) != len(stride)
        or not all(type(n) is int and 0 <= n < 2**62 for n in numbers)
    ):
        raise FormatError(
            f"{where}: a tensor with offset {short(offset)}, shape {short(shape)} and stride {short(stride)} cannot be."
        )
    return TensorRef(storage, offset, shape, stride)


def _as(value: Any, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise ValueError(f"expected {kind.__name__}, got {type(value).__name__}")
    return value


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(map(_key, items[::2]), items[1::2], strict=True))


def _key(value: Any) -> Any:
    """A key of a dict or set. Tuples are refused: hashing a cunningly nested one takes for ever."""
    if value is not None and not isinstance(value, (str, bytes, int, float, Global, Inert)):
        raise ValueError(f"a {type(value).__name__} as a key")
    return value
