"""Which rows belong together: the same image in all layers, or samples of the same seeds."""

import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Sequence

import torch

from interp.alignment.representations import Representation, some_ids
from interp.errors import InputError

# Image id of a sample: the weights that made it, and the seed and options that they were given.
SAMPLE = re.compile(r"^(?P<weights>.+?)@(?P<given>seed\d+(?:,.*)?)$", re.DOTALL)
# Id of a row of a matrix without ids, as `matrix_representations` names it.
_COUNTED = re.compile(r"^row \d+$")


def sample_set(representations: Sequence[Representation]) -> str:
    """ "real images", or "samples of <model>", read from the image ids.

    Raises InputError when the ids mix real images with samples, or samples of several weights.
    """
    found: Counter[str] = Counter()
    names: dict[str, str] = {"": "real images"}
    for one in representations:
        for name in one.ids:
            match = SAMPLE.match(name)
            weights = match["weights"] if match else ""
            found[weights] += 1
            names.setdefault(weights, f"samples of {one.maker or weights}")
    if len(found) != 1:
        parts = sorted((names[w], w, count) for w, count in found.items())
        twice = len({name for name, _, _ in parts}) < len(parts)
        counts = ", ".join(
            f"{count} {name}" + (f" ({w})" if twice and w else "") for name, w, count in parts
        )
        raise InputError(
            f"one comparison mixes sample sets ({counts}): compare each on its own, because a "
            "generator's samples and real images differ in distribution; a twin's samples pair "
            'with the trained model\'s as twins=, or among models by pairing="seed"'
        )
    return names[next(iter(found))]


def hash_ids(ids: Sequence[str]) -> str:
    """SHA-256 of the sorted image ids."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()


def given_to(image_id: str) -> str | None:
    """What a sample was made from, whatever the weights ("seed8,class=1,..."); None if real."""
    match = SAMPLE.match(image_id)
    return match["given"] if match else None


def pair_by_seed(one: Representation, like: Representation) -> Representation:
    """Give samples the ids of those that other weights made from the same seed and options.

    The images differ: what is compared then is how two networks answer to the same noise. Real
    images, and samples of which `like` has none, keep their ids.
    """
    if set(one.ids) <= set(like.ids):
        return one
    places = {given_to(name): i for i, name in enumerate(like.ids)}
    places.pop(None, None)
    found = [places.get(given_to(name)) for name in one.ids]
    if all(place is None for place in found):
        return one

    def take(own: Sequence[str], theirs: Sequence[str]) -> tuple[str, ...]:
        pairs = zip(own, found, strict=True)
        return tuple(name if place is None else theirs[place] for name, place in pairs)

    labels = {
        what: take(getattr(one, what) or one.ids, getattr(like, what))
        for what in ("clusters", "strata")
        if getattr(like, what)
    }
    how = f"{one.preprocessing}, paired by seed with {sample_set([like])}"
    ids = take(one.ids, like.ids)
    more = {"images": (), "maker": "", "noise": (), "preprocessing": how}
    return dataclasses.replace(one, ids=ids, **more, **labels)


def pair_by_noise(one: Representation, like: Representation) -> Representation:
    """Give each row the id of the image that `like` was shown under the same noise.

    With noise shared and images permuted, rows that then pair have the noise in common and not the
    image: what is compared is how much two networks agree on noise.
    Raises InputError where a row's noise has no partner, or an image meets itself more often than
    chance lets it.
    """
    if not one.noise or not like.noise:
        bare = one if not one.noise else like
        raise InputError(
            f"{bare.name} was shown no noise: shared_noise= takes encodings of diffusion models"
        )
    place = {noise: i for i, noise in enumerate(like.noise)}
    found = [place.get(noise) for noise in one.noise]
    if lost := sum(at is None for at in found):
        raise InputError(
            f"{lost} of {len(found)} noise draws of {one.name} are not among those of {like.name}: "
            'capture both with Encoding(noise="permuted") and the same seed, draws and images'
        )
    rows = [at for at in found if at is not None]
    ids = tuple(like.ids[at] for at in rows)
    same = sum(a == b for a, b in zip(ids, one.ids, strict=True))
    # A random permutation keeps one image on average, and more than ten with probability 1e-8.
    if one.model != like.model and same > 10:
        raise InputError(
            f"{same} images of {one.name} were shown under the same noise as in {like.name}: that "
            'compares images too; capture both with Encoding(noise="permuted")'
        )
    labels = {
        what: tuple(getattr(like, what)[at] for at in rows) if getattr(like, what) else ()
        for what in ("clusters", "strata")
    }
    how = f"{one.preprocessing}, paired by noise with {like.model}"
    return dataclasses.replace(one, ids=ids, images=(), preprocessing=how, **labels)


def pair_all_by_seed(
    representations: Sequence[Representation], images: Sequence[str] | None
) -> list[Representation]:
    """`pair_by_seed` with the first representation that has all of `images`, or the first."""
    whole = [one for one in representations if images and set(images) <= set(one.ids)]
    like = (whole or list(representations))[0]
    return [pair_by_seed(one, like) for one in representations]


def pair_up(
    representations: Sequence[Representation], images: Sequence[str] | None = None
) -> list[Representation]:
    """The same representations with rows in one common order: image ids, sorted.

    images: ids to keep (one half, a subsample); None: all, which then must be the same in all.
    Raises InputError naming how many and which ids differ, for one id that stands for different
    images, and for clusters or strata on which two representations disagree.
    """
    if not representations:
        raise InputError("nothing to compare: no representations")
    first = representations[0]
    wanted = sorted(set(first.ids if images is None else images))
    for one in representations:
        missing = sorted(set(wanted) - set(one.ids))
        extra = sorted(set(one.ids) - set(wanted)) if images is None else []
        if missing or extra:
            _check_counts(one, first)
            raise InputError(
                f"{one.name} and {first.name} are not on the same images: {one.name} lacks "
                f"{len(missing)} ({some_ids(missing)}) and has {len(extra)} others "
                f"({some_ids(extra)}); capture both on the same images, or name the common ones "
                "in images="
            )
    _check_images(representations)
    out = [_take(one, wanted) for one in representations]
    for what in ("clusters", "strata"):
        known = next((getattr(one, what) for one in out if any(getattr(one, what))), ())
        for one in out:
            if any(getattr(one, what)) and getattr(one, what) != known:
                odd = sum(a != b for a, b in zip(getattr(one, what), known, strict=True))
                raise InputError(f"{one.name} disagrees with the others on {odd} {what}")
        out = [dataclasses.replace(one, **{what: known}) for one in out]
    return out


def _check_counts(one: Representation, other: Representation) -> None:
    """Refuse matrices of different lengths in words of their own where rows have no names."""
    counted = all(_COUNTED.match(name) for name in (*one.ids[:1], *other.ids[:1]))
    if counted and len(one.ids) != len(other.ids):
        raise InputError(
            f"{one.name} has {len(one.ids)} rows and {other.name} has {len(other.ids)} rows: row i "
            "must be the same image in both; drop the rows that the other lacks, or name the rows "
            "by ids="
        )


def _check_images(representations: Sequence[Representation]) -> None:
    """Refuse one id for different real images of one size.

    Samples are left out: their ids already say all that decides them, and the same sample made on
    another device differs in the last bit of some pixels. So are sizes: models see one data set at
    several.
    """
    known: dict[tuple[str, str], tuple[str, str]] = {}
    # All layers of a store share one tuple.
    for one in {id(one.images): one for one in representations if one.images}.values():
        odd = []
        for name, image in zip(one.ids, one.images, strict=True):
            size, _, digest = image.partition(":")
            other, before = known.setdefault((name, size), (one.name, digest))
            if before != digest and given_to(name) is None:
                odd.append((name, other))
        if odd:
            ids = [name for name, _ in odd]
            raise InputError(
                f"{one.name} and {odd[0][1]} show different images under {len(odd)} ids "
                f"({some_ids(ids)}): give the images of each data set ids of their own"
            )


def _take(one: Representation, wanted: Sequence[str]) -> Representation:
    place = {name: i for i, name in enumerate(one.ids)}
    rows = [place[name] for name in wanted]
    labels = {
        what: tuple(getattr(one, what)[r] for r in rows) if getattr(one, what) else ()
        for what in ("clusters", "strata", "images", "noise")
    }
    return dataclasses.replace(one, x=one.x[torch.tensor(rows)], ids=tuple(wanted), **labels)
