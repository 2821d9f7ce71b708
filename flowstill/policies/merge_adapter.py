"""``python -m flowstill.policies.merge_adapter ADAPTER MERGED``: a PEFT adapter and its base become one teacher.

LeRobot writes an adapter's weights, the policy's configuration and its processors into one folder; PEFT alone would
save the merged weights only. Everything is checked as every teacher is.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flowstill.errors import TeacherRejected
from flowstill.policies.checkpoints import ADAPTER, HUB_NAME, NEEDED, WEIGHTS, read_json

BASE = "base_model_name_or_path"
FOLDERS = ("vlm", "tokenizer")
"""What a checkpoint may have beside its files."""


def main(argv: Sequence[str] | None = None) -> int:
    """Merge; returns 0, or 65 when an input cannot work."""
    parser = argparse.ArgumentParser(description="Merge a PEFT adapter of LeRobot into its base policy.")
    parser.add_argument("adapter", type=Path, help="the folder with adapter_config.json (…/last/pretrained_model)")
    parser.add_argument("merged", type=Path, help="the teacher's folder, which does not exist yet")
    parser.add_argument("--base", type=Path, help="the base policy's folder; default: the one that the adapter names")
    options = parser.parse_args(argv)
    try:
        merge(options.adapter, options.merged, options.base)
    except TeacherRejected as error:
        print(error, file=sys.stderr)
        return 65
    return 0


def merge(adapter: Path, merged: Path, base: Path | None = None) -> None:
    """Write the teacher's folder; it is not left behind half.

    Raises:
        TeacherRejected: something is missing, naming the argument and what to do.
    """
    if not (adapter / ADAPTER).is_file():
        raise TeacherRejected(
            f"{adapter} has no {ADAPTER}, so it is no adapter; a whole policy is a teacher as it is", field="adapter"
        )
    peft = import_peft()
    named = str(read_json(adapter / ADAPTER, "adapter").get(BASE))
    base = base or Path(named)
    if not (base / WEIGHTS).is_file():
        raise TeacherRejected(
            f"the adapter's base policy {str(base)!r} is no folder with {WEIGHTS} here; download it (hf download "
            f"{named if HUB_NAME.match(named) else 'ORG/NAME'} --local-dir BASE) and give its folder with --base",
            field="base",
        )
    if merged.exists():
        raise TeacherRejected(f"{merged} exists already; name a new folder", field="merged")
    try:
        collect(adapter, base, merged)
        write_merged(peft, adapter, merged)
    except BaseException:
        shutil.rmtree(merged, ignore_errors=True)
        raise


def import_peft() -> Any:
    """The library, which nothing else here needs.

    Raises:
        TeacherRejected: it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise TeacherRejected(
            f"merging needs the library peft ({error}); install it beside LeRobot (pip install 'peft<1')",
            field="adapter",
        ) from error
    return peft


def collect(adapter: Path, base: Path, merged: Path) -> None:
    """The base's weights, and configuration and processors as they were when the adapter was trained."""
    merged.mkdir(parents=True)
    for name in NEEDED:
        if name != WEIGHTS and not (adapter / name).is_file():
            raise TeacherRejected(
                f"{adapter} lacks {name}; give the folder that lerobot-train wrote "
                "(…/checkpoints/last/pretrained_model)",
                field="adapter",
            )
    for file in adapter.glob("policy_*"):
        shutil.copy2(file, merged / file.name)
    for folder in FOLDERS:
        found = next((place / folder for place in (adapter, base) if (place / folder).is_dir()), None)
        if found is not None:
            shutil.copytree(found, merged / folder)
    config = read_json(adapter / "config.json", "adapter") | {"use_peft": False, "pretrained_path": None}
    (merged / "config.json").write_text(json.dumps(config, indent=4))
    shutil.copy2(base / WEIGHTS, merged / WEIGHTS)


def write_merged(peft: Any, adapter: Path, merged: Path) -> None:
    """Load the base, every tensor checked, and write it again with the adapter's change."""
    from safetensors.torch import save_model

    from flowstill.policies.registry import load_flow_policy

    policy = load_flow_policy(merged, field="base", whole=True).policy
    whole = peft.PeftModel.from_pretrained(policy, str(adapter)).merge_and_unload()
    save_model(whole, str(merged / WEIGHTS))


if __name__ == "__main__":
    sys.exit(main())
