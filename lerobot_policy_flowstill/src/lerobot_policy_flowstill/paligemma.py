"""The VLM's part of π0 and π0.5, by LeRobot's own functions; for teachers and students."""

from typing import Any

from lerobot.policies.common.vla_utils import make_att_2d_masks, prepare_attention_masks_4d

from lerobot_policy_flowstill.prefix import Prefix, Prepared, stored_layers


def encode_prefix(model: Any, seen: Prepared) -> Prefix:
    """The prefix pass of LeRobot's ``sample_actions``, without the state."""
    embeddings, pad_mask_BP, attention = model.embed_prefix(seen.images, seen.image_masks, seen.tokens, seen.token_mask)
    network = model.paligemma_with_expert
    network.paligemma.model.language_model.config._attn_implementation = "eager"  # takes the 4-D mask as it is
    _, cache = network.forward(
        attention_mask=prepare_attention_masks_4d(make_att_2d_masks(pad_mask_BP, attention)),
        position_ids=pad_mask_BP.cumsum(1) - 1,
        past_key_values=None,
        inputs_embeds=[embeddings, None],
        use_cache=True,
    )
    return Prefix(pad_mask_BP, stored_layers(cache))
