"""Writing so that a kill at any moment leaves either the old or the new."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from flowstill.errors import StorageFull


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a safetensors file and flush it to the disk."""
    try:
        save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, path)
        sync(path)
    except OSError as error:
        _full(error, path)
        raise
    except Exception as error:  # safetensors wraps ENOSPC into its own class
        if "os error 28" in str(error) or "No space left" in str(error):
            raise StorageFull(f"no space left for {path}; make room, the next attempt continues") from error
        raise


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file and flush it to the disk."""
    try:
        path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
        sync(path)
    except OSError as error:
        _full(error, path)
        raise


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


def _full(error: OSError, path: Path) -> None:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise StorageFull(f"no space left for {path}; make room, the next attempt continues") from error
