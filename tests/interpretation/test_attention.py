"""The positions that a lorsa's peaks attend to, against its pattern in float64 and its own codes."""

from pathlib import Path

import torch

from tests.interpretation.conftest import SIZE, describe_in, make_dictionary, make_text


def test_a_peak_attends_where_the_pattern_of_its_head_is_largest(tmp_path: Path) -> None:
    dictionary = make_dictionary("lorsa", lorsa_rotary=False)
    described = describe_in(tmp_path, dictionary, make_text())
    weights = {name: value.double() for name, value in dictionary.geometry.state_dict().items()}
    rows = described.contexts()
    assert any(row["kind"] == "top" for row in rows)
    for row in rows:
        if row["kind"] != "top":
            assert row["source_positions"] is None
            assert row["source_weights"] is None
            continue
        x, at = dictionary.read(described.x[row["context"] - 7]).double(), row["position"]
        head = row["latent"] // 8
        query = x[at] @ weights["W_Q"][head] + weights["b_Q"][head]
        keys = x[: at + 1] @ weights["W_K"][head] + weights["b_K"][head]
        pattern = (keys @ query / 2).softmax(0)  # d_qk is 4
        assert row["source_positions"] == pattern.argsort(descending=True).tolist()[:8]
        found = torch.tensor(row["source_weights"], dtype=torch.float64)
        torch.testing.assert_close(found, pattern[row["source_positions"]], rtol=1e-5, atol=1e-7)


def test_the_pattern_is_that_of_the_codes() -> None:
    """What latents see from a position is what `encode` sums there, rotary positions included."""
    dictionary = make_dictionary("lorsa")
    geometry = dictionary.geometry
    x = torch.randn(SIZE, 6, generator=torch.Generator().manual_seed(2))
    latents, positions = torch.arange(16), torch.full((16,), SIZE - 2)
    seen = geometry.attend(x, latents, positions)  # pyright: ignore[reportCallIssue]
    values = x @ geometry.state_dict()["W_enc"]
    pre = (seen * values.T).sum(1) + geometry.state_dict()["b_enc"]
    torch.testing.assert_close(pre, geometry.encode(x)[SIZE - 2], rtol=1e-4, atol=1e-5)
    assert (seen[:, SIZE - 1] == 0).all()
