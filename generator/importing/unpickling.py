"""What a file of torch.save says it holds, read from its pickle without trusting it.

A pickle is a program. This one may name nothing but ``ADMITTED``, and each of those stands for
something inert: a container, a bag of fields, a reference to numbers that lie elsewhere in the
file. It runs in a child process of its own, with little memory and time and without the right to
write files, and its result is JSON; see torch_file.py for the other end.

Light: neither torch nor any class of the published code is imported here.
"""

import json
import pickle
import resource
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

MAX_PICKLE_BYTES = 64 * 2**20  # of names and shapes; published ones hold some 50 KB
MAX_MEMORY_BYTES = 2**30
MAX_SECONDS = 30
PICKLE = "data.pkl"


class Refused(Exception):
    """A file that is no checkpoint, or a pickle that asks for what is not admitted."""


class Fields:
    """Stands in for every class of the published code: keeps its fields, does nothing."""

    def __init__(self, *_: object) -> None:
        """Takes what the class would have been made from: a value of an enumeration."""


class Dtype:
    """Stands in for a torch storage class: the name of its numbers' type."""

    def __init__(self, name: str) -> None:
        self.name = name


class Storage:
    """Numbers that lie in a record of the file, by its name."""

    def __init__(self, dtype: str, record: str) -> None:
        self.dtype = dtype
        self.record = record


class TensorReference:
    """A view of a storage: what torch would make a tensor of."""

    def __init__(
        self, storage: object, offset: object, shape: object, stride: object, *_: object
    ) -> None:
        if not isinstance(storage, Storage) or not all(map(_are_counts, ([offset], shape, stride))):
            raise Refused("a tensor in it is malformed")
        self.described = {
            "dtype": storage.dtype,
            "record": storage.record,
            "offset": offset,
            "shape": shape,
            "stride": stride,
        }


# pickle's (module, name) -> what it gets instead; nothing else is admitted
ADMITTED: dict[tuple[str, str], object] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("__builtin__", "set"): set,
    ("torch._utils", "_rebuild_tensor_v2"): TensorReference,
    ("torch", "FloatStorage"): Dtype("float32"),
    ("torch", "DoubleStorage"): Dtype("float64"),
    ("torch", "HalfStorage"): Dtype("float16"),
    ("torch", "BFloat16Storage"): Dtype("bfloat16"),
    ("torch", "LongStorage"): Dtype("int64"),
    ("torch", "IntStorage"): Dtype("int32"),
    ("ctx_to_lora.modeling.hypernet", "HypernetConfig"): Fields,
    ("ctx_to_lora.modeling.aggregator", "AggregatorConfig"): Fields,
    ("ctx_to_lora.configs", "CtxEncoderArguments"): Fields,
    ("peft.tuners.lora.config", "LoraConfig"): Fields,
    ("peft.tuners.lora.config", "LoraRuntimeConfig"): Fields,
    ("peft.utils.peft_types", "PeftType"): Fields,
}


class Unpickler(pickle.Unpickler):
    """Admits ``ADMITTED`` and refuses everything else by its name."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return ADMITTED[module, name]
        except KeyError:
            raise Refused(
                f"its pickle asks for {module}.{name}, which no checkpoint of Doc-to-LoRA or "
                "Text-to-LoRA needs; nothing of it was run"
            ) from None

    def persistent_load(self, reference: Any) -> Storage:
        match reference:
            case ("storage", Dtype(name=dtype), str(record), str(), int()):
                return Storage(dtype, record)
        raise Refused("a storage in it is malformed")


def described(path: Path) -> dict[str, Any]:
    """The tensors and the other values of a file, as what JSON can say.

    ``tensors`` maps names to references, ``values`` the other names to plain values in which every
    object is the dictionary of its fields. Raises Refused.
    """
    held = _unpickled(path)
    if not isinstance(held, dict) or not all(isinstance(name, str) for name in held):
        raise Refused("it does not hold a dictionary of names")
    return {
        "tensors": {n: x.described for n, x in held.items() if isinstance(x, TensorReference)},
        "values": {n: _plain(x) for n, x in held.items() if not isinstance(x, TensorReference)},
    }


def pickle_record(archive: zipfile.ZipFile) -> str:
    """The name of the record that holds the pickle. Raises Refused if there is not exactly one."""
    records = [name for name in archive.namelist() if name.rpartition("/")[2] == PICKLE]
    if len(records) != 1:
        raise Refused(
            f"it is a zip archive with {len(records)} records {PICKLE}, not of torch.save"
        )
    return records[0]


def _unpickled(path: Path) -> object:
    with path.open("rb") as file:
        try:
            archive = zipfile.ZipFile(file)
            record = archive.getinfo(pickle_record(archive))
            if record.file_size > MAX_PICKLE_BYTES:
                raise Refused(f"its pickle has {record.file_size} bytes, above {MAX_PICKLE_BYTES}")
            with archive.open(record) as pickled:
                return Unpickler(pickled).load()
        except zipfile.BadZipFile as error:
            file.seek(0)
            if file.read(4) == b"PK\3\4":
                raise Refused(f"it is truncated or damaged ({error})") from None
            raise Refused("it is not a file of torch.save, which is a zip archive") from None


def _plain(value: object) -> object:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case TensorReference():
            return value.described
        case Fields():
            return _plain(vars(value))
        case dict():
            return {str(name): _plain(item) for name, item in value.items()}
        case set():
            return sorted(map(_plain, value), key=str)
        case list() | tuple():
            return [_plain(item) for item in value]
    raise Refused(f"it holds a value of an unexpected type, {type(value).__name__}")


def _are_counts(values: object) -> bool:
    return isinstance(values, Sequence) and all(type(n) is int and n >= 0 for n in values)


def _limit() -> None:
    """From now on: bounded memory and time, and no writing of files."""
    for kind, most in (
        (resource.RLIMIT_AS, MAX_MEMORY_BYTES),
        (resource.RLIMIT_CPU, MAX_SECONDS),
        (resource.RLIMIT_FSIZE, 0),
    ):
        resource.setrlimit(kind, (most, most))


def _answer(**message: object) -> None:
    json.dump(message, sys.stdout)
    sys.stdout.flush()


def _refuse(message: str) -> NoReturn:
    _answer(refused=message)
    raise SystemExit(1)


def main() -> None:
    """Describe the file named on the command line, on standard output."""
    _limit()
    try:
        answer = described(Path(sys.argv[1]))
    except Refused as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"it cannot be read: {error.strerror or error}")
    except RecursionError:
        _refuse("its values are nested too deeply")
    except Exception as error:  # a damaged pickle may raise nearly anything
        _refuse(f"its pickle is damaged ({type(error).__name__}: {error})")
    _answer(**answer)


if __name__ == "__main__":
    main()
