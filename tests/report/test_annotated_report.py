"""Pages about networks for masks, boxes and joints: numbers that are those of a test, pictures, and what is refused."""

import csv
import re
from pathlib import Path

import pytest
from PIL import Image
from trained import fit

from capsule_lightning.cli import main
from capsule_lightning.errors import InputError
from capsule_lightning.report import page, report
from capsule_lightning.sharing.export import export

KINDS = {
    "segmentation": (
        ("--data.scenes=16", "--data.val_scenes=9", "--data.test_scenes=9", "--data.image_size=32"),
        ("--data.min_size=8", "--data.max_size=12", "--model.net.types=[2,2,2]", "--model.net.dims=[4,4,4]"),
    ),
    "detection": (
        ("--data.scenes=16", "--data.val_scenes=9", "--data.test_scenes=9", "--data.image_size=32"),
        ("--data.min_size=8", "--data.max_size=12"),
    ),
    "pose": (
        ("--data.clips=16", "--data.frames=4", "--data.size=24", "--data.val_size=0.125", "--data.test_size=0.125"),
        ("--model.net.depth_hidden=[8]",),
    ),
}
HEADINGS = {
    "segmentation": ("What each pixel shows", "Worst masks", "Where capsules are long", "How long capsules are"),
    "detection": ("What was found", "Where capsules are long", "How long capsules are"),
    "pose": ("Where the joints are", "Worst images", "Joint by joint"),
}


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("segmentation", marks=pytest.mark.long(6)),
        pytest.param("detection", marks=pytest.mark.nightly),
        pytest.param("pose", marks=pytest.mark.nightly),
    ],
)
def test_a_page_tells_what_a_test_measures(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = fit(tmp_path, f"--config={kind}.yaml", *KINDS[kind][0], *KINDS[kind][1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    main(["test", f"--ckpt_path={checkpoint}", "--runs=tests", "--run_id=one", "--trainer.accelerator=cpu"])
    (table,) = tmp_path.glob("tests/*/*/test/metrics.csv")
    measured = {row["metric"]: float(row["value"]) for row in csv.DictReader(table.open())}
    shared = export(checkpoint, tmp_path / "net.safetensors").path
    for source in (checkpoint, shared):
        written = report(source, tmp_path / f"{source.stem}.html")
        content = written.path.read_text()
        said = dict(re.findall(r"<tr><th>test (\w+)<td>([-\d.e]+)", content))
        assert len(said) >= 2
        for name, value in said.items():
            assert float(value) == pytest.approx(measured[f"test/{name}"], rel=2e-3, abs=1e-4), name
        for heading in HEADINGS[kind]:
            assert f"<h2>{heading}</h2>" in content
        assert '<section id="panel" hidden>' in content
        assert not re.search(r"\{\{\w+\}\}", content)
        rows = list(csv.reader(written.table.open()))
        assert written.table.name == f"{source.stem}_numbers.csv"
        assert len(rows) == 1 + {"segmentation": 5, "detection": 10, "pose": 15}[kind]
        assert all(len(row) == len(rows[0]) for row in rows)
    Image.new("L", (20, 30), 90).save(tmp_path / "a.png")
    own = report(shared, tmp_path / "own.html", images=tmp_path / "a.png")
    content = own.path.read_text()
    assert "1 of which nothing is known" in content
    assert "<th>test " not in content
    with pytest.raises(InputError, match=r"is made on the spot|no clip of motion"):
        report(shared, tmp_path / "x.html", root=str(tmp_path))
    if kind == "segmentation":
        main(["report", f"--ckpt_path={checkpoint}"])
        assert (checkpoint.parents[1] / "report.html").is_file()
    assert page.usual_place(shared, True) == Path("net.html")
