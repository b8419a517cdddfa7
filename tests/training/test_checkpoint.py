"""Files are written whole or not at all."""

import errno
import os
import stat
from contextlib import nullcontext

import pytest
import torch

from dfs_edu import files
from dfs_edu.training import checkpoint


def test_what_is_saved_comes_back(tmp_path):
    state = {"a": torch.arange(5), "b": [1.5, None, "x"], "c": {"d": True}}
    checkpoint.save(tmp_path / "new" / "folder" / "c.pt", state)
    back = checkpoint.load(tmp_path / "new" / "folder" / "c.pt")
    assert torch.equal(back.pop("a"), state.pop("a"))
    assert back == state


def full_disk(file):
    file.write(b"half of")
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("failure", [full_disk, lambda file: (_ for _ in ()).throw(KeyboardInterrupt)])
def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, failure):
    path = tmp_path / "file"
    files.write_whole(path, lambda file: file.write(b"old"))
    with pytest.raises((OSError, KeyboardInterrupt)):
        files.write_whole(path, failure)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_the_old_file_stands_until_the_new_one_is_on_the_disk(tmp_path, monkeypatch):
    path, seen = tmp_path / "file", []
    files.write_whole(path, lambda file: file.write(b"old"))
    plain = os.fsync

    def watched(descriptor):
        seen.append(path.read_bytes())
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    files.write_whole(path, lambda file: file.write(b"new"))
    assert seen[0] == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 half a zip"])
def test_a_damaged_checkpoint_is_named(tmp_path, content):
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"c\.pt: not a whole checkpoint"):
        checkpoint.load(tmp_path / "c.pt")


class Harmful:
    def __reduce__(self):
        return (os.mkdir, ("harm",))


def test_a_checkpoint_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"x": Harmful()}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        checkpoint.load(tmp_path / "c.pt")
    assert not (tmp_path / "harm").exists()


def test_a_missing_checkpoint_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        checkpoint.load(tmp_path / "none.pt")


def newest(folder):
    state = checkpoint.newest(folder)
    return state and state["step"]


def test_the_last_two_are_kept(tmp_path):
    assert newest(tmp_path) is None
    for step in (1, 2, 3):
        checkpoint.keep(tmp_path, {"step": step})
        assert newest(tmp_path) == step
    assert checkpoint.load(tmp_path / "checkpoint.before.pt")["step"] == 2
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_killed_between_the_renames_the_newest_is_still_found(tmp_path, monkeypatch, renames):
    """Of three: the next one is put beside, the newest becomes the one before, the next becomes the newest."""
    checkpoint.keep(tmp_path, {"step": 1})
    checkpoint.keep(tmp_path, {"step": 2})
    plain, done = os.replace, []

    def deadly(source, target):
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(target)
        plain(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", deadly)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.keep(tmp_path, {"step": 3})
    assert newest(tmp_path) == (3 if renames else 2)
    checkpoint.keep(tmp_path, {"step": 4})
    assert newest(tmp_path) == 4


@pytest.mark.parametrize("place", [0, 20, 40, 60, -1])
def test_a_single_flipped_bit_is_seen(tmp_path, place):
    checkpoint.keep(tmp_path, {"step": 1})
    checkpoint.keep(tmp_path, {"step": 2})
    content = bytearray((tmp_path / "checkpoint.pt").read_bytes())
    content[place] ^= 4
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.warns(UserWarning, match=r"checkpoint\.pt: not a whole checkpoint"):
        assert newest(tmp_path) == 1


def test_a_file_is_readable_as_any_new_one_is(tmp_path):
    (tmp_path / "plain").touch()
    files.write_whole(tmp_path / "ours", lambda file: file.write(b"1"))
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_a_killed_process_left_half_written_goes_with_the_next_checkpoint(tmp_path):
    left = tmp_path / f".{checkpoint.NEXT}.0123"
    left.write_bytes(b"half")
    checkpoint.keep(tmp_path, {"step": 1})
    assert os.listdir(tmp_path) == ["checkpoint.pt"]


@pytest.mark.skipif(os.name != "posix", reason="folders are forced to the disk on POSIX systems")
@pytest.mark.parametrize("number", ["EINVAL", "ENOTSUP", "ENOSYS", "EIO"])
def test_a_folder_that_cannot_be_forced_to_the_disk(number, tmp_path, monkeypatch):
    """As on some network file systems: the file is in place, so nothing is wrong. A fault of the disk is."""
    real, opened = os.fsync, len(os.listdir("/dev/fd"))

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(getattr(errno, number), os.strerror(getattr(errno, number)))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    for i in range(5):
        with pytest.raises(OSError, match="error") if number == "EIO" else nullcontext():
            checkpoint.keep(tmp_path, {"step": i})
    assert checkpoint.newest(tmp_path) == {"step": 4}
    assert len(os.listdir("/dev/fd")) == opened


def test_a_file_that_cannot_be_forced_to_the_disk_is_an_error(tmp_path, monkeypatch):
    def fsync(descriptor):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="Invalid argument"):
        checkpoint.save(tmp_path / "checkpoint.pt", {"step": 1})
    assert os.listdir(tmp_path) == []
