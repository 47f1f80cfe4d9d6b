"""Rows without padding: a batch's tokens end to end in one row, so that all but attention works on what counts.

Attention takes rows of like length together, filled up on the right to the longest of their group; under a causal mask
no token that counts sees the filler, so that it needs no mask. On a GPU in half precision one kernel takes all rows,
whatever their lengths, and there is no filler. Where rows share their prompt, it stands in the packed row once, and
only attention sees it in each of them. The last layer's feed-forward runs on those tokens alone whose states are
wanted.
"""

from rlhf.fast.packing.attention import takes_ragged_rows
from rlhf.fast.packing.layout import pack
from rlhf.fast.packing.reading import can_pack, enable_packing, packed_states

__all__ = ["can_pack", "enable_packing", "pack", "packed_states", "takes_ragged_rows"]
