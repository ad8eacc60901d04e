"""Which masks a site adds in a round, and which of them remain in the sum."""

from collections.abc import Mapping
from typing import TypedDict

from privacy.secure_sum.keys import agree, derive
from privacy.secure_sum.preparation import RoundSecrets


class MaskKeys(TypedDict):
    """Keys of masks, as `privacy.secure_sum.masks.apply_masks` takes them."""

    added: list[bytes]
    subtracted: list[bytes]


def site_masks(secrets: RoundSecrets, public_keys: Mapping[str, str], *, context: str) -> MaskKeys:
    """The masks of a site: its own, and one with each peer, which the first by name adds.

    Args:
        secrets: The site's secrets of the round.
        public_keys: Public mask key of each site of the round.
        context: What the masks are bound to (`round_context`).
    """
    site, agreement = secrets.preparation.key.site, secrets.preparation.key.agreement
    peers = {peer: key for peer, key in public_keys.items() if peer != site}
    masks = _pair_masks(secrets.mask_key, site, peers, agreement=agreement, context=context)
    masks["added"].append(_self_mask(secrets.seed, site, agreement=agreement, context=context))
    return masks


def remaining_masks(
    *,
    seeds: Mapping[str, bytes],
    mask_keys: Mapping[str, bytes],
    public_keys: Mapping[str, str],
    agreement: str,
    context: str,
) -> MaskKeys:
    """The masks that take away what remains in a sum: survivors' own, and theirs with dropped sites.

    Args:
        seeds: Seed of each survivor.
        mask_keys: Private mask key of each dropped site.
        public_keys: Public mask key of each site of the round.
        agreement: Hash of the key agreement.
        context: What the masks are bound to.
    """
    own = [_self_mask(seed, site, agreement=agreement, context=context) for site, seed in seeds.items()]
    masks = MaskKeys(added=[], subtracted=own)
    survivors = {site: public_keys[site] for site in seeds}
    for site, private in mask_keys.items():
        # What the dropped site would have added is exactly what cancels its peers' masks with it.
        missing = _pair_masks(private, site, survivors, agreement=agreement, context=context)
        masks["added"] += missing["added"]
        masks["subtracted"] += missing["subtracted"]
    return masks


def _pair_masks(private: bytes, site: str, peers: Mapping[str, str], *, agreement: str, context: str) -> MaskKeys:
    masks = MaskKeys(added=[], subtracted=[])
    for peer, public in peers.items():
        pair = sorted((site, peer))
        key = derive(agree(private, public), salt=agreement, purpose="pair mask", about=[context, *pair])
        masks["added" if site == pair[0] else "subtracted"].append(key)
    return masks


def _self_mask(seed: bytes, site: str, *, agreement: str, context: str) -> bytes:
    return derive(seed, salt=agreement, purpose="self mask", about=[context, site])
