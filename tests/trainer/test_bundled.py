"""Several runs one after another in one process: each is what it is alone, and one that fails
spares the rest."""

from pathlib import Path

import tiny

from tokenlaw.results_db.record import RunDir, read_endpoint


def lay_out(home: Path) -> list[RunDir]:
    """Runs that would notice what another one left: generators of random numbers, their
    precision, a cache of data; the third cannot be done.
    """
    tokenizer = tiny.lay_out(home, "tokenizer", tiny.varied_tokenizer())
    codes = tiny.lay_out(home, "codes", tiny.codes(), {"tokenizer": tokenizer})
    wrong = {**tiny.data(), "digest": "0" * 64}
    above = {"codes": codes}
    return [
        tokenizer,
        codes,
        tiny.lay_out(home, "tokenizer", tiny.tokenizer(data=wrong)),
        tiny.lay_out(home, "tokenizer", tiny.crt()),
        tiny.lay_out(home, "generator", tiny.generator(numerics={"precision": "bf16"}), above),
        tiny.lay_out(home, "generator", tiny.generator({"width": 64}), above),
    ]


def test_bundled_runs_equal_solo_runs(tmp_path: Path) -> None:
    bundle, solo = lay_out(tmp_path / "bundle"), lay_out(tmp_path / "solo")
    done = tiny.run_command(*bundle)
    assert done.returncode == 2 and len(done.stdout.splitlines()) == 6, done.stderr
    assert "digest" in done.stderr and read_endpoint(bundle[2]) is None
    # Alone, and in an order that leaves other things behind.
    for number in (0, 3, 1, 5, 4):
        assert tiny.do(solo[number]).outcome == "done"
        tiny.assert_same(bundle[number], solo[number])
