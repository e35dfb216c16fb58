"""Write-once feature caches on disk; the only part of ltcache that knows HDF5."""

from ltcache.cache.agreement import check_prompts
from ltcache.cache.copying import CopyReport, copy_cache
from ltcache.cache.cost import add_cost, read_cost
from ltcache.cache.index import (
    EXTRACTED,
    EncoderState,
    check_file_sizes,
    finalise,
    read_index,
    rewrite_rows,
    store_prompts,
)
from ltcache.cache.labelled import (
    LabelledSplit,
    has_labels,
    independent_units,
    labelled_digest,
    labelled_split,
    require_labels,
)
from ltcache.cache.layers import (
    NO_ROW,
    Layer,
    Shape,
    as_json,
    begun_layers,
    claim_layer,
    dims_of,
    first_layer,
    folder_of,
)
from ltcache.cache.layout import CENTER, index_path, plan_path, record_path, shard_path
from ltcache.cache.likeness import (
    content_codes,
    equal_pairs,
    joined_groups,
    likeness_field,
    near_groups,
    near_threshold,
    row_chunks,
    unit_features,
)
from ltcache.cache.mirror import fetched, local_folder, place_of
from ltcache.cache.norms import cosines
from ltcache.cache.plan import Plan, claim_plan, read_plan, read_plans
from ltcache.cache.prompt_set import PromptEmbeddings
from ltcache.cache.reader import Cache, check_identities, open_cache
from ltcache.cache.repair import AGAIN, check_committed, count_committed, repair_shards
from ltcache.cache.shards import (
    ShardRecord,
    commit_shard,
    lost_in_half,
    merged_errors,
    read_shard_record,
    stored,
)
from ltcache.cache.shared_images import (
    SharedContent,
    compared_splits,
    shared_content,
    shared_warning,
    warn_of_shared,
)
from ltcache.cache.staging import staged_at, staging_folder
from ltcache.cache.summary import CacheSummary, summarise_cache
from ltcache.cache.verify import (
    CacheDamage,
    VerifyReport,
    merge_verified,
    verify_files,
    verify_on_ray,
    verify_part,
)

__all__ = [
    "AGAIN",
    "CENTER",
    "EXTRACTED",
    "NO_ROW",
    "Cache",
    "CacheDamage",
    "CacheSummary",
    "CopyReport",
    "EncoderState",
    "LabelledSplit",
    "Layer",
    "Plan",
    "PromptEmbeddings",
    "Shape",
    "ShardRecord",
    "SharedContent",
    "VerifyReport",
    "add_cost",
    "as_json",
    "begun_layers",
    "check_committed",
    "check_file_sizes",
    "check_identities",
    "check_prompts",
    "claim_layer",
    "claim_plan",
    "commit_shard",
    "compared_splits",
    "content_codes",
    "copy_cache",
    "cosines",
    "count_committed",
    "dims_of",
    "equal_pairs",
    "fetched",
    "finalise",
    "first_layer",
    "folder_of",
    "has_labels",
    "independent_units",
    "index_path",
    "joined_groups",
    "labelled_digest",
    "labelled_split",
    "likeness_field",
    "local_folder",
    "lost_in_half",
    "merge_verified",
    "merged_errors",
    "near_groups",
    "near_threshold",
    "open_cache",
    "place_of",
    "plan_path",
    "read_cost",
    "read_index",
    "read_plan",
    "read_plans",
    "read_shard_record",
    "record_path",
    "repair_shards",
    "require_labels",
    "rewrite_rows",
    "row_chunks",
    "shard_path",
    "shared_content",
    "shared_warning",
    "staged_at",
    "staging_folder",
    "store_prompts",
    "stored",
    "summarise_cache",
    "unit_features",
    "verify_files",
    "verify_on_ray",
    "verify_part",
    "warn_of_shared",
]
