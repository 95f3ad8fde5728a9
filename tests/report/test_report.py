"""The page about a network: its numbers, what it refuses, and its panel in a browser."""

import base64
import json
import re
import shutil
import subprocess
import sys
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torch.testing import assert_close
from trained import LEAN

from capsule_lightning.analysis.intervals import wilson_interval
from capsule_lightning.cli import main
from capsule_lightning.data.digits import DigitsDataModule
from capsule_lightning.decoders.base import Decoder
from capsule_lightning.decoders.class_independent import ClassIndependentDecoder
from capsule_lightning.decoders.conv import ConvDecoder
from capsule_lightning.decoders.dense import DenseDecoder
from capsule_lightning.encoders.matrix import MatrixEncoder
from capsule_lightning.encoders.sabour import SabourEncoder
from capsule_lightning.errors import InputError
from capsule_lightning.figures.perturbations import perturbed_pictures
from capsule_lightning.models.capsnet import CapsNet
from capsule_lightning.models.cnn import BaselineCNN
from capsule_lightning.models.conv_capsnet import ConvCapsNet
from capsule_lightning.report import TrainedNetwork, build, page, pictures, report
from capsule_lightning.report.measured import spread_over_classes
from capsule_lightning.report.panel import decoder_layers
from capsule_lightning.report.trained_network import evaluation_pictures, load_from_file, load_from_run, monitored
from capsule_lightning.routing.inverted_dot_product import InvertedDotProductRouting

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NAMES = ["zero", "one & <all>", "two"]
DECODERS = {
    "dense": ((1, 9, 8), partial(DenseDecoder, hidden=(12, 7))),
    "conv": ((3, 9, 13), partial(ConvDecoder, channels=(6, 4))),
    "class independent": ((2, 10, 11), partial(ClassIndependentDecoder, channels=(3, 5, 4))),
}


class Plain(Decoder):
    """One that the page does not know."""

    def __init__(self, num_classes: int, dim: int, out_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.out_shape = out_shape

    def forward(self, poses: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.full((len(poses), *self.out_shape), 0.5)


def network(in_shape: tuple[int, ...], decoder: object) -> CapsNet:
    encoder = partial(SabourEncoder, channels=4, kernel_size=3, num_types=2, dim=4, primary_kernel_size=3)
    net = CapsNet(in_shape, 3, encoder=encoder, decoder=decoder, dim=5)
    for layer in net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):  # as if it had been trained
            layer.running_mean.uniform_(-0.3, 0.3)
            layer.running_var.uniform_(0.5, 2)
        if isinstance(layer, torch.nn.ConvTranspose2d):  # weights as they begin hardly pass the pose on
            layer.weight.data.mul_(2)
    return net.eval()


def trained(net: torch.nn.Module, count: int = 12) -> TrainedNetwork:
    pictures, labels = torch.rand(count, *net.in_shape), torch.arange(count) % 3
    return TrainedNetwork(
        net, lambda x: x, pictures, labels, NAMES, "A <b>title</b>", {"data": "none"}, "model: <x>", {}
    )


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and not drawn, which takes most of the time."""
    monkeypatch.setattr(pictures, "png", lambda figure: "data:image/png;base64,")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, undrawn: None) -> None:
    """A few images of each kind."""
    for module, name in ((page, "PROBED"), (pictures, "EMBEDDED"), (page, "ROUTED")):
        monkeypatch.setattr(module, name, 40)


class Elements(HTMLParser):
    """What a page is made of, and the addresses it names."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.addresses: list[str] = []
        self.hidden: dict[str, bool] = {}
        self._in = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in = tag
        given = dict(attrs)
        self.addresses += [given[name] or "" for name in ("src", "href") if name in given]
        if "id" in given:
            self.hidden[given["id"] or ""] = "hidden" in given

    def handle_data(self, data: str) -> None:
        if self._in in ("h1", "h2"):
            self.headings.append(data.strip())
        self._in = ""


def embedded(page: str) -> dict | None:
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.S)[1])


def test_page_has_every_picture_names_no_other_file_and_escapes_what_it_is_told() -> None:
    page, probe = build(trained(network(*DECODERS["dense"])))
    elements = Elements(page)
    assert "A <b>title</b>" not in page
    assert elements.headings[0] == "A <b>title</b>"
    assert "model: &lt;x&gt;" in page
    for heading in (
        "Change a capsule",
        "Reconstructions: most certain",
        "What each dimension does",
        "What each dimension encodes",
        "Who votes for what",
        "How long capsules are",
        "Poses in the plane",
        "What is taken for what",
    ):
        assert heading in elements.headings
    assert len(elements.addresses) >= 9
    for address in elements.addresses:
        kind, content = re.fullmatch(r"data:image/(png|gif);base64,(.+)", address).groups()
        assert base64.b64decode(content, validate=True).startswith(b"\x89PNG" if kind == "png" else b"GIF8")
    assert "http" not in re.sub(r"base64,[^\"]*", "", page).replace("http-equiv", "")
    assert f"<td>{float(probe.whole[0]):.3f}" in page
    assert not re.search(r"\{\{\w+\}\}", page)


def test_numbers_are_those_of_the_network(few: None) -> None:
    about = trained(network(*DECODERS["dense"]), 30)
    page, _ = build(about)
    with torch.no_grad():
        capsules = about.net(about.pictures)
    classes = capsules.activations.argmax(dim=-1)
    right = int((classes == about.labels).sum())
    low, high = wilson_interval(right, 30)
    assert f"{100 * right / 30:.2f} % ({right} of 30), 95 % interval {100 * low:.2f} to {100 * high:.2f} %" in page
    with torch.no_grad():
        errors = (about.net.reconstruct(capsules, classes) - about.pictures).square().sum(dim=(1, 2, 3))
    assert f"{float(errors.mean()):.2f} ±" in page
    parameters = sum(p.numel() for p in about.net.parameters())
    assert f"{parameters:,}, " in page


@pytest.mark.parametrize(
    "net", [network((1, 9, 8), None), BaselineCNN((1, 9, 8), 3, channels=(2,), hidden=(4,)).eval()]
)
def test_without_a_decoder_the_page_says_so_and_has_no_panel(net: torch.nn.Module, few: None) -> None:
    page, _ = build(trained(net))
    assert Elements(page).hidden["panel"]
    assert embedded(page) is None
    assert "no decoder" in page
    assert "Reconstructions" not in page


def test_layers_that_run_side_by_side_have_no_pictures_of_votes(undrawn: None) -> None:
    options = {"types": (3, 2), "kernel_sizes": (3, 2), "strides": (1, 1), "dim": 4, "coordinates": False}
    encoder, routing = partial(MatrixEncoder, channels=4, num_types=2, dim=4), InvertedDotProductRouting
    for schedule, count in (("sequential", 1), ("concurrent", 0)):
        net = ConvCapsNet(
            (1, 14, 14), 3, encoder=encoder, routing=routing, class_routing=routing, schedule=schedule,
            share_class_votes=False, **options,
        )  # fmt: skip
        assert len(list(pictures.coupling_pictures(trained(net.eval())))) == count


def test_a_decoder_that_the_page_cannot_compute_is_named(few: None) -> None:
    page, _ = build(trained(network((1, 9, 8), Plain)))
    assert Elements(page).hidden["panel"]
    assert "Plain, is not supported by the sliders" in page
    assert "What each dimension does" in page


def halves(text: str) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), np.float16).astype(np.float64))


def computed(layers: list[dict], x: torch.Tensor) -> torch.Tensor:
    """What the steps of a page mean, in PyTorch, for one vector."""
    for layer in layers:
        weight, bias = (halves(layer[name]) if name in layer else None for name in ("weight", "bias"))
        if layer["kind"] == "dense":
            x = F.linear(x.flatten(), weight.view(len(bias), -1), bias)
        elif layer["kind"] == "scale":
            x = x * weight.view(-1, 1, 1) + bias.view(-1, 1, 1)
        elif layer["kind"] == "enlarge":
            kernel = weight.view(len(x), layer["channels"], layer["kernel"], layer["kernel"])
            extra = layer["extra"]
            options = {"stride": layer["stride"], "padding": layer["padding"], "output_padding": max(extra, 0)}
            x = F.conv_transpose2d(x.unsqueeze(0), kernel, bias, **options)[0]
            x = x[:, : x.shape[1] + min(extra, 0), : x.shape[2] + min(extra, 0)]  # less than none: the last are cut off
        elif layer["kind"] == "map":
            x = x.view(*layer["shape"])
        elif layer["kind"] == "crop":
            top, left = (x.shape[1] - layer["rows"]) // 2, (x.shape[2] - layer["columns"]) // 2
            x = x[:, top : top + layer["rows"], left : left + layer["columns"]]
        else:
            x = {"relu": torch.relu, "sigmoid": torch.sigmoid, "clamp": partial(torch.clamp, min=0, max=1)}[
                layer["kind"]
            ](x)
    return x


@pytest.mark.parametrize("name", DECODERS)
def test_embedded_steps_are_the_decoder(name: str) -> None:
    net = network(*DECODERS[name])
    pose = torch.rand(5, dtype=torch.float64) - 0.5
    x = pose
    if name != "class independent":
        x = torch.zeros(15, dtype=torch.float64)
        x[5:10] = pose
    expected = perturbed_pictures(net.decoder, pose.float(), 1, 3, (0.0,))[0, 0]
    found = computed(decoder_layers(net.decoder), x).view(net.in_shape)
    assert expected.std() > 0.005
    assert_close(found.float(), expected, atol=2e-3, rtol=0)


WATCH = """<script>
const said = [];
addEventListener("error", event => said.push(String(event.message)));
addEventListener("unhandledrejection", event => said.push(String(event.reason)));
document.addEventListener("securitypolicyviolation", event => said.push("blocked " + event.blockedURI));
for (const kind of ["error", "warn"]) console[kind] = (...words) => said.push(words.join(" "));
</script>"""
MOVE = """<script>
const get = id => document.getElementById(id), seen = [];
const look = () => {
  const canvas = get("output"), rgba = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  seen.push({size: [canvas.width, canvas.height], rgba: Array.from(rgba), length: get("length").value,
    values: [0, 1, 2, 3, 4].map(n => Number(get("slider" + n).value)), about: get("about").textContent});
};
look();
get("choices").children[4].click(); look();
get("class").value = "1"; get("class").dispatchEvent(new Event("change")); look();
get("slider2").value = Number(get("slider2").value) + 0.2; get("slider2").dispatchEvent(new Event("input")); look();
get("reset").click(); look();
const out = document.createElement("pre");
out.id = "result";
out.textContent = JSON.stringify({said, seen, wide: document.documentElement.scrollWidth,
  asked: performance.getEntriesByType("resource").map(entry => entry.name).filter(name => !name.startsWith("data:"))});
document.body.append(out);
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("name", DECODERS)
def test_in_a_browser_the_sliders_move_the_picture_that_the_decoder_makes(name: str, few: None, tmp_path: Path) -> None:
    about = trained(network(*DECODERS[name]))
    page, _ = build(about)
    path = tmp_path / "page.html"
    path.write_text(page.replace("<meta name=", f"{WATCH}<meta name=", 1).replace("</body>", f"{MOVE}</body>"))
    words = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=500,900",
        f"--user-data-dir={tmp_path / 'user'}",
    ]
    done = subprocess.run(
        [CHROMIUM, *words, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    result = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.S)
    assert result is not None, done.stdout[-500:] + done.stderr[-500:]
    found = json.loads(result[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert found["said"] == []
    assert found["asked"] == []
    assert found["wide"] <= 500  # nothing makes a phone scroll sideways

    chosen = spread_over_classes(about.labels, 20)
    with torch.no_grad():
        capsules = about.net(about.pictures[chosen])
    first, fifth = (int(capsules.activations[n].argmax()) for n in (0, 4))
    moved = capsules.poses[4, 1] + torch.tensor([0, 0, 0.2, 0, 0])
    expected = [
        (capsules.poses[0, first], first),
        (capsules.poses[4, fifth], fifth),
        (capsules.poses[4, 1], 1),
        (moved, 1),
    ]
    expected.append(expected[2])
    rows, columns = about.net.in_shape[1:]
    for view, (pose, label) in zip(found["seen"], expected, strict=True):
        picture = perturbed_pictures(about.net.decoder, pose, label, 3, (0.0,))[0, 0]
        gray = picture[:1].expand(3, -1, -1) if len(picture) < 3 else picture
        pixels = torch.tensor(view["rgba"]).view(rows, columns, 4)
        assert view["size"] == [columns, rows]
        assert (pixels[..., 3] == 255).all()
        assert_close(pixels[..., :3] / 255, gray.movedim(0, -1), atol=0.5 / 255 + 2e-3, rtol=0)
        np.testing.assert_allclose(view["values"], pose, atol=1e-5)
        assert float(view["length"]) == pytest.approx(float(pose.norm()), abs=0.006)
    assert found["seen"][2]["rgba"] != found["seen"][3]["rgba"]
    assert found["seen"][2]["rgba"] == found["seen"][4]["rgba"]
    label = NAMES[int(about.labels[chosen[4]])]
    assert found["seen"][1]["about"].startswith(f"input: {label}, taken for {NAMES[fifth]}")


def test_each_class_gives_as_many_images_as_another() -> None:
    labels = torch.tensor([2, 2, 0, 2, 1, 0, 2, 1, 2])
    assert spread_over_classes(labels, 6).tolist() == [2, 5, 4, 7, 0, 1]
    assert spread_over_classes(labels, 2).tolist() == [2, 4]  # fewer than there are classes
    assert spread_over_classes(labels, 100).tolist() == [2, 5, 4, 7, 0, 1, 3, 6, 8]


def test_of_very_many_test_images_every_third() -> None:
    data = DigitsDataModule(batch_size=50)
    data.setup("test")
    pictures, labels, total = evaluation_pictures(data, most=140)
    images, all_labels = data.load("test")
    assert total == 360
    assert_close(pictures, images[::3].float() / 255)
    assert_close(labels, all_labels[::3])
    assert len(evaluation_pictures(data)[1]) == 360


def test_curves_are_read_from_the_runs_metrics(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    assert monitored(path) == {}
    path.write_text("time,step,metric,value\n1.0,9,lr,0.1\n1.0,9,train/agreement,0.5\n2.0,19,train/agreement,0.75\n")
    assert monitored(path) == {"agreement": [(9, 0.5), (19, 0.75)]}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of training on the embedded digits; its last checkpoint."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        patch.delenv("CAPSULE_LIGHTNING_RUN_ID", raising=False)
        patch.setattr(sys, "argv", ["capsule_lightning"])
        patch.chdir(folder)
        limits = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1")
        others = (
            "--trainer.accelerator=cpu",
            LEAN,
            "--trainer.callbacks+=RoutingMonitor",
        )
        main(["fit", "--config", "digits.yaml", "--test_after_fit=false", "--run_id=one", *limits, *others])
    (path,) = folder.glob("runs/*/one/checkpoints/last.ckpt")
    return path


def test_a_run_is_reported_with_its_data_and_configuration(
    checkpoint: Path, few: None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    main(["report", "--ckpt_path", str(checkpoint)])
    path = checkpoint.parents[1] / "report.html"
    assert str(path) in capsys.readouterr().out
    page = path.read_text()
    assert "digits, 360 test images" in page
    assert "DigitsDataModule" in page
    assert "Routing over training" in page
    assert re.search(r"trained with<td>capsule_lightning [\d.]+", page)
    assert len(embedded(page)["labels"]) == 20
    table = (checkpoint.parents[1] / "report_probe.csv").read_text().splitlines()
    assert table[0].startswith("dimension,rotation,scale")
    assert len(table) == 18
    with pytest.raises(SystemExit):
        main(["report", "--ckpt_path", str(checkpoint)])
    assert "report.html exists" in capsys.readouterr().err
    alone = tmp_path / "last.ckpt"
    shutil.copy(checkpoint, alone)
    assert load_from_run(alone).facts["data"] == "digits, 360 test images"  # which it states itself
    older = torch.load(alone, weights_only=True)
    del older["trained_on"]
    torch.save(older, tmp_path / "older.ckpt")
    with pytest.raises(InputError, match=r"no config\.yaml of its run"):
        report(tmp_path / "older.ckpt")


@pytest.mark.nightly
def test_a_shared_network_is_reported_with_its_data_or_a_folder_of_images(
    checkpoint: Path, few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared" / "net.safetensors"
    shared.parent.mkdir()
    monkeypatch.chdir(tmp_path)
    main(["export", "--ckpt_path", str(checkpoint), "--output", str(shared)])
    assert report(shared).path == Path("net.html")
    assert "digits, 360 test images" in Path("net.html").read_text()
    for digit in range(10):
        (tmp_path / "images" / str(digit)).mkdir(parents=True)
        for n in range(3):
            Image.new("L", (8, 8), 20 * digit + n).save(tmp_path / "images" / str(digit) / f"{n}.png")
    written = report(shared, tmp_path / "page.html", images=tmp_path / "images")
    page = written.path.read_text()
    assert written.size == len(page.encode())
    assert "of 30)" in page
    assert written.table == tmp_path / "page_probe.csv"


def test_the_shipped_network_has_digits_to_show_where_mnist_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CAPSULE_LIGHTNING_DATA", raising=False)
    about = load_from_file("efficient_capsnet_mnist")
    assert about.pictures.shape == (360, 1, 28, 28)
    assert set(about.labels.bincount().tolist()) <= {35, 36, 37}
    assert "360 digits of scikit-learn" in about.facts["data"]
    assert (about.net(about.pictures).activations.argmax(dim=-1) == about.labels).float().mean() > 0.9
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="mnist were not found"):
        load_from_file("efficient_capsnet_mnist", root=str(tmp_path / "elsewhere"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no run with a checkpoint below runs"),
        (("--ckpt", "x"), "no option '--ckpt'; expected"),
        (("--ckpt_path", "nowhere.ckpt"), "no such checkpoint"),
        (("--ckpt_path", "nowhere.safetensors"), "no such file"),
        (("--ckpt_path", "nowhere.safetensors", "--output", "x.pdf"), "ends in .html"),
    ],
)
def test_what_cannot_be_reported_is_said(
    words: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["report", *words])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
