"""Write-once feature caches on disk; the only part of ltcache that knows HDF5."""

from ltcache.cache.index import EncoderState, finalise, store_prompts
from ltcache.cache.layers import Layer
from ltcache.cache.plan import Plan, claim_plan, read_plan, read_plans
from ltcache.cache.prompt_set import PromptEmbeddings, check_prompts
from ltcache.cache.reader import Cache, check_identities, open_cache
from ltcache.cache.shards import ShardRecord, commit_shard, read_shard_record

__all__ = [
    "Cache",
    "EncoderState",
    "Layer",
    "Plan",
    "PromptEmbeddings",
    "ShardRecord",
    "check_identities",
    "check_prompts",
    "claim_plan",
    "commit_shard",
    "finalise",
    "open_cache",
    "read_plan",
    "read_plans",
    "read_shard_record",
    "store_prompts",
]
