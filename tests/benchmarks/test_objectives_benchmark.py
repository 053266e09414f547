"""The benchmark of objectives runs, and says what it measured."""

import json

import objectives


def test_a_quick_run(tmp_path, capsys):
    path = tmp_path / "found.json"
    objectives.main(["--quick", "--image_size=8", "--cases=fgsm; free; pgd10", f"--output={path}"])
    document = json.loads(path.read_text())
    assert document["quick"] is True
    assert (document["image_size"], document["batch_size"]) == (8, 4)
    rows = {row["case"]: row for row in document["rows"]}
    assert list(rows) == ["fgsm", "free", "pgd10"]
    assert rows["fgsm"]["passes_over_pgd10"] == 5 / 23
    assert rows["free"]["passes_over_pgd10"] == 3 / 23
    assert rows["pgd10"]["time_over_pgd10"] == 1
    assert all(row["seconds"] > 0 for row in rows.values())
    assert "fgsm" in capsys.readouterr().out
