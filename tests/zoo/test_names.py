from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strzoo.errors import UnknownNameError, UsageError
from strzoo.zoo.names import ModelName, resolve_name

IDS = ("resnet50_dense", "resnet50_str_81.27", "resnet50_str_90.23", "resnet50_str_98.05")

words = st.from_regex(r"[a-z][a-z0-9]{0,11}", fullmatch=True)
methods = st.from_regex(r"[a-z]{1,8}", fullmatch=True)
percents = st.none() | st.decimals(0, 100, places=2).map(str)


@given(words, methods, percents)
def test_an_id_survives_parsing_and_spelling(
    architecture: str, method: str, sparsity: str | None
) -> None:
    name = ModelName(architecture, method, sparsity)
    assert ModelName.parse(str(name)) == name
    assert resolve_name(name.identifier, [str(name)]) == str(name)
    assert name.identifier.isidentifier()


@given(st.sampled_from(IDS), st.integers(1, 30))
def test_a_prefix_resolves_exactly_when_one_id_begins_with_it(name: str, length: int) -> None:
    prefix = name[:length]
    matches = [other for other in IDS if other.startswith(prefix)]
    if len(matches) == 1:
        assert resolve_name(prefix, IDS) == matches[0]
    else:
        with pytest.raises(UnknownNameError) as error:
            resolve_name(prefix, IDS)
        assert all(other in str(error.value) for other in matches)


def test_an_unknown_name_lists_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"nearest: .*resnet50_str_90\.23"):
        resolve_name("resnet50_srt_90.23", IDS)


@pytest.mark.parametrize("text", ["", "resnet50", "resnet50_str_101", "ResNet50_str_90", "a b_c"])
def test_what_has_not_the_form_of_an_id_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a model id"):
        ModelName.parse(text)
