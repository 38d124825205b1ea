"""Settings chosen automatically: the candidates, the rules, and what the page says of them."""

from typing import Any

import pytest
import torch

from benchmarks.quality_parts.automatic import LABELS, automatic, choose, section
from benchmarks.quality_parts.candidates import CANDIDATES, FINE_TUNES, ranks_by_energy
from benchmarks.quality_parts.variants import RELEASED_ALPHA


def test_directions_go_where_the_energy_is() -> None:
    spectra = [torch.tensor([8.0, 1, 1]), torch.tensor([40.0, 35, 25])]
    assert ranks_by_energy(spectra, 4) == [1, 3]
    assert ranks_by_energy(spectra, 6) == [3, 3]


def test_every_task_keeps_a_direction() -> None:
    assert ranks_by_energy([torch.ones(50), torch.tensor([1.0])], 1) == [1, 1]


def test_every_candidate_but_the_published_one_has_a_label() -> None:
    assert list(LABELS) == [RELEASED_ALPHA.name, *(candidate.name for candidate in CANDIDATES[1:])]


def seed(better: float, agreement: float, displacement: float = 0.4) -> dict[str, Any]:
    """Columns of one seed of one task, in which ESD for ``conv1`` is ``better`` on test images alone."""

    def column(test: float, validation: float, score: float, agreed: float) -> dict[str, Any]:
        facts = {"displacement": score, "agreement": agreed}
        return {"test": {"a": test}, "validation": {"a": validation}, "facts": facts}

    names = [RELEASED_ALPHA.name, *(candidate.name for candidate in CANDIDATES)]
    columns = {name: column(0.4, 0.3, 0.5, 0.6) for name in names}
    columns["candidate_conv1"] = column(0.4 + better, 0.3, displacement, agreement)
    return columns | {FINE_TUNES.name: {"test": {"a": 0.8}, "validation": {"a": 0.5}, "facts": {}}}


def test_a_rule_takes_the_best_score_and_else_the_published_settings() -> None:
    assert choose(seed(0, agreement=0.7), "agreement") == "candidate_conv1"
    assert choose(seed(0, agreement=0.7), "displacement") == "candidate_published"
    assert choose(seed(0, agreement=0.6), "agreement") == "candidate_published"


def test_gains_are_of_validation_images_where_settings_were_thought_of_and_of_test_images_elsewhere() -> None:
    found = automatic([seed(0.08, agreement=0.7)], [seed(0.08, agreement=0.7), seed(-0.04, agreement=0.5)])
    assert found["candidates"]["candidate_conv1"]["development"] == [0]
    assert found["candidates"]["candidate_conv1"]["held_out"] == pytest.approx([0.1, -0.05])
    assert found["rules"]["agreement"]["held_out"] == pytest.approx([0.1, 0])
    assert found["rules"]["agreement"]["chosen"] == ["candidate_conv1"] * 2 + ["candidate_published"]


def page_of(better: float) -> str:
    found = automatic([seed(0, agreement=0.7)], [seed(better, agreement=0.7)])
    return "\n".join(section({8: found, 4: found}, [0], [1]))


def test_the_page_says_what_wins_on_held_out_seeds() -> None:
    assert "agreement with the fine-tunes." in page_of(0.08).splitlines()[-1]
    assert page_of(-0.08).splitlines()[-1].endswith("at T = 4 and T = 8: none.")


def test_there_is_no_section_where_no_candidate_was_measured() -> None:
    assert automatic([{}], []) == {}
    assert list(section({8: {}}, [0], [])) == []
