"""Which samples are chosen, and their digest."""

import hashlib
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_core.errors import InputError
from esm_core.images import Sample, choose_samples, open_images, samples_digest

IDS = [f"cat/{i:03}.png" for i in range(100)]


def test_the_choice_is_by_rank_of_a_hash():
    by_hash = sorted(IDS, key=lambda i: hashlib.sha256(f"7\0{i}".encode()).hexdigest())
    assert choose_samples(IDS, 8, seed=7) == sorted(by_hash[:8])


def test_the_choice_never_changes():
    # Written down once: another result would make every stored digest miss.
    assert choose_samples(IDS, 3, seed=0) == ["cat/025.png", "cat/060.png", "cat/067.png"]


@given(st.permutations(IDS[:12]), st.integers(1, 12), st.integers(0, 2**40))
def test_the_order_of_the_listing_does_not_matter(shuffled, count, seed):
    chosen = choose_samples(shuffled, count, seed)
    assert chosen == choose_samples(IDS[:12], count, seed) == sorted(set(chosen))
    assert len(chosen) == count


def test_more_samples_keep_those_chosen_before():
    assert set(choose_samples(IDS, 4, seed=1)) < set(choose_samples(IDS, 9, seed=1))


def test_another_seed_chooses_others():
    assert choose_samples(IDS, 8, seed=0) != choose_samples(IDS, 8, seed=1)


def test_the_hash_seed_of_the_process_does_not_matter():
    code = "from esm_core.images.samples import *; print(choose_samples({f'{i}' for i in range(99)}, 5, 0))"
    said = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


def test_a_file_name_that_is_not_utf8_can_be_chosen():
    assert choose_samples(["caf\udce9.png"], 1, seed=0) == ["caf\udce9.png"]


def test_fewer_images_than_asked_for(here):
    with pytest.raises(InputError) as caught:
        choose_samples(IDS[:3], 4, 0, here)
    assert str(caught.value) == (
        f"{here}: holds 3 images, but 4 proxy samples were asked for; add images or lower `samples`."
    )


def test_no_images_at_all(here):
    with pytest.raises(InputError, match=r"holds no images \(looked for"):
        choose_samples([], 4, 0, here)


def test_a_count_of_none_is_a_mistake():
    with pytest.raises(ValueError, match="count"):
        choose_samples(IDS, 0, 0)


SAMPLES = [Sample("a", 0, b"A"), Sample("b", None, b"B")]


def test_the_digest_never_changes():
    assert samples_digest(SAMPLES) == "e4bc4eb200ba43aef04be0b217634e3971b02cb02dc95ac0a6059ec56f696e6a"


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(SAMPLES[:1], id="fewer"),
        pytest.param(SAMPLES[::-1], id="order"),
        pytest.param([replace(SAMPLES[0], id="c"), SAMPLES[1]], id="id"),
        pytest.param([replace(SAMPLES[0], label=1), SAMPLES[1]], id="label"),
        pytest.param([replace(SAMPLES[0], label=None), SAMPLES[1]], id="no label"),
        pytest.param([replace(SAMPLES[0], data=b"X"), SAMPLES[1]], id="bytes"),
    ],
)
def test_the_digest_tells_apart(other):
    assert samples_digest(other) != samples_digest(SAMPLES)


def test_the_digest_holds_one_sample_at_a_time():
    alive = []

    def stream():
        import weakref

        for number in range(5):
            sample = Sample(str(number), None, bytes(10))
            alive.append(weakref.ref(sample))
            yield sample
            del sample
            assert sum(ref() is not None for ref in alive) <= 1

    samples_digest(stream())


def test_the_digest_of_a_source_does_not_depend_on_where_it_lies(tmp_path, write_files):
    files = {"cat/a.png": b"a", "dog/b.png": b"b"}
    digests = {
        samples_digest(open_images(write_files(tmp_path / n, files)).read_all()) for n in ("one", "two")
    }
    assert len(digests) == 1
