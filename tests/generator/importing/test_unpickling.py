"""The pickle of a file that somebody else made is read, never believed."""

import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from generator.importing.torch_file import InvalidCheckpoint, TorchFile

GOOD = pickle.dumps({"note": "kept"}, protocol=2)


def archive(path: Path, pickled: bytes, record: str = "x/data.pkl") -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(record, pickled)
    return path


def asking_for(module: str, name: str) -> bytes:
    """A pickle that calls module.name("touch ran") and keeps the result."""
    return f"\x80\x02}}X\x01\0\0\0ac{module}\n{name}\nX\x09\0\0\0touch ran\x85Rs.".encode("latin1")


def test_tensors_and_plain_values_are_read(tmp_path: Path) -> None:
    x = torch.randn(4, 6)
    held = {
        "whole": x,
        "view": x.T[1:3],
        "half": torch.ones(3, dtype=torch.bfloat16),
        "plain": {"a": [1, 2.5, None, True], "inner": torch.arange(3)},
        "names": {"b", "a"},
    }
    torch.save(held, tmp_path / "file.bin")
    file = TorchFile(tmp_path / "file.bin")
    for name in ("whole", "view", "half"):
        assert torch.equal(file.read(name, file.tensors[name]), held[name])
    assert file.values["plain"]["a"] == [1, 2.5, None, True]
    inner = file.reference("inner", file.values["plain"]["inner"])
    assert file.read("inner", inner).tolist() == [0, 1, 2]
    assert file.values["names"] == ["a", "b"]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("posix", "system"),
        ("os", "system"),
        ("builtins", "eval"),
        ("__builtin__", "exec"),
        ("builtins", "getattr"),
        ("subprocess", "Popen"),
        ("torch", "load"),
        ("torch.storage", "_load_from_bytes"),
        ("collections", "Counter"),
        ("ctx_to_lora.modeling.hypernet", "os"),
    ],
)
def test_a_pickle_that_asks_for_anything_else_is_refused_by_name_and_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = archive(tmp_path / "evil.bin", asking_for(module, name))
    with pytest.raises(InvalidCheckpoint, match=rf"evil\.bin: .* asks for {module}\.{name},"):
        TorchFile(path)
    assert not (tmp_path / "ran").exists()


def test_an_attribute_of_an_admitted_name_is_refused(tmp_path: Path) -> None:
    pickled = b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.fromkeys\x93."
    with pytest.raises(InvalidCheckpoint, match=r"collections\.OrderedDict\.fromkeys"):
        TorchFile(archive(tmp_path / "evil.bin", pickled))


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (pickle.dumps([1], protocol=2), "does not hold a dictionary of names"),
        (pickle.dumps({1: 2}, protocol=2), "does not hold a dictionary of names"),
        (GOOD[:-4], "its pickle is damaged"),
        (b"hello", "its pickle is damaged"),
        (pickle.dumps({"a": b"raw"}, protocol=4), "a value of an unexpected type, bytes"),
        # a memo of 10^9 entries
        (b"\x80\x02K\x01r\xff\xff\xff\x3f.", "its pickle is damaged .MemoryError"),
        (
            b"\x80\x02}X\x01\0\0\0a" + b"]" * 100_000 + b"a" * 99_999 + b"s.",
            "nested too deeply",
        ),
        (b"\x80\x02}X\x01\0\0\0aX\x01\0\0\0bQs.", "a storage in it is malformed"),
        (
            b"\x80\x02}X\x01\0\0\0actorch._utils\n_rebuild_tensor_v2\n(K\x01K\x01K\x01K\x01tRs.",
            "a tensor in it is malformed",
        ),
    ],
)
def test_a_pickle_that_no_checkpoint_has_is_refused(
    tmp_path: Path, pickled: bytes, message: str
) -> None:
    with pytest.raises(InvalidCheckpoint, match=message):
        TorchFile(archive(tmp_path / "odd.bin", pickled))


def test_what_is_no_file_of_torch_save_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.bin"
    path.write_bytes(GOOD)
    with pytest.raises(InvalidCheckpoint, match=r"odd\.bin: it is not a file of torch\.save"):
        TorchFile(path)
    with pytest.raises(InvalidCheckpoint, match=r"0 records data\.pkl"):
        TorchFile(archive(path, GOOD, "x/other.pkl"))
    with pytest.raises(InvalidCheckpoint, match="cannot be read: No such file"):
        TorchFile(tmp_path / "nowhere.bin")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.bin"
    torch.save({"x": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InvalidCheckpoint, match="truncated or damaged"):
        TorchFile(path)


def test_damaged_numbers_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "bad.bin"
    torch.save({"x": torch.full((1000,), 3.25)}, path)
    numbers = torch.full((4,), 3.25).numpy().tobytes()
    content = path.read_bytes()
    path.write_bytes(content.replace(numbers, b"\1" * len(numbers), 1))
    file = TorchFile(path)
    with pytest.raises(InvalidCheckpoint, match="x cannot be read: Bad CRC"):
        file.read("x", file.tensors["x"])


def test_numbers_that_are_not_there_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "lacking.bin"
    torch.save({"x": torch.zeros(8)}, tmp_path / "whole.bin")
    with zipfile.ZipFile(tmp_path / "whole.bin") as whole, zipfile.ZipFile(path, "w") as file:
        for record in whole.namelist():
            if "/data/" not in record:
                file.writestr(record, whole.read(record))
    file_of_torch = TorchFile(path)
    with pytest.raises(InvalidCheckpoint, match=r"x cannot be read: .*data/0"):
        file_of_torch.read("x", file_of_torch.tensors["x"])


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [10**6], "stride": [0]},
        {"offset": 7},
        {"stride": [3]},
        {"dtype": "float64", "shape": [5]},
    ],
)
def test_a_view_beyond_its_storage_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    torch.save({"x": torch.zeros(8)}, tmp_path / "file.bin")
    file = TorchFile(tmp_path / "file.bin")
    reference = file.tensors["x"].model_copy(update=changes)
    with pytest.raises(InvalidCheckpoint, match=r"x of float.* shape .* does not fit .* 32 bytes"):
        file.read("x", reference)
