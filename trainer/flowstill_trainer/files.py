"""Writing so that a kill at any moment leaves either the old or the new."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from flowstill.artifacts.atomic import storage_full, write_atomic


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a safetensors file and flush it to the disk.

    Raises:
        StorageFull: it did not fit; what was written is removed, because the child still has to say so.
    """
    try:
        with storage_full(path.name, path.parent):
            save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, path)
            sync(path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file and flush it to the disk."""
    write_atomic(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fresh_folder(path: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def commit_folder(temporary: Path, final: Path) -> None:
    """Give a finished folder its name; one that is already there is replaced."""
    sync(temporary)
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    sync(final.parent)
