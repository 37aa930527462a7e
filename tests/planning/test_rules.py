"""The syntax of a rule: lists in braces, ranges, lists with names, references, and braces that are meant."""

import pytest

from lmsae.planning.rules import MOST_ROWS, Piece, Reference, Values, parse_rule


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("{16,32, 64 }", [Values(["16", "32", "64"])]),
        ("{16}", [Values(["16"])]),
        ("{1e-3, 3e-4}", [Values(["1e-3", "3e-4"])]),
        ("b.{0..2}.hook_{z, q}", ["b.", Values(["0", "1", "2"]), ".hook_", Values(["z", "q"])]),
        ("{0..12..5}", [Values(["0", "5", "10"])]),
        ("{2..0}", [Values(["2", "1", "0"])]),
        ("{-1..1}", [Values(["-1", "0", "1"])]),
        ("{0..2, 8}", [Values(["0", "1", "2", "8"])]),
        ("{a b, c}", [Values(["a b", "c"])]),
        ("{layer: 0..1}", [Values(["0", "1"], "layer")]),
        ("{layer:0..1}", [Values(["0", "1"], "layer")]),
        ("{v: a, b}", [Values(["a", "b"], "v")]),
        ("{builtin:a, other}", [Values(["builtin:a", "other"])]),
        ("x-{layer}.{sae.k}", ["x-", Reference("layer"), ".", Reference("sae.k")]),
        ("a{{b}}c", ["a", "{", "b", "}", "c"]),
        ("{a,b}}}", [Values(["a", "b"]), "}"]),
        ("", []),
    ],
)  # fmt: skip
def test_a_text_is_read_into_its_pieces(text: str, pieces: list[Piece]) -> None:
    assert parse_rule(text) == pieces


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{16,32", "a { without its }; write {{ for a brace that is meant"),
        ("16}", "a } without its {; write }} for a brace that is meant"),
        ("{a,{b,c}}", "found {a,{b,c: braces in braces"),
        ("{16,,32}", "found {16,,32}: a value of the list is missing; write null"),
        ("{16,}", "a value of the list is missing"),
        ("{}", "a value of the list is missing"),
        ("{k: }", "a value of the list is missing"),
        ("{0..4..0}", "found 0..4..0: a step of 0 leads nowhere"),
        ("{0..999999999999}", f"a range has {MOST_ROWS:,} values at most"),
        ("{9..-999999999999}", f"a range has {MOST_ROWS:,} values at most"),
    ],
)
def test_a_text_that_is_no_rule_is_refused_with_what_is_wrong(text: str, fault: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        parse_rule(text)
    assert fault in str(error.value)


def test_a_range_may_be_as_long_as_a_rule_may_make_rows() -> None:
    (values,) = parse_rule(f"{{1..{MOST_ROWS}}}")
    assert isinstance(values, Values)
    assert len(values.items) == MOST_ROWS
