"""Views against torchvision's transforms, and random crops that depend on nothing but their key."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from ltcache.errors import UsageError
from ltcache.images import Preprocessing, View, decode, decode_views, parse_views
from ltcache.images.preprocessing import MAX_PIXELS
from ltcache.images.views import RATIO, SCALE, draws, draws_of, random_box

SHA = hashlib.sha256(b"an image").hexdigest()


def preprocessing(size: tuple[int, int] = (32, 32), mode: str = "shortest") -> Preprocessing:
    return Preprocessing(size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), resize_mode=mode)


def picture(width: int = 61, height: int = 47, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def png(image: Image.Image) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


@pytest.mark.parametrize("size", [(61, 47), (40, 90), (35, 35), (20, 300), (1, 1)])
def test_five_crops_are_torchvisions(size: tuple[int, int]) -> None:
    image = picture(*size)
    bicubic = transforms.InterpolationMode.BICUBIC
    resized = transforms.Resize(32 + round(32 * 24 / 224), bicubic)(image)
    expected = [np.asarray(crop) for crop in transforms.FiveCrop(32)(resized)]
    # torchvision's order: top left, top right, bottom left, bottom right, centre
    found = [np.asarray(crop) for crop in View("five").cut(image, preprocessing(), SHA)]
    assert np.array_equal(found, expected)


def test_the_margin_of_five_crops_is_lifts() -> None:
    image = picture(500, 300)
    crops = preprocessing((224, 224)).five_crops(image)
    whole = image.resize((int(248 * 500 / 300), 248), Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(crops[0]), np.asarray(whole.crop((0, 0, 224, 224))))


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [(32, 32), (32, 48)])
@pytest.mark.parametrize("view", ["center", "flip", "five", "rrc:3"])
@pytest.mark.parametrize("kind", ["RGB", "L", "P", "RGBA", "CMYK", "1", "I"])
def test_every_view_of_every_mode_has_the_encoders_size(
    mode: str, size: tuple[int, int], view: str, kind: str
) -> None:
    data = io.BytesIO()
    picture(mode=kind).save(data, "TIFF")
    chosen = View(view)
    found = decode_views(data.getvalue(), preprocessing(size, mode), [chosen], SHA)
    assert found.pixels[view].shape == (chosen.crops, 3, *size)
    assert found.pixels[view].dtype == np.uint8


def test_flip_is_the_mirrored_centre_and_one_decoding_serves_all() -> None:
    data = png(picture())
    views = parse_views(["center", "flip", "five", "rrc:2"])
    together = decode_views(data, preprocessing(), views, SHA)
    assert np.array_equal(together.pixels["center"][0], decode(data, preprocessing()).pixels)
    assert np.array_equal(together.pixels["flip"], together.pixels["center"][..., ::-1])
    for view in views:
        alone = decode_views(data, preprocessing(), [view], SHA).pixels[view.name]
        assert np.array_equal(alone, together.pixels[view.name])


def test_very_long_images_are_never_enlarged_whole() -> None:
    image = picture(30000, 5)
    assert MAX_PIXELS < (30000 * 224 / 5) * 224
    crops = preprocessing((224, 224)).five_crops(image)
    assert [crop.size for crop in crops] == [(224, 224)] * 5
    part = preprocessing((224, 224)).five_crops(image.crop((0, 0, 200, 5)))
    difference = np.asarray(crops[0], int) - np.asarray(part[0], int)
    assert np.abs(difference).max() <= 3


@given(
    st.integers(0, 2**64 - 1),
    st.binary(min_size=1, max_size=8),
    st.tuples(st.integers(1, 400), st.integers(1, 400)),
)
def test_random_boxes_lie_inside_and_keep_their_bounds(
    seed: int, data: bytes, size: tuple[int, int]
) -> None:
    content = hashlib.sha256(data).hexdigest()
    uniform = draws(seed, content, 0)
    assert uniform.shape == (41,)
    assert ((uniform >= 0) & (uniform < 1)).all()
    assert np.array_equal(uniform, draws(seed, content, 0))
    assert not np.array_equal(uniform, draws(seed, content, 1))
    assert not np.array_equal(uniform, draws((seed + 1) % 2**64, content, 0))
    (left, top, right, bottom), _ = random_box(size, uniform)
    assert 0 <= left < right <= size[0]
    assert 0 <= top < bottom <= size[1]


def test_random_boxes_are_distributed_as_torchvisions() -> None:
    import torch

    width, height, count = 300, 200, 4000
    boxes = [random_box((width, height), draws(1, SHA, number)) for number in range(count)]
    mine = np.array([box for box, _ in boxes])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        image = picture(width, height)
        parameters = transforms.RandomResizedCrop.get_params
        theirs = np.array([parameters(image, list(SCALE), list(RATIO)) for _ in range(count)])
    ours = np.stack([mine[:, 1], mine[:, 0], mine[:, 3] - mine[:, 1], mine[:, 2] - mine[:, 0]], 1)
    error = np.sqrt((ours.var(axis=0) + theirs.var(axis=0)) / count)
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 4 * error).all()
    assert abs(np.mean([mirror for _, mirror in boxes]) - 0.5) < 4 * 0.5 / np.sqrt(count)


def test_random_crops_depend_on_their_key_alone() -> None:
    image = picture()

    def crops(name: str, seed: int = 0, content: str = SHA) -> np.ndarray:
        return np.stack(
            [np.asarray(c) for c in View(name, seed).cut(image, preprocessing(), content)]
        )

    four = crops("rrc:4")
    assert np.array_equal(four[:2], crops("rrc:2"))
    assert not np.array_equal(four, crops("rrc:4", seed=1))
    assert not np.array_equal(four, crops("rrc:4", content=SHA[::-1]))
    assert len({crop.tobytes() for crop in four}) == 4
    # stored features depend on these numbers: they must never change
    assert np.allclose(draws(7, "0123456789abcdef" * 4, 2)[:3], FIRST, rtol=0, atol=1e-15)


FIRST = [0.9844570683672751, 0.3594451191383684, 0.011036687705849313]


def test_identities_tell_views_apart() -> None:
    views = [View("center"), View("flip"), View("five"), View("rrc:2"), View("rrc:3")]
    more = [View("rrc:3", 5), View("cmo:2"), View("cmo:2", 5), View("cmo:2", 5, "other rows")]
    identities = [view.identity() for view in [*views, *more]]
    assert len({str(identity) for identity in identities}) == 9
    assert identities[0] == {"name": "center"}
    for identity in identities:
        assert View.from_identity(identity).identity() == identity
    with pytest.raises(UsageError, match="another geometry"):
        View.from_identity({**identities[2], "geometry": {}})
    assert [view.crops for view in views] == [1, 1, 5, 2, 3]


@pytest.mark.parametrize(
    "name", ["ten", "rrc", "rrc:0", "rrc:x", "rrc:999", "cmo", "cmo:0", "center:2", "", "../x"]
)
def test_unknown_views_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="view"):
        View(name)


@given(st.integers(0, 2**63), st.integers(0, 3), st.lists(st.binary(max_size=3), max_size=4))
def test_draws_of_many_images_are_those_of_each(seed: int, stream: int, files: list[bytes]) -> None:
    contents = ["", *(hashlib.sha256(data).hexdigest() for data in files)]
    found = draws_of(seed, contents, 3, stream)
    loop = [[draws(seed, content, k, stream)[:8] for k in range(3)] for content in contents]
    assert np.array_equal(found, np.array(loop))
