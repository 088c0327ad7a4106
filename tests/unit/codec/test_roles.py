from __future__ import annotations

import pytest

from coordexp.codec.roles import token_roles
from coordexp.codec.serialize import serialize_objects, with_end
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.types.records import DetObject
from coordexp.types.sequences import Role

TEXT = with_end(serialize_objects([DetObject("cat.", "bbox_2d", (1, 2, 3, 4)), DetObject("dog", "bbox_2d", (5, 6, 7, 8))]))


def roles_of(make_bpe, *fused: str) -> list[tuple[str, Role]]:
    tokens = TextTokenizer.of(make_bpe(*fused)).encode(TEXT.text)
    roles = token_roles(TEXT.spans, tokens.offsets)
    return [(TEXT.text[slice(*span)], role) for span, role in zip(tokens.offsets, roles, strict=True)]


def test_a_token_inside_one_span_has_its_role(make_bpe) -> None:
    found = roles_of(make_bpe)
    assert [text for text, role in found if role is Role.KEY] == ["1", "2"]
    assert "".join(text for text, role in found if role is Role.DESC) == "cat.dog"
    assert [text for text, role in found if role is Role.COORD] == [f"<|coord_{k}|>" for k in range(1, 9)]
    assert found[-2:] == [("}", Role.CLOSE), ("<|im_end|>", Role.END)]


@pytest.mark.parametrize(
    ("fused", "role"),
    [('"]}}', Role.CLOSE), ("}}", Role.CLOSE), ('.", ', Role.FORMAT), ('t."', Role.DESC), ('1": {"', Role.FORMAT), ('"]}, "object_2', Role.FORMAT)],
)
def test_a_fused_token_has_the_role_of_most_characters_unless_it_closes_the_answer(make_bpe, fused: str, role: Role) -> None:
    assert (fused, role) in roles_of(make_bpe, fused)


def test_on_a_tie_the_last_characters_decide(make_bpe) -> None:
    assert ('."', Role.FORMAT) in roles_of(make_bpe, '."')
