"""A file of torch.save: its tensors and plain values, without running its pickle here."""

import json
import math
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from generator.checkpoint import in_short, shape_faults
from generator.importing.unpickling import PICKLE, pickle_record

BLOCK_BYTES = 16 * 2**20


class InvalidCheckpoint(ValueError):
    """A file that is no checkpoint, or one that is damaged or contradicts itself."""


class TensorReference(BaseModel):
    """Where a tensor's numbers lie: a strided view of one record of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    dtype: Literal["float64", "float32", "float16", "bfloat16", "int64", "int32"]
    record: str
    offset: int
    shape: list[int]
    stride: list[int]


class TorchFile:
    """What a file of torch.save holds. Raises InvalidCheckpoint, saying what is wrong with it.

    tensors: references to its top-level tensors by name, none of them read yet
    values: the other top-level entries, plain: an object is the dictionary of its fields, a set a
        sorted list, a tensor inside it the dictionary of its reference
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        described = _described(path)
        self.tensors = {name: self.reference(name, x) for name, x in described["tensors"].items()}
        self.values: dict[str, Any] = described["values"]
        self._archive = zipfile.ZipFile(path)
        folder = pickle_record(self._archive).removesuffix(PICKLE)
        # by their names inside the folder that torch.save puts all of them in
        self._records = {
            record.filename.removeprefix(folder): record for record in self._archive.infolist()
        }
        if "byteorder" in self._records and self._bytes("byteorder", "byteorder") != b"little":
            raise InvalidCheckpoint(f"{path}: its numbers are big-endian, they must be little")

    def reference(self, name: str, described: object) -> TensorReference:
        """What refers to a tensor inside a value. Raises InvalidCheckpoint, calling it ``name``."""
        try:
            return TensorReference.model_validate(described)
        except ValidationError:
            raise InvalidCheckpoint(f"{self.path}: {name} is no tensor") from None

    def read(self, name: str, reference: TensorReference) -> Tensor:
        """The tensor, in its own type. Raises InvalidCheckpoint, calling it ``name``."""
        content = self._bytes(name, f"data/{reference.record}")
        try:
            numbers = torch.frombuffer(content, dtype=getattr(torch, reference.dtype))
            # a view of more numbers than there are would be a way to take all memory
            if math.prod(reference.shape) > len(numbers):
                raise ValueError
            return numbers.as_strided(reference.shape, reference.stride, reference.offset).clone()
        except (RuntimeError, ValueError):
            raise InvalidCheckpoint(
                f"{self.path}: {name} of {reference.dtype} and shape {reference.shape} does not "
                f"fit into its storage of {len(content)} bytes"
            ) from None

    def weights(
        self, references: Mapping[str, TensorReference], expected: Mapping[str, list[int]]
    ) -> dict[str, Tensor]:
        """The tensors of these names and shapes, and of no others, in float32. Raises
        InvalidCheckpoint, naming each that is missing, unexpected or of the wrong shape, with both
        shapes, and the first that is not finite.
        """
        shapes = {name: reference.shape for name, reference in references.items()}
        if faults := shape_faults(shapes, expected):
            raise InvalidCheckpoint(f"{self.path}: {in_short(faults)}")
        tensors = {}
        for name in expected:
            tensors[name] = self.read(name, references[name]).float()
            if not tensors[name].isfinite().all():
                raise InvalidCheckpoint(f"{self.path}: {name} holds values that are not finite")
        return tensors

    def _bytes(self, name: str, record: str) -> bytearray:
        """A record's content, which is ``name``'s. Raises InvalidCheckpoint, naming that."""
        content = bytearray()
        try:
            with self._archive.open(self._records[record]) as file:
                while block := file.read(BLOCK_BYTES):
                    content += block
        except (KeyError, OSError, zipfile.BadZipFile) as error:
            raise InvalidCheckpoint(f"{self.path}: {name} cannot be read: {error}") from None
        if not content:
            raise InvalidCheckpoint(f"{self.path}: {name} holds no numbers")
        return content


def _described(path: Path) -> Any:
    """The child's answer: see unpickling.py."""
    command = [sys.executable, "-m", "generator.importing.unpickling", str(path.resolve())]
    child = subprocess.run(command, capture_output=True)
    try:
        answer = json.loads(child.stdout)
    except ValueError:
        raise InvalidCheckpoint(
            f"{path}: its pickle takes more time or memory to read than any checkpoint's"
        ) from None
    if "refused" in answer:
        raise InvalidCheckpoint(f"{path}: {answer['refused']}")
    return answer
