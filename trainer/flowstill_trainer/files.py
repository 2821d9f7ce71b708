"""Writing so that a kill at any moment leaves either the old or the new."""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from flowstill.artifacts.atomic import storage_full, write_atomic
from flowstill.artifacts.digests import file_digest

logger = logging.getLogger(__name__)


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


def keep(path: Path, tensors: dict[str, torch.Tensor], inputs: str) -> None:
    """Write tensors for the next attempt with these inputs; a JSON file beside them has their digest.

    Raises:
        StorageFull: it did not fit; what was written is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".writing")
    write_tensors(temporary, tensors)
    try:
        write_json(path.with_suffix(".json"), {"inputs": inputs, "sha256": file_digest(temporary)})
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def kept(path: Path, inputs: str) -> dict[str, torch.Tensor] | None:
    """What :func:`keep` wrote; None, with a warning, when its bytes or inputs are others or it has no digest."""
    if not path.exists():
        return None
    try:
        known = json.loads(path.with_suffix(".json").read_text())
        if known == {"inputs": inputs, "sha256": file_digest(path)}:
            tensors: dict[str, torch.Tensor] = load_file(path)
            return tensors
        logger.warning("%s is of other inputs or damaged; computing it again", path)
    except FileNotFoundError:
        logger.warning("%s has no digest beside it; computing it again", path)
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be read (%s); computing it again", path, error)
    return None


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
