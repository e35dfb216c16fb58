"""``extract``: from a manifest and an encoder to a finished cache."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ltcache.cache import (
    Cache,
    EncoderState,
    Plan,
    PromptEmbeddings,
    claim_plan,
    finalise,
    open_cache,
    read_plan,
    read_plans,
    read_record,
)
from ltcache.cache.fingerprint import file_digest, require_equal
from ltcache.cache.layout import CENTER, index_path, remove_leftovers
from ltcache.errors import CacheError, LtcacheError, UsageError
from ltcache.extract.growth import Growth, check_sample, plan_growth
from ltcache.extract.pipeline import Stages, encode_shards
from ltcache.images import open_store
from ltcache.manifest import Manifest, missing_files, read_manifest

if TYPE_CHECKING:
    from ltcache.encoder import Encoder

SHARD_SIZE = 1024
"""Items in a shard: what a kill can cost at most, and one file to open per so many rows."""

LOCAL = "local-dir:"
_GRACE = 1000  # failures are judged as a rate from this many items on


@dataclass(frozen=True)
class Progress:
    """Where an extraction stands, for whoever shows it.

    Args:
        done, total: items; ``done`` counts those of earlier runs too.
        failed: items that could not be read, decoded or encoded.
        rate: images per second of this process.
        binding: the stage that limits the rate, in words.
    """

    done: int
    total: int
    failed: int
    rate: float
    binding: str


@dataclass(frozen=True)
class ExtractReport:
    """What an extraction did.

    Args:
        path: of the cache.
        rows: rows of the manifest; ``items`` are its distinct images.
        encoded: items that this call encoded; 0 when the cache was there already.
        failed: rows whose image could not be used.
        failures: the first few as (key, reason).
        seconds: of this call.
        binding: the stage that limited the rate, in words.
    """

    path: Path
    rows: int
    items: int
    encoded: int
    failed: int
    failures: tuple[tuple[str, str], ...]
    seconds: float
    binding: str

    @property
    def exit_status(self) -> int:
        """0, or 3 where some rows failed."""
        return 3 if self.failed else 0


def extract(
    source: str | Path | Manifest,
    out: str | Path,
    *,
    encoder: Encoder | None = None,
    model: str = "embedded",
    pretrained: str | None = None,
    root: str | Path | None = None,
    views: Sequence[str] = ("center",),
    fields: Sequence[str] | None = None,
    batch_size: int | None = None,
    shard_size: int | None = None,
    workers: int | None = None,
    threads: int | None = None,
    device: str = "auto",
    precision: str = "fp32",
    activation: str | None = None,
    max_failures: float = 0.01,
    retry_failed: bool = False,
    rehash: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> ExtractReport:
    """Encode every image of ``source`` and every class prompt into the cache ``out``.

    An interrupted extraction goes on where it stopped; a finished one is reused at once. Where
    ``source`` has changed since, only new content is encoded: relabelling, moving rows between
    splits and deleting them change the cache's manifest alone.

    Args:
        source: anything :func:`ltcache.manifest.read_manifest` takes, or a manifest.
        out: the cache's directory.
        encoder: loaded already; else ``model``, ``pretrained``, ``device``, ``precision`` and
            ``activation`` say what to load (:func:`ltcache.encoder.load_encoder`).
        root: where the images are, if not where the source says.
        views: ``center``.
        fields: ``embedding`` and, for towers that have it, ``pooled``; all by default.
        batch_size: images in one forward pass; 16 on a CPU, 256 on a GPU.
        shard_size: images in one file; what a kill can cost at most.
        workers: decoding threads; the number of processors by default.
        threads: compute threads on a CPU; torch's default. Part of the plan.
        max_failures: share of failed images above which extraction gives up, judged from 1,000
            images on; every failed row stays listed with its reason.
        retry_failed: encode images again that failed before.
        rehash: read images again that the cache knows by name, and encode those that changed.
        progress: called after every shard.

    Raises:
        LtcacheError: unreadable source, missing images, an unusable encoder, too many failures.
        IdentityError: ``out`` holds something else (status 4); names every differing field.
    """
    started = time.perf_counter()
    out = Path(out)
    manifest = source if isinstance(source, Manifest) else read_manifest(source, root=root)
    _check_choice(views, batch_size, shard_size)
    _check_place(out)
    begun = read_plan(out)
    unfinished = None if index_path(out).exists() else begun
    _set_threads(threads, begun)
    if encoder is None:
        from ltcache.encoder import load_encoder

        encoder = load_encoder(
            model, pretrained, device=device, precision=precision, activation=activation
        )
    options = _Options(workers or os.cpu_count() or 1, max_failures, progress)
    plan = Plan(
        encoder=encoder.identity,
        numerics=encoder.numerics() | {"decoder": "pillow"},
        manifest=manifest.identity(),
        views=tuple(views),
        fields=_dims(encoder, fields),
        items=0,
        shard_size=shard_size or (unfinished.shard_size if unfinished else SHARD_SIZE),
        micro_batch=batch_size or (unfinished.micro_batch if unfinished else _batch_size(encoder)),
    )
    if index_path(out).exists():
        return _grow(out, plan, manifest, encoder, options, retry_failed, rehash, started)
    _check_files(manifest, max_failures)
    items, uris = number_items(manifest)
    plan = replace(plan, items=len(uris))
    stages = Stages()
    encoded = _encode(out, plan, uris, manifest, encoder, stages, options)
    prompts = _default_prompts(encoder, manifest)
    rows = finalise(out, [plan], manifest, items, _state(encoder, plan), prompts)
    return _report(out, rows, encoded, stages.binding(), started)


@dataclass(frozen=True)
class _Options:
    """What concerns this call alone, not the cache."""

    workers: int
    max_failures: float
    progress: Callable[[Progress], None] | None


def _grow(
    out: Path,
    wanted: Plan,
    manifest: Manifest,
    encoder: Encoder,
    options: _Options,
    retry_failed: bool,
    rehash: bool,
    started: float,
) -> ExtractReport:
    """Bring a finished cache to a manifest: reuse it, or encode what is new and finish again."""
    cache = open_cache(out)
    before = file_digest(index_path(out))
    plans = read_plans(out)
    _check_same(out, plans[0], wanted)
    same = manifest.identity() == cache.manifest.identity()
    if not rehash:
        check_sample(cache, manifest)
    if same and not rehash and not (retry_failed and "failed" in _statuses(cache)):
        return _report(out, cache.manifest.rows, 0, "reused", started)
    plan, growth = _next_plan(cache, plans, wanted, manifest, options, retry_failed, rehash)
    encoded, stages = 0, Stages()
    if plan is not None:
        _require(out, "numerics", plan.numerics, wanted.numerics)
        encoded = _encode(out, plan, growth.uris, manifest, encoder, stages, options)
        plans = [*plans[: plan.number - 1], plan]
    prompts = _kept_prompts(cache, manifest) or _default_prompts(encoder, manifest)
    if file_digest(index_path(out)) != before:
        raise CacheError(f"{out} was changed by another process meanwhile: run this again")
    rows = finalise(out, plans, manifest, growth.items, _state(encoder, plans[0]), prompts)
    return _report(out, rows, encoded, stages.binding() if encoded else "known images", started)


def _next_plan(
    cache: Cache,
    plans: list[Plan],
    wanted: Plan,
    manifest: Manifest,
    options: _Options,
    retry_failed: bool,
    rehash: bool,
) -> tuple[Plan | None, Growth]:
    """Return the plan of what is new, or None where nothing is.

    An extension that was interrupted is continued if it is the same; else its committed shards
    count as known content, and a new plan numbers on behind it.
    """

    def compare(known: list[Plan]) -> Growth:
        return plan_growth(
            cache, known, manifest, retry_failed=retry_failed, rehash=rehash,
            workers=options.workers,
        )  # fmt: skip

    last = plans[-1]
    if len(plans) > 1 and _uncommitted(cache.path, last):
        growth = compare(plans[:-1])
        if growth.images == last.images:
            return last, growth
    growth = compare(plans)
    if not len(growth.uris):
        return None, growth
    plan = replace(
        plans[0],
        manifest=wanted.manifest,
        items=len(growth.uris),
        first_item=last.end,
        first_shard=last.shards.stop,
        images=growth.images,
        number=last.number + 1,
    )
    return plan, growth


def _check_same(out: Path, existing: Plan, wanted: Plan) -> None:
    """Refuse to take features of another encoder, or fields that are not there."""
    _require(out, "encoder", existing.encoder, wanted.encoder)
    _require(out, "view", {k: existing.fields.get(k) for k in wanted.fields}, wanted.fields)


def _require(out: Path, kind: str, expected: Any, found: Any) -> None:
    remedy = f"{out} is finished and was made with the expected values: choose another --out"
    require_equal(kind, expected, found, remedy=remedy)


def _statuses(cache: Cache) -> list[str]:
    statuses: list[str] = cache.manifest.rows["status"].unique().to_pylist()
    return statuses


def _kept_prompts(cache: Cache, manifest: Manifest) -> list[PromptEmbeddings]:
    """Return the cache's class texts, where classes and templates have not changed."""
    old, new = cache.manifest.header(), manifest.header()
    if any(old[part] != new[part] for part in ("classes", "templates", "descriptions")):
        return []
    return [cache.prompts(name) for name in cache.prompt_names]


def number_items(manifest: Manifest) -> tuple[np.ndarray, pa.StringArray]:
    """Return the item of each row, int64 (rows,), and each item's uri, in order of appearance."""
    encoded = manifest.rows.column("uri").combine_chunks().dictionary_encode()
    items = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return items, encoded.dictionary


def _check_choice(views: Sequence[str], batch_size: int | None, shard_size: int | None) -> None:
    if tuple(views) != ("center",):
        raise UsageError(f"views {', '.join(views)}: only 'center' can be extracted")
    for name, value in (("batch size", batch_size), ("shard size", shard_size)):
        if value is not None and value < 1:
            raise UsageError(f"the {name} must be at least 1, not {value}")


def _check_place(out: Path) -> None:
    """Refuse a place that holds something else than a cache."""
    if out.is_dir() and any(out.iterdir()) and not (out / "plans").is_dir():
        raise UsageError(f"{out} is not empty and not a cache: choose another --out")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: choose another --out")


def _dims(encoder: Encoder, fields: Sequence[str] | None) -> dict[str, int]:
    unknown = sorted(set(fields or ()) - set(encoder.dims))
    if unknown:
        raise UsageError(
            f"this encoder has no field {', '.join(unknown)}, only {', '.join(encoder.dims)}"
        )
    return {name: dim for name, dim in encoder.dims.items() if fields is None or name in fields}


def _batch_size(encoder: Encoder) -> int:
    """On a CPU few: where activations outgrow what malloc keeps, page faults double the time."""
    return 256 if str(encoder.device).startswith("cuda") else 16


def _set_threads(threads: int | None, begun: Plan | None) -> None:
    """Set the compute threads: as asked, or as the cache was begun with; else torch's default."""
    import torch

    wanted = threads or (begun.numerics.get("threads") if begun else None)
    if wanted:
        torch.set_num_threads(int(wanted))


def _check_files(manifest: Manifest, max_failures: float) -> None:
    missing = missing_files(manifest)
    if not missing.count:
        return
    rows = manifest.rows.num_rows
    if _too_many(missing.count, rows, rows, max_failures):
        raise LtcacheError(
            f"{missing.count} of {rows} images are missing below {manifest.root}, for example "
            f"{', '.join(missing.first)}. {missing.hint or 'Is --root right?'}"
        )


def _too_many(failed: int, seen: int, total: int, max_failures: float) -> bool:
    """Judge failures: all is too many, and from 1,000 items on, more than the share allowed."""
    return 0 < failed == total or (seen >= _GRACE and failed > max_failures * seen)


def _encode(
    out: Path,
    plan: Plan,
    uris: pa.StringArray,
    manifest: Manifest,
    encoder: Encoder,
    stages: Stages,
    options: _Options,
) -> int:
    """Claim a plan and encode its shards that are not committed yet.

    Processes that join a plan begin in the middle of what is left and pass over what another one
    has committed meanwhile; at worst a shard is encoded twice, to the same bytes.

    Returns:
        The number of items that were encoded.
    """
    created = claim_plan(out, plan)
    remove_leftovers(out)
    pa.default_memory_pool().release_unused()  # what reading the manifest took in passing
    done = failed = 0
    for shard in plan.shards:
        if record := read_record(out, CENTER, shard):
            done, failed = done + record.count, failed + len(record.errors)
    encoded, started = 0, time.perf_counter()
    store = open_store(manifest.root)
    while todo := _uncommitted(out, plan):
        order = todo if created else todo[len(todo) // 2 :] + todo[: len(todo) // 2]
        still = (shard for shard in order if read_record(out, CENTER, shard) is None)
        for record in encode_shards(
            out, plan, still, uris, store, encoder, options.workers, stages
        ):
            encoded += record.count
            failed += len(record.errors)
            seen = done + encoded
            if options.progress:
                rate = encoded / (time.perf_counter() - started)
                options.progress(Progress(seen, plan.items, failed, rate, stages.binding()))
            total = plan.items if plan.number == 1 else 0  # of a few new images all may fail
            if _too_many(failed, seen, total, options.max_failures):
                raise _failures_error(out, plan, uris, record, failed, seen, options.max_failures)
    return encoded


def _uncommitted(out: Path, plan: Plan) -> list[int]:
    return [shard for shard in plan.shards if read_record(out, CENTER, shard) is None]


def _failures_error(
    out: Path,
    plan: Plan,
    uris: pa.StringArray,
    record: Any,
    failed: int,
    seen: int,
    max_failures: float,
) -> CacheError:
    examples = [
        f"{uris[record.first - plan.first_item + row]}: {text}"
        for row, text in list(record.errors.items())[:5]
    ]
    return CacheError(
        f"{failed} of {seen} images failed (allowed: {max_failures:.1%}, --max-failures), "
        f"for example {'; '.join(examples)}. What is done stays in {out}."
    )


def _default_prompts(encoder: Encoder, manifest: Manifest) -> list[PromptEmbeddings]:
    """Encode the manifest's own class texts: its templates, and its descriptions if it has any."""
    from ltcache.encoder import encode_prompts
    from ltcache.prompts import class_sentences

    if encoder.logit_scale is None or not len(manifest.classes):
        return []
    names = list(manifest.classes.names)
    texts = {"default": class_sentences(manifest.templates, names)}
    if manifest.descriptions:
        texts["descriptions"] = class_sentences(manifest.templates, names, manifest.descriptions)
    return [
        encode_prompts(encoder, sentences, name, manifest.classes.identity())
        for name, sentences in texts.items()
    ]


def _state(encoder: Encoder, plan: Plan) -> EncoderState:
    return EncoderState(
        identity=encoder.identity,
        numerics=plan.numerics,
        provenance=portable(encoder.provenance),
        logit_scale=encoder.logit_scale,
        logit_bias=encoder.logit_bias,
        projection=encoder.projection,
        projection_bias=encoder.projection_bias,
    )


def portable(provenance: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return how an encoder was named, without folders: a cache may be published.

    ``local-dir:/home/me/models/mine`` becomes ``local-dir:mine``, a checkpoint path its file name.
    """
    result = dict(provenance)
    model, pretrained = result.get("model") or "", result.get("pretrained") or ""
    if model.startswith(LOCAL):
        result["model"] = LOCAL + Path(model.removeprefix(LOCAL)).name
    if os.sep in pretrained and Path(pretrained).suffix:
        result["pretrained"] = Path(pretrained).name
    return result


def _report(out: Path, rows: pa.Table, encoded: int, binding: str, started: float) -> ExtractReport:
    failed = rows.filter(pc.equal(rows["status"], "failed"))
    first = failed.slice(0, 5)
    items = rows["item"].to_numpy()
    return ExtractReport(
        path=out,
        rows=rows.num_rows,
        items=int(items.max()) + 1 if len(items) else 0,
        encoded=encoded,
        failed=failed.num_rows,
        failures=tuple(zip(first["key"].to_pylist(), first["error"].to_pylist(), strict=True)),
        seconds=time.perf_counter() - started,
        binding=binding,
    )
