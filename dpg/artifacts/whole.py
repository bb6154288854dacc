"""Files and folders that are whole or absent, on every file system, even on a full one."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from dpg.errors import DpgError
from dpg.quantities import in_bytes


class ArtifactError(DpgError):
    """A file cannot be written, or its content is not what it should be; names file and fault."""


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path` that is renamed to `path` if the block raises no error.

    The block creates a file or a directory at the temporary path. Its name is hidden and keeps the
    suffix of `path`, since some writers choose their format by the suffix. Missing parent
    directories are made. If the block raises, the temporary file is removed and `path` does not
    change. What a killed process of this machine left is removed by the next call for the same
    `path`.

    A file replaces its predecessor in one step. Replacing a directory takes two renames, and a
    process killed between them leaves neither directory under the name. So what must survive goes
    into a file, or into a directory with a new name (`step_0040`, not `latest`).

    Args:
        path: where the result belongs.

    Yields:
        The temporary path; nothing exists there yet.

    Raises:
        ArtifactError: the block created nothing; the disk is full, broken or read-only, or the
            folder cannot be made (names the file, the reason and the free space).
    """
    path = Path(path)
    partial = path.with_name(f"{_partial_prefix(path)}{os.getpid()}{path.suffix}")
    with naming_fault(path, any_fault=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        _remove(partial)
    try:
        with naming_fault(path):
            yield partial
        with naming_fault(path, any_fault=True):
            _keep(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):  # on a broken disk; the first error matters more
            _remove(partial)
        raise


def _keep(partial: Path, path: Path) -> None:
    """Sync the temporary file or directory to the disk and give it its final name."""
    if not partial.exists():
        raise ArtifactError(f"{path}: nothing was written, so there is nothing to keep")
    _sync_tree(partial)
    if path.is_dir() and not path.is_symlink():
        retired = path.with_name(f"{_partial_prefix(path)}{os.getpid()}.old")
        _remove(retired)
        path.rename(retired)
        partial.rename(path)
        _remove(retired)
    else:
        partial.replace(path)
    _sync_folder(path.parent)


# --- errors of the disk ----------------------------------------------------------------------

_FULL = {errno.ENOSPC, errno.EDQUOT}
_UNUSABLE = {errno.EIO, errno.EROFS}
DISK_FAULTS = frozenset(_FULL | _UNUSABLE)
"""The system's error numbers for a disk that is full, broken or read-only."""

_NO_FOLDER_SYNC = {errno.EINVAL, errno.EPERM, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP}
# The words for ENOSPC and EDQUOT in the messages of libraries that raise their own errors.
_FULL_WORDS = tuple(os.strerror(number) for number in sorted(_FULL))


@contextlib.contextmanager
def naming_fault(path: str | Path, *, any_fault: bool = False) -> Iterator[None]:
    """Turn an error of the disk into an error that says which file, why, and what to do.

    Args:
        path: the file that is written.
        any_fault: convert every `OSError` of the block. Otherwise only errors of a disk that is
            full, broken or read-only are converted, and others are raised unchanged.

    Raises:
        ArtifactError: the converted error, with the original as its cause.
    """
    path = Path(path)
    try:
        yield
    except Exception as error:
        if _is_full(error):
            raise ArtifactError(
                f"{path}: the disk is full, or the quota is used up ({_free_at(path)}), so nothing "
                "of it was kept; free space there, then run the step again"
            ) from error
        if isinstance(error, OSError) and (any_fault or error.errno in _UNUSABLE):
            raise ArtifactError(
                f"{path}: cannot be written ({error.strerror or error}); expected a folder that "
                "can be written to: correct its permissions, or choose another place"
            ) from error
        raise


def _is_full(error: BaseException) -> bool:
    """Whether a full disk caused an error; safetensors and shutil wrap the system's error."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError) and found.errno in _FULL:
            return True
        if any(words in str(found) for words in _FULL_WORDS):
            return True
        found = found.__cause__ or found.__context__
    return False


def _free_at(path: Path) -> str:
    """The free space on a file's disk, such as "0 bytes free at results"."""
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return f"{in_bytes(shutil.disk_usage(folder).free)} free at {folder}"
    except OSError:
        return f"at {folder}"


def _partial_prefix(path: Path) -> str:
    # With the host's name: on a shared file system the process numbers of other machines do not
    # say which processes are alive.
    return f".{path.stem}.partial-{socket.gethostname()}-"


def _remove_leftovers(path: Path) -> None:
    prefix = _partial_prefix(path)
    for sibling in path.parent.iterdir():
        if not sibling.name.startswith(prefix):
            continue
        owner = sibling.name[len(prefix) :].split(".", 1)[0]
        if owner.isdigit() and not _alive(int(owner)):
            _remove(sibling)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    """Sync a folder's names to the disk, if its file system supports it.

    CIFS, shared folders of virtual machines and some FUSE file systems do not. The files themselves
    are already on the disk.
    """
    try:
        _sync(path)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def _sync_tree(path: Path) -> None:
    # Contents must be on the disk before the name is: otherwise some file systems show an empty
    # file under the new name after a power cut.
    if not path.is_dir():
        _sync(path)
        return
    for child in path.iterdir():
        if not child.is_symlink():
            _sync_tree(child)
    _sync_folder(path)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all.

    Raises:
        ArtifactError: as in `atomic_path`.
    """
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")
