"""Which flags make which variant: a wrong flag here compares something else than the report says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.variants import (
    ALGORITHMS,
    Variant,
    VariantKind,
    hosts,
    plan_groups,
    speculation_flags,
    variants_for,
)

LENGTHS = (1, 2, 3, 5)
ANCHORS = {Variant(VariantKind.NOSPEC), Variant(VariantKind.TURBOSPEC)}


def flags(label: str, algorithm: str) -> dict[str, str]:
    """Flag to value; a flag without one maps to the next flag or nothing."""
    words = speculation_flags(Variant.parse(label), algorithm, "/draft", LENGTHS)
    return dict(zip(words, [*words[1:], ""], strict=True))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_nospec_is_launched_without_a_drafter(algorithm: str) -> None:
    assert speculation_flags(Variant.parse("nospec"), algorithm, "/draft", LENGTHS) == []


@pytest.mark.parametrize("algorithm", ["STANDALONE", "EAGLE"])
def test_a_fixed_length_is_the_launch_length(algorithm: str) -> None:
    given_flags = flags("fixed:3", algorithm)
    assert given_flags["--speculative-num-steps"] == "3"
    assert given_flags["--speculative-num-draft-tokens"] == "4"
    assert given_flags["--speculative-eagle-topk"] == "1"


def test_ngram_drafts_a_chain() -> None:
    given_flags = flags("fixed:3", "NGRAM")
    assert given_flags["--speculative-num-draft-tokens"] == "4"
    assert given_flags["--speculative-ngram-max-bfs-breadth"] == "1"
    assert "--speculative-num-steps" not in given_flags


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_turbospec_is_launched_like_the_largest_fixed_length(algorithm: str) -> None:
    assert flags("turbospec", algorithm) == flags("fixed:5", algorithm)


def test_adaptive_runs_with_its_own_default_lengths() -> None:
    given_flags = flags("adaptive", "EAGLE")
    assert "--speculative-adaptive" in given_flags
    assert "--speculative-num-steps" not in given_flags


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_adaptive_exists_for_eagle_only(algorithm: str) -> None:
    adaptive = Variant(VariantKind.ADAPTIVE)
    assert (adaptive in variants_for(algorithm, LENGTHS)) == (algorithm == "EAGLE")
    if algorithm != "EAGLE":
        with pytest.raises(ValueError, match="EAGLE only"):
            speculation_flags(adaptive, algorithm, "/draft", LENGTHS)


def test_a_missing_draft_model_is_named() -> None:
    with pytest.raises(ValueError, match="STANDALONE"):
        speculation_flags(Variant.parse("fixed:1"), "STANDALONE", None, LENGTHS)


@pytest.mark.parametrize("label", ["", "fixed", "fixed:0", "fixed:x", "nospec:1", "adaptive:2", "other"])
def test_labels_that_name_nothing_are_refused(label: str) -> None:
    with pytest.raises(ValueError, match="allowed are"):
        Variant.parse(label)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_labels_survive_a_round_trip(algorithm: str) -> None:
    variants = variants_for(algorithm, LENGTHS)
    assert [Variant.parse(variant.label) for variant in variants] == variants


@given(st.integers(3, 12), st.lists(st.integers(1, 20), unique=True, max_size=10))
def test_groups_fit_hold_everything_and_always_have_both_references(
    capacity: int, lengths: list[int]
) -> None:
    variants = variants_for("EAGLE", tuple(lengths))
    groups = plan_groups(variants, capacity)
    assert set().union(*groups) == set(variants)
    for group in groups:
        assert len(group) <= capacity
        assert set(group) >= ANCHORS


def test_memory_for_nothing_but_the_references_is_refused() -> None:
    with pytest.raises(ValueError, match="3 are needed"):
        plan_groups(variants_for("NGRAM", LENGTHS), 2)


def test_our_server_plays_the_fixed_lengths_too_if_there_is_one() -> None:
    variants = variants_for("EAGLE", (1, 3))
    alone = {variant.label: (variant.label,) for variant in variants}
    labels = {
        arms: {
            host.label: tuple(one.label for one in played)
            for host, played in hosts(variants, arms=arms).items()
        }
        for arms in (False, True)
    }
    assert labels[False] == alone
    assert labels[True] == {
        "nospec": ("nospec",),
        "adaptive": ("adaptive",),
        "turbospec": ("turbospec", "fixed:1", "fixed:3"),
    }
    fixed = [variant for variant in variants if variant.kind is VariantKind.FIXED]
    assert list(hosts(fixed, arms=True)) == fixed
