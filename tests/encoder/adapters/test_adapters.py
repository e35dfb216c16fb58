"""What holds for every adapter in every tower: equal at the start, trained by every step, copied,
rebuilt and, where that is possible, merged."""

from __future__ import annotations

import copy
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from ltcache.encoder.adapters import (
    TOWER_ADAPTERS,
    AdapterContext,
    AdapterSpec,
    adapters_of,
    insert_adapters,
    merge_adapters,
    set_checkpointing,
    set_trainable,
    train_mode,
)
from ltcache.encoder.identity import tower_digests
from ltcache.errors import EncoderError, FitError, UsageError
from tests.encoder.adapters.models import (
    OPTIONS,
    TOWERS,
    adapted,
    base_model,
    context,
    disturb,
    images_for,
    loss_of,
)

TINY = ("vit", "resnet", "timm", "timm_vit")
everywhere = pytest.mark.parametrize("kind", TOWERS)
in_tiny = pytest.mark.parametrize("kind", TINY)
each = pytest.mark.parametrize("name", TOWER_ADAPTERS)


def trainable(model: Any) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def frozen_bytes(model: Any) -> dict[str, Tensor]:
    state, free = model.state_dict(), trainable(model)
    return {name: tensor.clone() for name, tensor in state.items() if name not in free}


@everywhere
@each
def test_equal_at_first_then_every_tensor_learns_and_nothing_else_moves(
    kind: str, name: str
) -> None:
    model = adapted(kind, name)
    images = images_for(model)
    with torch.no_grad():
        before = base_model(kind).encode_image(images)
        start = model.encode_image(images)
    assert torch.equal(start, before), "an adapter adds exact zeros, the gate is exactly one"
    set_trainable(model)
    train_mode(model)
    free, kept = trainable(model), frozen_bytes(model)
    assert free
    optimiser = torch.optim.AdamW(free.values(), lr=1e-3, weight_decay=0.1)
    reached: set[str] = set()
    for step in range(3):
        optimiser.zero_grad()
        loss_of(model, images).backward()
        reached |= {n for n, p in free.items() if p.grad is not None and p.grad.any()}
        optimiser.step()
        if step == 0:
            with torch.no_grad():
                assert not torch.allclose(model.eval().encode_image(images), before, atol=1e-6)
            train_mode(model)
    assert reached == set(free)
    now = model.state_dict()
    assert all(torch.equal(now[name], tensor) for name, tensor in kept.items())


@in_tiny
@each
def test_checkpointed_blocks_give_the_same_gradients_from_less_that_is_kept(
    kind: str, name: str
) -> None:
    model = adapted(kind, name)
    set_trainable(model, image="full")
    train_mode(disturb(model, 0.02))
    images, free = images_for(model), trainable(model)

    def gradients() -> tuple[dict[str, Tensor], int]:
        model.zero_grad()
        kept = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal kept
            kept += tensor.numel()
            return tensor

        with saved_tensors_hooks(count, lambda tensor: tensor):
            loss = loss_of(model, images)
        loss.backward()
        return {n: p.grad.clone() for n, p in free.items() if p.grad is not None}, kept

    plain, much = gradients()
    set_checkpointing(model)
    checkpointed, little = gradients()
    assert set(plain) == set(free) == set(checkpointed)
    for tensor, gradient in plain.items():
        torch.testing.assert_close(checkpointed[tensor], gradient)
    assert little < 0.7 * much
    twin = copy.deepcopy(model)
    with torch.no_grad():
        disturb(model)
        assert not torch.equal(twin.encode_image(images), model.encode_image(images))
    set_checkpointing(model, False)
    assert gradients()[1] == much


@in_tiny
@each
def test_mixed_precision_gives_nearly_the_same_and_full_precision_gradients(
    kind: str, name: str
) -> None:
    model = adapted(kind, name)
    set_trainable(model)
    train_mode(disturb(model, 0.01))
    images = images_for(model)
    with torch.no_grad():
        full = model.encode_image(images)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model.encode_image(images)
        loss_of(model, images).backward()
    assert (mixed.float() - full).norm() < 0.05 * full.norm()
    for parameter in trainable(model).values():
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all() and parameter.grad.any()


@pytest.mark.parametrize("kind", ["vit", "resnet"])
@pytest.mark.parametrize("name", ["adaptformer", "visual_attention"])
def test_threads_share_a_tower(kind: str, name: str) -> None:
    model = disturb(adapted(kind, name))
    batches = [images_for(model, count=3, seed=seed) for seed in range(24)]
    with torch.inference_mode():
        expected = [model.encode_image(batch) for batch in batches]

    def encode(batch: Tensor) -> Tensor:
        with torch.inference_mode():
            return model.encode_image(batch)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(encode, batches))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@in_tiny
@each
def test_a_copy_is_independent(kind: str, name: str) -> None:
    model = adapted(kind, name)
    set_trainable(model)
    images = images_for(model)
    twin = disturb(copy.deepcopy(model))
    with torch.no_grad():
        assert torch.equal(model.encode_image(images), base_model(kind).encode_image(images))
        moved = twin.encode_image(images)
        assert not torch.allclose(moved, model.encode_image(images), atol=1e-6)
        disturb(model)
        assert torch.equal(twin.encode_image(images), moved)


@in_tiny
@each
def test_resolved_options_and_the_state_rebuild_it(kind: str, name: str) -> None:
    model = adapted(kind, name)
    set_trainable(model)
    disturb(model)
    specs = [
        AdapterSpec(spec.name, json.loads(json.dumps(spec.options))) for spec in adapters_of(model)
    ]
    again = base_model(kind)
    insert_adapters(again, specs)
    again.load_state_dict(model.state_dict(), strict=True)
    images = images_for(model)
    with torch.no_grad():
        assert torch.equal(again.encode_image(images), model.encode_image(images))
    assert adapters_of(again) == specs


@each
def test_tensors_are_named_after_the_adapter_and_enter_the_digest(name: str) -> None:
    base, model = base_model("vit"), adapted("vit", name)
    added = set(model.state_dict()) - set(base.state_dict())
    gone = set(base.state_dict()) - set(model.state_dict())
    if name == "lora":
        assert all(".parametrizations." in tensor for tensor in added)
    else:
        assert not gone
        assert all(tensor.startswith(f"visual.adapters.{name}.") for tensor in added)
    first = tower_digests(model.state_dict())
    set_trainable(model)
    second = tower_digests(disturb(model).state_dict())
    assert first["text"] == second["text"] == tower_digests(base.state_dict())["text"]
    assert len({first["image"], second["image"], tower_digests(base.state_dict())["image"]}) == 3


@everywhere
def test_merged_lora_is_a_plain_tower_with_the_same_embeddings(kind: str) -> None:
    model = adapted(kind, "lora")
    set_trainable(model)
    disturb(model)
    images = images_for(model)
    with torch.no_grad():
        tuned = model.encode_image(images)
        assert merge_adapters(model) == []
        assert torch.equal(model.encode_image(images), tuned)
        fresh = base_model(kind)
        assert not torch.allclose(fresh.encode_image(images), tuned, rtol=1e-3)
        fresh.load_state_dict(model.state_dict(), strict=True)
        assert torch.equal(fresh.encode_image(images), tuned)
    assert not hasattr(model.visual, "adapters")
    assert type(model.visual) is type(fresh.visual)


@in_tiny
def test_several_adapters_act_together_and_what_cannot_be_merged_is_left(kind: str) -> None:
    model = base_model(kind)
    options = {"adaptformer": {"bottleneck": 8}, "visual_attention": OPTIONS["visual_attention"]}
    specs = [AdapterSpec("lora"), *(AdapterSpec(n, o) for n, o in options.items())]
    insert_adapters(model, specs[:1], context=context())
    insert_adapters(model, specs[1:], context=context())
    set_trainable(model)
    disturb(model)
    images = images_for(model)
    with torch.no_grad():
        tuned = model.encode_image(images)
        left = merge_adapters(model)
        assert torch.equal(model.encode_image(images), tuned)
    assert [spec.name for spec in left] == ["adaptformer", "visual_attention"]
    assert set(model.visual.adapters) == {"adaptformer", "visual_attention"}
    with pytest.raises(EncoderError, match="cannot be merged"):
        model.visual.adapters["adaptformer"].merge(model.visual)


def test_precision_and_seed_are_taken_over() -> None:
    model = base_model("vit").to(torch.bfloat16)
    insert_adapters(model, [AdapterSpec("adaptformer"), AdapterSpec("lora")], context=context())
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.bfloat16}
    images = images_for(model).to(torch.bfloat16)
    assert model.encode_image(images).dtype == torch.bfloat16
    state = torch.random.get_rng_state()
    states = []
    for seed in (0, 0, 1):
        twin = base_model("vit")
        insert_adapters(twin, [AdapterSpec("adaptformer")], seed=seed, context=context())
        states.append(tower_digests(twin.state_dict())["image"])
    assert states[0] == states[1] != states[2]
    assert torch.equal(torch.random.get_rng_state(), state), "nobody else's random numbers move"


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        (AdapterSpec("adaptfromer"), UsageError, "did you mean 'adaptformer'"),
        (AdapterSpec("lora", {"ranks": 4}), UsageError, "did you mean 'rank'"),
        (AdapterSpec("adaptformer"), UsageError, "number of classes"),
        (AdapterSpec("sg_adapter"), UsageError, "descriptions"),
        (AdapterSpec("lora", {"rank": 0}), EncoderError, "at least 1"),
        (AdapterSpec("visual_attention", {"kernel": 6}), FitError, "no odd kernel"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_leaves_the_model_alone(
    spec: AdapterSpec, error: type[Exception], message: str
) -> None:
    model = base_model("vit")
    names = set(model.state_dict())
    with pytest.raises(error, match=message):
        insert_adapters(model, [spec])
    assert set(model.state_dict()) == names and not hasattr(model.visual, "adapters")


def test_names_and_descriptions_that_contradict_are_refused() -> None:
    model = adapted("vit", "lora")
    names = set(model.state_dict())
    with pytest.raises(UsageError, match="already has"):
        insert_adapters(model, [AdapterSpec("visual_attention"), AdapterSpec("lora")])
    assert set(model.state_dict()) == names, "all are built before the first is attached"
    wrong = AdapterSpec("sg_adapter", {"classes": 3})
    with pytest.raises(UsageError, match=r"classes=3, but the descriptions are 12 x 32"):
        insert_adapters(model, [wrong], context=context())
    odd = torch.nn.Linear(2, 2)
    holder = torch.nn.Module()
    holder.visual = odd
    for name in ("adaptformer", "visual_attention"):
        with pytest.raises(EncoderError, match="Linear"):
            insert_adapters(holder, [AdapterSpec(name)], context=AdapterContext(100))


@pytest.mark.slow
def test_a_compiled_tower_is_one_graph_with_the_same_gradients() -> None:
    model = base_model("vit")
    insert_adapters(model, [AdapterSpec(n, OPTIONS[n]) for n in TOWER_ADAPTERS], context=context())
    set_trainable(model)
    train_mode(disturb(model))
    images, free = images_for(model), trainable(model)
    plain = model.visual(images)
    plain.square().sum().backward()
    gradients = {name: p.grad.clone() for name, p in free.items() if p.grad is not None}
    model.zero_grad()
    compiled = torch.compile(model.visual, backend="eager", fullgraph=True)(images)
    compiled.square().sum().backward()
    torch.testing.assert_close(compiled, plain)
    for name, gradient in gradients.items():
        torch.testing.assert_close(free[name].grad, gradient)
